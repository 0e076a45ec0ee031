//! `sealcast demo`: the main job in one command, with real processes, connections and files.

mod check;
mod reader;
mod show;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use sealcast_proto::policy::Policy;
use sealcast_proto::roster::Role;
use sealcast_proto::{Epoch, Identity};
use sealcast_publisher::{Pending, Publisher, Topic, TopicAdmin};
use sealcast_state::State;
use sealcast_subscriber::StartAt;

use self::reader::Reader;
use self::show::Show;
use super::failure::{Exit, Failure};
use super::input::check_len;
use super::own_broker::OwnBroker;
use super::say::{count, grouped};
use super::signals::Stop;

/// What is published unless `--file` names something else.
const TEXT: &str = include_str!("../../../README.md");
/// A text must have a line for each part's two halves.
const MIN_LINES: usize = 8;
/// All of a text is held in memory, by each reader, bytes.
const MAX_TEXT: usize = 16 << 20;
/// How long admins wait for the publisher.
const CONFIRM: Duration = Duration::from_secs(10);

/// See it work: a broker process, a publisher and four readers; a removal, a newcomer, a kill -9 of the broker
///
/// Publishes a text line by line, and verifies at the end that each member got exactly its part, byte for byte, and
/// that the broker's disk holds no line of it. Exits with 1 if anything differs.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Publish this text instead of the program's own README
    #[arg(long, value_name = "FILE", env = "SEALCAST_FILE")]
    file: Option<PathBuf>,
}

impl Demo {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let text = match &self.file {
            None => TEXT.as_bytes().to_vec(),
            Some(path) => std::fs::read(path).map_err(|error| {
                Failure::usage(format!("cannot read {}: {error}", path.display()))
                    .hint("--file takes any text")
            })?,
        };
        let lines = lines(&text)?;
        let dir = tempfile::Builder::new().prefix("sealcast-demo-").tempdir();
        let dir = dir.map_err(|error| Failure::io("make a temporary directory", &error))?;
        let mut stop = Stop::listen();
        tokio::select! {
            told = Story::begin(&lines, dir.path()) => told?.tell().await,
            () = stop.asked() => Err(Failure::new(Exit::Failure, "interrupted")),
        }
    }
}

fn lines(text: &[u8]) -> Result<Vec<Bytes>, Failure> {
    if text.len() > MAX_TEXT {
        return Err(Failure::usage(format!("the text is longer than {} bytes", grouped(MAX_TEXT as u64)))
            .hint("name a shorter --file"));
    }
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let lines: Vec<Bytes> = text.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice).collect();
    if lines.len() < MIN_LINES {
        return Err(
            Failure::usage(format!("the text has fewer than {MIN_LINES} lines")).hint("name a longer --file")
        );
    }
    for (number, line) in (1..).zip(&lines) {
        check_len(line, &format!("line {number}"))?;
    }
    Ok(lines)
}

/// Everybody in it.
struct Story<'a> {
    show: Show,
    began: Instant,
    lines: &'a [Bytes],
    /// The four parts of the text.
    parts: [Range<usize>; 4],
    broker: OwnBroker,
    state: State,
    admin: TopicAdmin,
    topic: Topic,
    ana: Reader,
    ben: Reader,
    cleo: Reader,
    dora: Reader,
}

