//! `sealcast sub`: messages to stdout or to a file.

mod format;
mod sink;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use sealcast_proto::{Offset, TopicId};
use sealcast_subscriber::{Event, Item, Outages, StartAt, SubscribeOptions, Subscriber, Subscription};
use tokio::time::Instant;

use super::Global;
use super::failure::{Exit, Failure};
use super::keys::IdentityArg;
use super::links::{PathArg, TopicArg};
use super::say::{count, hint, say};
use super::signals::Stop;
use super::times::{self, Start};
use format::Format;
use sink::{Sink, Written};

/// How long what was written may wait to be saved: what a kill in between repeats on stdout. A file is exact.
const SAVE_EVERY: Duration = Duration::from_millis(200);

/// Subscribe: write each message and a newline
///
/// Goes on where the last run of this identity, topic and state directory ended; the first run begins with what comes
/// from now on. What is missing, cut off or forged is said on standard error.
#[derive(Debug, Args)]
pub(crate) struct Subscribe {
    #[command(flatten)]
    topic: TopicArg,
    #[command(flatten)]
    identity: IdentityArg,
    /// Where to begin: resume, earliest, latest, an offset, a time (2026-10-01T12:00:00Z) or -10m
    /// [default: resume, the first time latest]
    #[arg(long, value_name = "START", value_parser = times::start, allow_hyphen_values = true, env = "SEALCAST_FROM")]
    from: Option<Start>,
    /// End after this many messages
    #[arg(short = 'n', long, value_name = "COUNT", env = "SEALCAST_COUNT")]
    count: Option<u64>,
    /// End when no message came for this long; exit code 6 if -n was not reached
    #[arg(long, value_name = "DURATION", value_parser = times::duration, env = "SEALCAST_WAIT")]
    wait: Option<Duration>,
    /// End when everything the broker holds was read
    #[arg(long, env = "SEALCAST_EXIT_AT_END", value_parser = FalseyValueParser::new())]
    exit_at_end: bool,
    /// Write a JSON object a line, for messages and for gaps and the like
    #[arg(long, env = "SEALCAST_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
    /// Write a NUL instead of a newline after each message
    #[arg(short = '0', long = "nul", env = "SEALCAST_NUL", value_parser = FalseyValueParser::new())]
    nul: bool,
    /// Write to this file; a run that resumes cuts off what was not committed, so that each message is there once
    #[arg(short, long, value_name = "FILE", env = "SEALCAST_OUTPUT")]
    output: Option<PathBuf>,
    #[command(flatten)]
    path: PathArg,
}

impl Subscribe {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let link = self.topic.read()?;
        let identity = Arc::new(self.identity.read()?);
        let from = match self.from {
            None | Some(Start::Resume) => StartAt::Resume,
            Some(Start::Earliest) => StartAt::Earliest,
            Some(Start::Latest) => StartAt::Latest,
            Some(Start::Offset(offset)) => StartAt::Offset(Offset(offset)),
            Some(Start::Time(ms)) => StartAt::Time(ms),
        };
        if self.json && self.nul {
            return Err(
                Failure::usage("--json and -0 cannot stand together").hint("an object is always a line")
            );
        }
        let anew = from != StartAt::Resume;
        let options = SubscribeOptions { from, until_head: self.exit_at_end };
        let mut stop = Stop::listen();
        let subscriber = Subscriber::with_options(identity, global.state()?, self.path.options());
        let mut subscription = tokio::select! {
            subscription = subscriber.subscribe(&link, options) => subscription?,
            () = stop.asked() => return Ok(()),
        };
        let sink = match &self.output {
            None => Sink::stdout(),
            Some(path) => Sink::file(path, subscription.tag().as_deref(), anew)?,
        };
        say!("subscribed at offset {}", subscription.start_offset());
        let format = match (self.json, self.nul) {
            (true, _) => Format::Json,
            (false, true) => Format::Raw(0),
            (false, false) => Format::Raw(b'\n'),
        };
        let outages = subscription.outages();
        let mut reader = Reader {
            topic: link.topic,
            format,
            sink,
            messages: 0,
            bad: 0,
            hinted: false,
            unsaved: None,
            outages,
        };
        // From here on a kill resumes here, not at whatever is the newest by then.
        let begun = tokio::select! {
            saved = reader.save(&mut subscription) => saved.map(|()| None),
            () = stop.asked() => Ok(Some(Ended::Done)),
            () = until(self.wait.map(|wait| Instant::now() + wait)) => Ok(Some(Ended::Waited)),
        };
        // Where nothing came there is nothing to save, and perhaps no place yet.
        let reads = matches!(begun, Ok(None));
        let ended = match begun {
            Ok(None) => reader.read(&mut subscription, &mut stop, self.count, self.wait).await,
            Ok(Some(ended)) => Ok(ended),
            Err(failure) => Err(failure),
        };
        // What was written is saved. After a failure to write, the cursor stays where it was: it comes again.
        let saved = match &ended {
            Ok(_) if reads => reader.save(&mut subscription).await,
            _ => Ok(()),
        };
        let closed = subscription.close().await.map_err(Failure::from);
        subscriber.close().await;
        let failure = ended?.failure(&reader, self.count, self.wait);
        saved.and(closed)?;
        failure.map_or(Ok(()), Err)
    }
}

