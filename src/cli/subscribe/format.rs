//! How a message becomes bytes on stdout or in a file.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sealcast_proto::TopicId;
use sealcast_subscriber::{Event, Received};
use serde::Serialize;

use crate::cli::failure::{Exit, Failure};
use crate::cli::times::rfc3339;

/// What `sub` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The payload and this byte.
    Raw(u8),
    /// An object a line.
    Json,
}

#[derive(Serialize)]
struct JsonMessage<'a> {
    topic: String,
    publisher: String,
    epoch: u64,
    seq: u64,
    offset: u64,
    /// When the publisher says it was published; absent where it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    content_type: &'a str,
    headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

#[derive(Serialize)]
struct JsonEvent {
    event: &'static str,
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    /// The first seq after those concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    /// The same for people.
    text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    proof_base64: Vec<String>,
}

impl Format {
    /// Appends the message to `out`. For a terminal, nothing that could change it but text is let through.
    pub(crate) fn message(
        self,
        received: &Received,
        terminal: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match self {
            Self::Raw(_) if terminal && !is_printable(&received.message.payload) => Err(Failure::new(
                Exit::Failure,
                format!("message {} is binary, and stdout is a terminal", received.seq),
            )
            .hint("redirect it to a file, or use -o FILE or --json")),
            Self::Raw(end) => {
                out.extend_from_slice(&received.message.payload);
                out.push(end);
                Ok(())
            }
            Self::Json => {
                let message = &received.message;
                let text = std::str::from_utf8(&message.payload).ok();
                line(
                    &JsonMessage {
                        topic: received.topic.to_string(),
                        publisher: received.publisher.to_string(),
                        epoch: received.epoch.0,
                        seq: received.seq.0,
                        offset: received.offset.0,
                        time: (message.time_ms != 0).then(|| rfc3339(message.time_ms)),
                        content_type: &message.content_type,
                        headers: &message.headers,
                        payload: text,
                        payload_base64: text.is_none().then(|| STANDARD.encode(&message.payload)),
                    },
                    out,
                )
            }
        }
    }

    /// Appends the event where the format has a place for it; returns whether it has.
    pub(crate) fn event(self, topic: TopicId, event: &Event, out: &mut Vec<u8>) -> Result<bool, Failure> {
        if self != Self::Json {
            return Ok(false);
        }
        let (name, from, to) = match event {
            Event::Gap { from, to, .. } => ("gap", Some(from.0), to.map(|to| to.0)),
            Event::Stalled { .. } => ("stalled", None, None),
            Event::Truncated { .. } => ("truncated", None, None),
            Event::Ended { .. } => ("ended", None, None),
            Event::Locked { from, to, .. } => ("locked", Some(from.0), to.map(|to| to.0)),
            Event::BadBatch { from, to, .. } => ("bad_batch", Some(from.0), Some(to.0)),
            Event::Refused { .. } => ("refused", None, None),
            Event::StalePrekey { .. } => ("stale_prekey", None, None),
            Event::IdentityInUse => ("identity_in_use", None, None),
            Event::RosterStale => ("roster_stale", None, None),
            Event::Fork { .. } => ("fork", None, None),
            Event::Rollback { .. } => ("rollback", None, None),
            Event::Removed => ("removed", None, None),
            Event::NotAllowed { .. } => ("not_allowed", None, None),
            Event::Broker { .. } => ("broker", None, None),
            Event::State { .. } => ("state", None, None),
        };
        let proof = if let Event::Fork { proof, .. } = event { proof.as_slice() } else { &[] };
        let event = JsonEvent {
            event: name,
            topic: topic.to_string(),
            publisher: event.publisher().map(|publisher| publisher.to_string()),
            from,
            to,
            text: event.to_string(),
            proof_base64: proof.iter().map(|part| STANDARD.encode(part)).collect(),
        };
        line(&event, out).map(|()| true)
    }
}

fn line(value: &impl Serialize, out: &mut Vec<u8>) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value)
        .map_err(|error| Failure::new(Exit::Failure, error.to_string()))?;
    out.push(b'\n');
    Ok(())
}

/// Text without control characters other than newline, tab, and a carriage return before a line's end: a publisher
/// does not get to write escape sequences to a reader's terminal.
fn is_printable(payload: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(payload) else { return false };
    let text = text.strip_suffix('\r').unwrap_or(text).replace("\r\n", "\n");
    !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealcast_envelope::Message;
    use sealcast_proto::{Epoch, Identity, Offset, Seq};

    fn received(payload: &[u8]) -> Received {
        Received {
            topic: TopicId([7; 32]),
            publisher: Identity::from_seed(&[1; 32]).public(),
            epoch: Epoch(1_800_000_000_000),
            seq: Seq(3),
            offset: Offset(9),
            message: Message::new(payload.to_vec()).with_header("a", "b"),
        }
    }

    fn written(format: Format, payload: &[u8], terminal: bool) -> Option<String> {
        let mut out = Vec::new();
        format.message(&received(payload), terminal, &mut out).ok()?;
        Some(String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn payloads_go_out_as_they_are() {
        assert_eq!(written(Format::Raw(b'\n'), b"hi", false).unwrap(), "hi\n");
        assert_eq!(written(Format::Raw(0), b"a\nb", false).unwrap(), "a\nb\0");
        assert!(written(Format::Raw(b'\n'), &[0xff, 0], false).is_some());
    }

    #[test]
    fn a_terminal_gets_text_only() {
        for (payload, fine) in [
            (&b"text\twith \xc3\xbcmlaut\n"[..], true),
            (b"crlf\r\nline\r", true),
            (b"\x1b[31mred", false),
            (b"over\rwritten", false),
            (b"\xff\xfe", false),
            ("c1 \u{9b}31m".as_bytes(), false),
        ] {
            assert_eq!(written(Format::Raw(b'\n'), payload, true).is_some(), fine, "{payload:?}");
            assert!(written(Format::Json, payload, true).unwrap().is_ascii() || fine || payload[0] == b'c');
        }
    }

    #[test]
    fn json_holds_everything() {
        let text: serde_json::Value =
            serde_json::from_str(&written(Format::Json, b"hi", false).unwrap()).unwrap();
        assert_eq!(text["payload"], "hi");
        assert_eq!(text["seq"], 3);
        assert_eq!(text["offset"], 9);
        assert_eq!(text["headers"]["a"], "b");
        assert!(text.get("time").is_none() && text.get("payload_base64").is_none());
        let binary: serde_json::Value =
            serde_json::from_str(&written(Format::Json, &[0xff], false).unwrap()).unwrap();
        assert_eq!(binary["payload_base64"], "/w==");
        let mut out = Vec::new();
        let publisher = received(b"").publisher;
        let gap = Event::Gap {
            publisher,
            from: Seq(1),
            to: Some(Seq(5)),
            why: sealcast_subscriber::GapReason::Missing,
        };
        assert!(Format::Json.event(TopicId([7; 32]), &gap, &mut out).unwrap());
        let gap: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&gap["event"], &gap["from"], &gap["to"]), (&"gap".into(), &1.into(), &5.into()));
        assert!(!Format::Raw(0).event(TopicId([7; 32]), &Event::Removed, &mut out).unwrap());
    }
}
