//! `sealcast pub`: publish a message, a file, or a message a line.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use clap::builder::FalseyValueParser;
use futures_util::FutureExt as _;
use sealcast_envelope::Message;
use sealcast_proto::frame::Level;
use sealcast_proto::{TopicLink, limits};
use sealcast_publisher::{Pending, PublishError, Publisher, Receipt, Topic};
use tokio::sync::mpsc;

use super::Global;
use super::failure::{Exit, Failure};
use super::keys::IdentityArg;
use super::links::{PathArg, topic_link};
use super::say::{count, grouped, hint, say};
use super::signals::Stop;
use super::{input, times};

/// Members above which a fresh epoch a message is worth a word: its table is then over 56 KB.
const MANY_MEMBERS: usize = 1000;

/// Publish: a message, standard input as one message (the default), or a message a line
///
/// Returns when the broker has acknowledged everything, so that a zero exit means that nothing can get lost.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// The topic's link, in quotes; may be left out where SEALCAST_LINK holds it
    #[arg(value_name = "LINK")]
    link: Option<String>,
    /// The message. Others on this machine can see it while the command runs: standard input is the place for secrets
    #[arg(value_name = "MESSAGE")]
    message: Option<String>,
    #[command(flatten)]
    identity: IdentityArg,
    /// Publish each line of the input as a message, without waiting for one before sending the next
    #[arg(long, env = "SEALCAST_LINES", value_parser = FalseyValueParser::new())]
    lines: bool,
    /// Read this file instead of standard input
    #[arg(long, value_name = "FILE", env = "SEALCAST_FILE")]
    file: Option<PathBuf>,
    /// A header, inside the ciphertext; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", env = "SEALCAST_HEADER")]
    headers: Vec<String>,
    /// A media type such as application/json, inside the ciphertext
    #[arg(long, value_name = "TYPE", env = "SEALCAST_CONTENT_TYPE")]
    content_type: Option<String>,
    /// Give up when nothing was acknowledged for this long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = times::duration, env = "SEALCAST_TIMEOUT")]
    timeout: Duration,
    #[command(flatten)]
    path: PathArg,
}

/// What every message of a run is given.
struct Template {
    headers: BTreeMap<String, String>,
    content_type: String,
}

impl Template {
    fn message(&self, payload: Bytes) -> Message {
        let mut message = Message::new(payload).with_content_type(self.content_type.clone());
        message.headers.clone_from(&self.headers);
        message
    }
}

impl Publish {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let (link, message) = link_and_message(self.link, self.message)?;
        if message.is_some() && (self.lines || self.file.is_some()) {
            return Err(Failure::usage(
                "a message stands on the command line, and --lines or --file asks for others",
            )
            .hint("one of them: MESSAGE, or --lines and --file F"));
        }
        let identity = Arc::new(self.identity.read()?);
        let template = Template {
            headers: headers(&self.headers)?,
            content_type: self.content_type.unwrap_or_default(),
        };
        // What cannot be published is refused before anybody is bothered with it.
        let one = match message {
            _ if self.lines => None,
            Some(text) => Some(Bytes::from(text)),
            None => {
                if self.file.is_none() && std::io::stdin().is_terminal() {
                    say!("type the message; Ctrl-D ends it");
                }
                Some(input::whole(input::source(self.file.as_deref())?)?)
            }
        };
        let one = one.map(|payload| template.message(payload));
        if let Some(message) = &one {
            message.encode().map_err(PublishError::from)?;
        }
        let source = if self.lines { Some(input::source(self.file.as_deref())?) } else { None };

        let mut stop = Stop::listen();
        let publisher = Publisher::with_options(identity, global.state()?, self.path.options());
        let topic = tokio::select! {
            topic = within(self.timeout, publisher.topic(&link)) => topic?,
            () = stop.asked() => return Err(interrupted()),
        };
        let members = topic.status().members;
        let mut tally = Tally::default();
        let mut left = None;
        let publishing = async {
            match (one, source) {
                (Some(message), _) => {
                    if members > MANY_MEMBERS {
                        hint!(
                            "each run wraps a new key for {}; `pub --lines` wraps it once for many messages",
                            count(members as u64, "member")
                        );
                    }
                    publish_one(&topic, message, self.timeout, &mut stop, &mut tally, &mut left).await
                }
                (None, Some(source)) => {
                    publish_lines(
                        &topic,
                        input::lines(source),
                        &template,
                        self.timeout,
                        &mut stop,
                        &mut tally,
                    )
                    .await
                }
                (None, None) => Ok(()),
            }
        };
        let published = tokio::select! {
            published = publishing => published.map_err(|failure| explained(failure, &topic, self.timeout)),
            never = say_standstill(&topic) => match never {},
        };
        // Even after a failure: members learn that nothing more will come. Not after a broker's long silence.
        let closed = match &published {
            Err(failure) if failure.exit() == Exit::TimedOut => Ok(()),
            _ => within(self.timeout, topic.close()).await,
        };
        publisher.close().await;
        // Interrupted while it was on its way: closing saw it through, or did not.
        let published = match left.and_then(|pending: Pending| pending.now_or_never()) {
            Some(Ok(receipt)) => {
                tally.add(receipt);
                Ok(())
            }
            _ => published,
        };
        tally.say();
        published.and(closed)
    }
}

async fn publish_one(
    topic: &Topic,
    message: Message,
    timeout: Duration,
    stop: &mut Stop,
    tally: &mut Tally,
    left: &mut Option<Pending>,
) -> Result<(), Failure> {
    let mut pending = within(timeout, topic.send(message)).await?;
    tokio::select! {
        receipt = within(timeout, &mut pending) => tally.add(receipt?),
        () = stop.asked() => {
            *left = Some(pending);
            return Err(interrupted());
        }
    }
    Ok(())
}