/// Why reading ended, where nothing failed.
#[derive(Debug)]
enum Ended {
    /// `-n` was reached, the end was, a signal came, or nobody reads stdout any more.
    Done,
    /// `--wait` ran out.
    Waited,
    /// The subscription said why it ended.
    Terminal(Event),
}

impl Ended {
    /// What the exit code must tell all the same.
    fn failure(self, reader: &Reader, wanted: Option<u64>, wait: Option<Duration>) -> Option<Failure> {
        if let Self::Terminal(event) = self {
            return Some(event.into());
        }
        if reader.bad > 0 {
            let failure = Failure::new(
                Exit::Crypto,
                format!("{} of a publisher did not open", count(reader.bad, "batch")),
            );
            return Some(failure.hint("the lines above name it: tell its operator"));
        }
        let (Self::Waited, Some(wanted), Some(wait)) = (self, wanted, wait) else { return None };
        let (got, wait) = (reader.messages, times::span(times::millis(wait)));
        let failure = Failure::new(
            Exit::TimedOut,
            format!("{got} of {} came; then none for {wait}", count(wanted, "message")),
        );
        Some(failure.hint("--wait waits longer; what came is taken: the next run goes on after it"))
    }
}

struct Reader {
    topic: TopicId,
    format: Format,
    sink: Sink,
    messages: u64,
    bad: u64,
    /// Said once why messages can be locked.
    hinted: bool,
    /// Since when something that was taken is not saved.
    unsaved: Option<Instant>,
    outages: Option<Outages>,
}

impl Reader {
    async fn read(
        &mut self,
        subscription: &mut Subscription,
        stop: &mut Stop,
        count: Option<u64>,
        wait: Option<Duration>,
    ) -> Result<Ended, Failure> {
        let mut last_message = Instant::now();
        while count.is_none_or(|count| self.messages < count) {
            let save_at = self.unsaved.map(|since| since + SAVE_EVERY);
            let give_up_at = wait.map(|wait| last_message + wait);
            tokio::select! {
                biased;
                () = stop.asked() => return Ok(Ended::Done),
                () = until(save_at), if save_at.is_some_and(|at| at <= Instant::now()) => self.save(subscription).await?,
                item = subscription.next() => match item {
                    None => return Ok(Ended::Done),
                    Some(item) => {
                        if item.is_ok() {
                            last_message = Instant::now();
                        }
                        if let Some(ended) = self.take(item)? {
                            return Ok(ended);
                        }
                        if self.sink.is_full() && self.sink.flush()? == Written::ReaderGone {
                            return Ok(Ended::Done);
                        }
                    }
                },
                // Nothing more has come: what is there goes out at once.
                () = std::future::ready(()), if self.sink.is_waiting() => {
                    if self.sink.flush()? == Written::ReaderGone {
                        return Ok(Ended::Done);
                    }
                }
                () = until(save_at) => self.save(subscription).await?,
                () = until(give_up_at) => return Ok(Ended::Waited),
                outage = change(&mut self.outages) => match outage {
                    Some(why) => say!("no connection: {why}; trying again"),
                    None => say!("connected again"),
                },
            }
        }
        Ok(Ended::Done)
    }

    fn take(&mut self, item: Item) -> Result<Option<Ended>, Failure> {
        let terminal = self.sink.is_terminal();
        match item {
            Ok(received) => {
                self.format.message(&received, terminal, self.sink.buffer())?;
                self.messages += 1;
            }
            Err(event) => {
                let shown = self.format.event(self.topic, &event, self.sink.buffer())?;
                if let Event::BadBatch { .. } = event {
                    self.bad += 1;
                }
                if event.is_terminal() {
                    return Ok(Some(Ended::Terminal(event)));
                }
                if !shown {
                    say!("{event}");
                    if matches!(event, Event::Locked { .. }) && !self.hinted {
                        self.hinted = true;
                        hint!(
                            "sealed before it was added, or for keys in another --state: one identity has one"
                        );
                    }
                }
            }
        }
        self.unsaved.get_or_insert_with(Instant::now);
        Ok(None)
    }

    /// Writes what waits, and saves the cursor as of there.
    async fn save(&mut self, subscription: &mut Subscription) -> Result<(), Failure> {
        self.unsaved = None;
        if self.sink.flush()? == Written::Yes {
            subscription.set_tag(self.sink.tag()?)?;
            subscription.commit().await?;
        }
        Ok(())
    }
}

/// The next beginning or end of an outage.
async fn change(outages: &mut Option<Outages>) -> Option<Arc<str>> {
    match outages {
        Some(outages) => outages.next().await,
        None => std::future::pending().await,
    }
}

/// Until then; for ever where there is no then.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then).await,
        None => std::future::pending().await,
    }
}