impl<'a> Story<'a> {
    async fn begin(lines: &'a [Bytes], dir: &std::path::Path) -> Result<Self, Failure> {
        let show = Show::new();
        show.heading("A text goes from a publisher to its readers, through a broker that cannot read it");
        let began = Instant::now();
        let broker = OwnBroker::start(dir, &[]).await?;
        let data = broker.data().display();
        show.fact("broker", &format!("process {} at {}, data in {data}", broker.pid(), host(&broker)));
        let [ana, ben, cleo, dora] = ["ana", "ben", "cleo", "dora"].map(Reader::new);
        let owner = Arc::new(Identity::generate(&mut rand::rng()));
        let sender = Arc::new(Identity::generate(&mut rand::rng()));
        let state = State::dir(dir.join("state"))?;
        let mut members = vec![(sender.public(), Role::Publisher)];
        members.extend([&ana, &ben, &cleo].map(|reader| (reader.key(), Role::Reader)));
        let admin =
            TopicAdmin::create(broker.link(), "demo", owner, &state, Policy::default(), &members).await?;
        show.fact(
            "topic",
            &format!(
                "{}…, its owner, a publisher, and the readers ana, ben, cleo",
                admin.link().topic.short()
            ),
        );
        for reader in [&ana, &ben, &cleo] {
            reader.subscribe(admin.link(), &state, StartAt::Earliest).await?;
        }
        let topic = Publisher::new(sender, state.clone()).topic(admin.link()).await?;
        show.fact("text", &count(lines.len() as u64, "line"));
        let cut = |part: usize| lines.len() * part / 4;
        let parts = [0, 1, 2, 3].map(|part| cut(part)..cut(part + 1));
        Ok(Self { show, began, lines, parts, broker, state, admin, topic, ana, ben, cleo, dora })
    }

    async fn tell(mut self) -> Result<(), Failure> {
        self.everyone_reads().await?;
        self.ben_is_removed().await?;
        self.dora_is_added().await?;
        self.the_broker_is_killed().await?;
        self.verify().await
    }

    async fn everyone_reads(&self) -> Result<(), Failure> {
        self.show.heading("1  Ana, Ben and Cleo read");
        self.publish(self.parts[0].clone()).await?;
        self.read(0, &[&self.ana, &self.ben, &self.cleo]).await
    }

    async fn ben_is_removed(&mut self) -> Result<(), Failure> {
        self.show.heading("2  Ben is removed");
        let start = Instant::now();
        let confirmation = self.admin.remove(&[self.ben.key()], CONFIRM).await?;
        self.heard(&confirmation.unheard)?;
        let took = start.elapsed().as_millis();
        self.show.fact(
            "roster",
            &format!("entry {}; after {took} ms the publisher has signed that it knows", confirmation.seq),
        );
        self.publish(self.parts[1].clone()).await?;
        self.read(1, &[&self.ana, &self.cleo]).await?;
        self.ben.until("the word of its removal", |got| got.removed).await?;
        self.show.fact("ben", "was told that he is removed, and nothing else");
        Ok(())
    }

    async fn dora_is_added(&mut self) -> Result<(), Failure> {
        self.show.heading("3  Dora is added, and asks for everything from the beginning");
        let confirmation = self.admin.add(&[self.dora.key()], Role::Reader, CONFIRM).await?;
        self.heard(&confirmation.unheard)?;
        self.dora.subscribe(self.admin.link(), &self.state, StartAt::Earliest).await?;
        self.publish(self.parts[2].clone()).await?;
        self.read(2, &[&self.ana, &self.cleo, &self.dora]).await?;
        self.dora.until("the word that older messages are locked", |got| got.locked).await?;
        self.show.fact("dora", "was given the older messages too: they are locked to her");
        Ok(())
    }

    async fn the_broker_is_killed(&mut self) -> Result<(), Failure> {
        self.show.heading("4  The broker is killed midway (kill -9) and started again");
        let part = self.parts[3].clone();
        let half = part.start + part.len() / 2;
        let mut on_their_way = self.send(part.start..half).await?;
        self.ana.until("the first lines of this part", |got| got.messages.len() > part.start).await?;
        self.broker.kill().await?;
        self.show.fact("broker", "killed; the publisher goes on");
        on_their_way.extend(self.send(half..part.end).await?);
        self.broker.restart().await?;
        self.show.fact("broker", &format!("back as process {}", self.broker.pid()));
        acknowledged(on_their_way).await?;
        self.read(3, &[&self.ana, &self.cleo, &self.dora]).await
    }