/// Reads on while what was read is being sealed, sent and acknowledged. The topic's own back-pressure bounds what is
/// on its way.
async fn publish_lines(
    topic: &Topic,
    mut lines: mpsc::Receiver<Result<Bytes, Failure>>,
    template: &Template,
    timeout: Duration,
    stop: &mut Stop,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let (on_their_way, mut waiting) = mpsc::unbounded_channel::<Pending>();
    let acknowledged = async {
        // In order: while the first waits, so do the others. Hence none waits longer than this without progress.
        while let Some(pending) = waiting.recv().await {
            tally.add(within(timeout, pending).await?);
        }
        Ok::<(), Failure>(())
    };
    let sent = async {
        let ended = loop {
            let line = tokio::select! {
                line = lines.recv() => line,
                () = stop.asked() => break Err(interrupted()),
            };
            match line {
                None => break Ok(()),
                Some(Err(failure)) => break Err(failure),
                Some(Ok(line)) => {
                    let handed_over = tokio::select! {
                        handed_over = topic.send(template.message(line)) => handed_over,
                        () = stop.asked() => break Err(interrupted()),
                    };
                    match handed_over {
                        Ok(pending) => drop(on_their_way.send(pending)),
                        Err(error) => break Err(error.into()),
                    }
                }
            }
        };
        // Whatever ended the input, what was taken from it is waited for.
        drop(on_their_way);
        ended
    };
    let (mut sent, mut acknowledged) = (pin!(sent), pin!(acknowledged));
    tokio::select! {
        result = &mut acknowledged => match result {
            Ok(()) => sent.await,
            Err(failure) => Err(failure),
        },
        ended = &mut sent => acknowledged.await.and(ended),
    }
}

/// Waits for it as long as `--timeout` says.
async fn within<T, E: Into<Failure>>(
    timeout: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(Failure::new(
            Exit::TimedOut,
            format!(
                "no acknowledgement within {}: whether what was left is published is not known",
                times::span(times::millis(timeout))
            ),
        )
        .hint("see whether the broker runs and has disk space; --timeout waits longer")),
    }
}

/// Says at once when nothing gets through: `--timeout` may be long.
async fn say_standstill(topic: &Topic) -> Infallible {
    let standstill = topic.standstill().await;
    say!("{standstill}");
    std::future::pending().await
}

/// A time-out with its cause, where that is known.
fn explained(failure: Failure, topic: &Topic, timeout: Duration) -> Failure {
    match topic.status().standstill {
        Some(standstill) if failure.exit() == Exit::TimedOut => Failure::new(
            Exit::TimedOut,
            format!("no acknowledgement within {}: {standstill}", times::span(times::millis(timeout))),
        )
        .hint(standstill.hint()),
        _ => failure,
    }
}

fn interrupted() -> Failure {
    Failure::new(Exit::Failure, "interrupted before everything was published")
}

/// What was acknowledged.
#[derive(Default)]
struct Tally {
    messages: u64,
    first: Option<Receipt>,
    last: Option<Receipt>,
}

impl Tally {
    fn add(&mut self, receipt: Receipt) {
        self.messages += 1;
        self.first.get_or_insert(receipt);
        self.last = Some(receipt);
    }

    fn say(&self) {
        let (Some(first), Some(last)) = (&self.first, &self.last) else {
            return say!("published nothing");
        };
        let seqs = match self.messages {
            1 => first.seq.to_string(),
            _ => format!("{}–{}", first.seq, last.seq),
        };
        let level = match last.level {
            Level::Memory => "in the broker's memory",
            Level::Durable => "durable",
            Level::Replicated => "replicated",
        };
        say!("published {}, seq {seqs}, offset {}, {level}", count(self.messages, "message"), last.offset);
    }
}

/// `sealcast pub "hello"` with the link in the environment: the one argument is then the message.
fn link_and_message(
    first: Option<String>,
    second: Option<String>,
) -> Result<(TopicLink, Option<String>), Failure> {
    let from_environment = std::env::var("SEALCAST_LINK").ok().filter(|link| !link.is_empty());
    match (first, second, from_environment) {
        (Some(first), None, Some(link)) if !first.trim_start().starts_with("sealcast://") => {
            Ok((topic_link(Some(&link))?, Some(first)))
        }
        (Some(first), second, _) => Ok((topic_link(Some(&first))?, second)),
        (None, _, link) => Ok((topic_link(link.as_deref())?, None)),
    }
}

fn headers(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut headers = BTreeMap::new();
    for text in texts {
        let (name, value) =
            text.split_once('=').filter(|(name, _)| !name.trim().is_empty()).ok_or_else(|| {
                Failure::usage(format!("the header {text:?} is not NAME=VALUE"))
                    .hint("write it like -H type=order")
            })?;
        if headers.insert(name.trim().to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("the header {:?} stands twice", name.trim()))
                .hint("give each header once"));
        }
    }
    let len: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if len > limits::MAX_HEADERS_BYTES {
        let most = grouped(limits::MAX_HEADERS_BYTES as u64);
        return Err(Failure::usage(format!("the headers are longer than {most} bytes together"))
            .hint("put them in the message"));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_names_and_values() {
        let read = |texts: &[&str]| headers(&texts.iter().map(|text| text.to_string()).collect::<Vec<_>>());
        assert_eq!(
            read(&["a=1", "b=x=y", "c="]).unwrap().into_iter().collect::<Vec<_>>(),
            [("a".into(), "1".into()), ("b".into(), "x=y".into()), ("c".into(), String::new())]
        );
        for bad in [&["a"][..], &["=1"], &["a=1", "a=2"]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(read(&[&format!("a={}", "x".repeat(16 << 10))]).is_err());
    }
}
