//! Publishing where an acknowledgement means that it is on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use sealcast::{BrokerLink, Identity, Level, Policy, Publisher, Role, State, TopicAdmin};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use crate::Peer;
use crate::tcp;

#[derive(Args)]
pub struct Durable {
    /// ours or nats (JetStream)
    peer: Peer,
    #[arg(long)]
    server: String,
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Messages on their way at once
    #[arg(long, default_value_t = 4096)]
    in_flight: usize,
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

impl Durable {
    pub async fn run(&self) -> Result<Value> {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let publishing = async {
            match self.peer {
                Peer::Ours => self.ours(&acknowledged).await,
                Peer::Nats => self.jetstream(&acknowledged).await,
                _ => bail!("ours or nats"),
            }
        };
        let measuring = async {
            while acknowledged.load(Relaxed) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            sleep(Duration::from_secs_f64(self.warm_up)).await;
            let (from, had) = (Instant::now(), acknowledged.load(Relaxed));
            sleep(Duration::from_secs_f64(self.seconds)).await;
            let (took, count) = (from.elapsed().as_secs_f64(), acknowledged.load(Relaxed) - had);
            Ok(json!({
                "size": self.size,
                "in_flight": self.in_flight,
                "seconds": took,
                "acknowledged": count,
                "acknowledged_per_s": count as f64 / took,
            }))
        };
        tokio::select! {
            published = publishing => published.and_then(|()| bail!("the publisher ended")),
            result = measuring => result,
        }
    }

    async fn ours(&self, acknowledged: &AtomicU64) -> Result<()> {
        let broker: BrokerLink = self.server.parse()?;
        let owner = Arc::new(Identity::generate(&mut rand::rng()));
        let reader = Identity::generate(&mut rand::rng()).public();
        let state = State::memory();
        let members = [(reader, Role::Reader)];
        let admin =
            TopicAdmin::create(&broker, "durable", owner.clone(), &state, Policy::default(), &members)
                .await?;
        let topic = Publisher::new(owner, state).topic(admin.link()).await?;
        let places = Arc::new(Semaphore::new(self.in_flight));
        let (sent, mut waiting) = mpsc::unbounded_channel();
        let sending = async {
            loop {
                let place = Arc::clone(&places).acquire_owned().await?;
                let pending = topic.send(vec![7; self.size]).await?;
                sent.send((pending, place))?;
            }
        };
        let answers = async {
            while let Some((pending, place)) = waiting.recv().await {
                ensure!(pending.await?.level == Level::Durable, "it was not synced");
                drop(place);
                acknowledged.fetch_add(1, Relaxed);
            }
            Ok(())
        };
        tokio::select! {
            ended = sending => ended,
            ended = answers => ended,
        }
    }

    async fn jetstream(&self, acknowledged: &AtomicU64) -> Result<()> {
        let (read, mut write) = tokio::io::split(tcp::connect(Peer::Nats, &self.server).await?);
        let mut read = BufReader::new(read);
        let stream =
            r#"{"name":"B","subjects":["d"],"storage":"file","retention":"limits","num_replicas":1}"#;
        let ask = format!("SUB r.* 1\r\nPUB $JS.API.STREAM.CREATE.B r.0 {}\r\n{stream}\r\n", stream.len());
        write.write_all(ask.as_bytes()).await?;
        write.flush().await?;
        let created = answer(&mut read).await?;
        ensure!(!created.contains("\"error\""), "{created}");
        let places = Arc::new(Semaphore::new(self.in_flight));
        let sending = async {
            let mut frame = format!("PUB d r.1 {}\r\n", self.size).into_bytes();
            frame.resize(frame.len() + self.size, 7);
            frame.extend_from_slice(b"\r\n");
            let mut buffer = Vec::new();
            loop {
                // One, and as many as there are places for now.
                places.acquire().await?.forget();
                buffer.clear();
                buffer.extend_from_slice(&frame);
                while buffer.len() < 64 << 10
                    && let Ok(place) = places.try_acquire()
                {
                    place.forget();
                    buffer.extend_from_slice(&frame);
                }
                write.write_all(&buffer).await?;
                write.flush().await?;
            }
        };
        let answers = async {
            loop {
                let text = answer(&mut read).await?;
                ensure!(text.contains("\"seq\""), "{text}");
                places.add_permits(1);
                acknowledged.fetch_add(1, Relaxed);
            }
        };
        tokio::select! {
            ended = sending => ended,
            ended = answers => ended,
        }
    }
}

/// The payload of the next message to us.
async fn answer(read: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Result<String> {
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(read.read_line(&mut line).await? > 0, "cut off");
        ensure!(!line.starts_with("-ERR"), "{line}");
        let Some(rest) = line.trim_end().strip_prefix("MSG ") else { continue };
        let len: usize = rest.rsplit(' ').next().context("a length")?.parse()?;
        let mut payload = vec![0; len + 2];
        read.read_exact(&mut payload).await?;
        payload.truncate(len);
        return Ok(String::from_utf8(payload)?);
    }
}