    async fn verify(mut self) -> Result<(), Failure> {
        self.show.heading("What each of them holds");
        self.topic.close().await?;
        let from_dora = self.parts[2].start;
        let expected = [
            (&self.ana, 0..self.lines.len(), "every line, byte for byte"),
            (&self.cleo, 0..self.lines.len(), "every line, byte for byte"),
            (&self.ben, self.parts[0].clone(), "every line up to his removal, nothing after it"),
            (&self.dora, from_dora..self.lines.len(), "every line since she was added, nothing before"),
        ];
        let mut good = true;
        for (reader, range, text) in expected {
            let got = reader.got();
            let exact = check::is_exactly(&got, &self.lines[range.clone()]);
            let which = format!("{}–{}", range.start + 1, range.end);
            self.show.verdict(exact, reader.name, &format!("lines {which:<9} {text}"));
            for trouble in got.trouble {
                self.show.fact("", &trouble);
            }
            good &= exact;
        }
        let owner = self.admin.genesis().owner;
        self.admin.close().await;
        self.broker.kill().await?;
        let on_disk = check::search(self.broker.data(), self.lines, owner.as_bytes())?;
        let clean = on_disk.found.is_empty() && on_disk.control;
        self.show.verdict(
            clean,
            "broker",
            &format!(
                "{} in {} on its disk: {} of {} lines in the clear",
                count(on_disk.bytes, "byte"),
                count(on_disk.files as u64, "file"),
                on_disk.found.len(),
                on_disk.searched
            ),
        );
        for line in on_disk.found.iter().take(3) {
            self.show.fact("", &format!("{line:?}"));
        }
        if !on_disk.control {
            self.show.fact("", "not even the owner's public key was found: the search is at fault");
        }
        self.show.fact("took", &format!("{:.1} s", self.began.elapsed().as_secs_f32()));
        if good && clean {
            Ok(())
        } else {
            Err(Failure::new(Exit::Failure, "the demo did not end as it should"))
        }
    }

    async fn send(&self, range: Range<usize>) -> Result<Vec<Pending>, Failure> {
        let mut on_their_way = Vec::with_capacity(range.len());
        for line in &self.lines[range] {
            on_their_way.push(self.topic.send(line.clone()).await?);
        }
        Ok(on_their_way)
    }

    async fn publish(&self, range: Range<usize>) -> Result<(), Failure> {
        acknowledged(self.send(range).await?).await
    }

    /// Waits until these readers have a part, and shows under which epochs it came.
    async fn read(&self, part: usize, readers: &[&Reader]) -> Result<(), Failure> {
        let range = &self.parts[part];
        let mut shown = Vec::new();
        for reader in readers {
            let first = if reader.name == self.dora.name { self.parts[2].start } else { 0 };
            reader.until("its part", |got| got.messages.len() >= range.end - first).await?;
            shown.push(format!("{} {}", reader.name, range.len()));
        }
        // Ana was there all the time: what she counts as the second epoch is the second.
        let all = self.ana.got().messages;
        let numbers: BTreeSet<Epoch> = all.iter().map(|(epoch, _)| *epoch).collect();
        let here: BTreeSet<Epoch> = all[range.clone()].iter().map(|(epoch, _)| *epoch).collect();
        let ordinals = numbers.iter().zip(1..).filter(|(epoch, _)| here.contains(epoch));
        let ordinals: Vec<String> = ordinals.map(|(_, number): (_, u32)| number.to_string()).collect();
        let which = format!("{}–{}", range.start + 1, range.end);
        self.show.fact(
            "lines",
            &format!("{which:<9} key {:<4} read by {}", ordinals.join(", "), shown.join(", ")),
        );
        Ok(())
    }

    fn heard(&self, unheard: &[sealcast_proto::PublicKey]) -> Result<(), Failure> {
        if unheard.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(Exit::TimedOut, "the publisher was not heard in time"))
        }
    }
}

async fn acknowledged(on_their_way: Vec<Pending>) -> Result<(), Failure> {
    for pending in on_their_way {
        pending.await?;
    }
    Ok(())
}

fn host(broker: &OwnBroker) -> String {
    broker.link().hosts().iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(", ")
}
