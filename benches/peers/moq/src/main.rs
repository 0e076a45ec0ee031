//! moq-relay and a load for it. A message is a frame, a batch is a group, and a group is a stream of QUIC: so media are
//! carried, and so the relay is asked to carry ours.

#[path = "../../load/src/load.rs"]
mod load;
#[path = "../../load/src/plan.rs"]
mod plan;
#[path = "../../load/src/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use moq_net::track::Subscription;
use moq_net::{Timestamp, broadcast, group, track};
use moq_tokio::{Client, Connection, connect, origin};
use serde_json::Value;
use url::Url;

use crate::load::{Load, message, number};
use crate::plan::Fanout;

const BROADCAST: &str = "load";
const TRACK: &str = "messages";
/// How old a group may get before the relay gives it up. It must give up none: the publisher waits for the slowest.
const MAX_AGE: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The relay as its own program starts it, with a certificate of its own making and everybody admitted
    Relay {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// One publisher, many subscribers
    Fanout(Fanout),
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum Peer {
    Moq,
}

fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        // Both runtimes as the others have them: the relay's own, the load's of one thread.
        Command::Relay { listen } => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(relay(listen))
        }
        Command::Fanout(plan) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            println!("{}", runtime.block_on(fanout(&plan))?);
            Ok(())
        }
    }
}

async fn relay(listen: SocketAddr) -> Result<()> {
    let mut config = moq_relay::Config::default();
    config.listen.bind = Some(listen.to_string().parse()?);
    config.listen.tls.generate = vec!["localhost".into()];
    config.auth.public = vec![moq_auth::Pattern::all()];
    let relay = moq_relay::Relay::load(config).await?;
    println!("{listen}");
    relay.run().await
}

async fn fanout(plan: &Fanout) -> Result<Value> {
    let load = Load::new(plan);
    let url: Url = format!("moqt://{}/", plan.server).parse()?;
    let client = || {
        let mut config = connect::Config::default();
        config.tls.insecure = Some(true);
        config.once = Some(true);
        config.bind = Some("127.0.0.1:0".parse().expect("an address"));
        config.init(Default::default())
    };
    let published = origin::spawn();
    let broadcast = published.create_broadcast(BROADCAST)?;
    let track = broadcast.create_track(TRACK, track::Info::default().with_max_age(MAX_AGE))?;
    broadcast.announce(Default::default())?;
    let publisher = client()?.with_publisher(&published).connect(url.clone()).established().await?;
    let mut keep: Vec<Connection> = vec![publisher];
    for subscriber in 0..plan.subscribers {
        let (connection, groups) = subscribe(client()?, url.clone()).await?;
        keep.push(connection);
        let (load, size) = (Arc::clone(&load), plan.size);
        tokio::spawn(async move {
            or_end(read(groups, subscriber, size, &load).await);
        });
    }
    let size = plan.size;
    let publish = load.publish(plan, async |first, count| {
        let mut group = track.append_group()?;
        load.sending(count);
        for of in first..first + count {
            let mut payload = Vec::with_capacity(size);
            message(of, size, &mut payload);
            group.write_frame(Timestamp::now(), payload)?;
        }
        Ok(group.finish()?)
    });
    tokio::select! {
        published = publish => published.and_then(|()| bail!("the publisher ended")),
        result = load.measure(plan) => result,
    }
}

async fn subscribe(client: Client, url: Url) -> Result<(Connection, track::Subscriber)> {
    let origin = origin::spawn();
    let connection = client.with_subscriber(origin.clone()).connect(url).established().await?;
    let broadcast: broadcast::Consumer = origin.consume().routed_broadcast(BROADCAST).await?;
    let wish = Subscription::default().with_max_age(MAX_AGE);
    Ok((connection, broadcast.track(TRACK)?.subscribe(wish).await?))
}

/// Groups may overtake each other: each is read as it comes, and counted once all before it are whole.
async fn read(mut groups: track::Subscriber, subscriber: usize, size: usize, load: &Arc<Load>) -> Result<()> {
    let whole = Arc::new(Mutex::new(BTreeMap::new()));
    while let Some(group) = groups.recv_group().await? {
        let (load, whole) = (Arc::clone(load), Arc::clone(&whole));
        tokio::spawn(async move {
            let counted = async {
                let (first, count) = read_group(group, size).await?;
                let mut whole = whole.lock().expect("no panic");
                whole.insert(first, count);
                while let Some(count) = whole.remove(&load.next(subscriber)) {
                    load.got(subscriber, load.next(subscriber), count)?;
                }
                Ok(())
            };
            or_end(counted.await);
        });
    }
    bail!("subscriber {subscriber} was cut off")
}

/// The number of a group's first message, and how many there are: the next ones.
async fn read_group(mut group: group::Consumer, size: usize) -> Result<(u64, u64)> {
    let (mut first, mut count) = (None, 0);
    while let Some(frame) = group.read_frame().await? {
        let got = number(&frame.payload);
        let due = *first.get_or_insert(got) + count;
        ensure!(got == due && frame.payload.len() == size, "message {got} where {due} was due");
        count += 1;
    }
    Ok((first.context("an empty group")?, count))
}

fn or_end(ended: Result<()>) {
    if let Err(error) = ended {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}
