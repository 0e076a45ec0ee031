//! `--records`: every record as it comes, held by nobody.

use sealcast_proto::audit::{Sighted, Sighting};
use serde::Serialize;

use super::json::{self, mode};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::to_stdout;
use crate::cli::say::{bytes, count, grouped};
use crate::cli::times::rfc3339;

/// Written at once, bytes.
const PIECE: usize = 64 << 10;

/// Writes records, if they are wanted, as lines or as the first member of the JSON object.
pub(super) struct Records {
    wanted: bool,
    json: bool,
    any: bool,
    out: Vec<u8>,
}

#[derive(Serialize)]
struct Record {
    offset: u64,
    holds: bool,
    #[serde(flatten)]
    what: What,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum What {
    Roster {
        entry: u64,
        signer: String,
        time: String,
    },
    Header {
        publisher: String,
        epoch: u64,
        mode: &'static str,
        slots: u32,
        time: String,
    },
    Batch {
        publisher: Option<String>,
        epoch: u64,
        batch_no: u64,
        first_seq: u64,
        messages: u32,
        ciphertext_bytes: u64,
        end: bool,
        time: String,
    },
    Unreadable,
}

impl Records {
    pub(super) fn new(wanted: bool, json: bool) -> Self {
        let mut out = Vec::new();
        match (wanted, json) {
            (true, true) => out.extend_from_slice(b"{\"records\":["),
            (true, false) => {
                out.extend_from_slice(
                    format!(
                        "{:>8}  {:<24}  {:<6}  {:<12}  {}\n",
                        "offset", "signed at", "kind", "signed by", "what"
                    )
                    .as_bytes(),
                );
            }
            _ => {}
        }
        Self { wanted, json, any: false, out }
    }

    pub(super) fn list(&mut self, sighting: &Sighting) -> Result<(), Failure> {
        if !self.wanted {
            return Ok(());
        }
        if self.json {
            if self.any {
                self.out.push(b',');
            }
            write_json(&mut self.out, &record(sighting))?;
        } else {
            self.out.extend_from_slice(line(sighting).as_bytes());
        }
        self.any = true;
        if self.out.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    /// Ends the list of lines.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        if self.wanted {
            self.out.push(b'\n');
        }
        self.flush()
    }

    /// Ends the JSON object with everything else.
    pub(super) fn close(&mut self, rest: &json::Shown) -> Result<(), Failure> {
        let from = self.out.len();
        write_json(&mut self.out, rest)?;
        if self.wanted {
            // One object: the rest's brace makes way for the comma.
            self.out.splice(from..from + 1, *b"],");
        }
        self.out.push(b'\n');
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Failure> {
        to_stdout(&std::mem::take(&mut self.out))
    }
}

fn write_json(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(out, value).map_err(|error| Failure::new(Exit::Failure, error.to_string()))
}

fn record(sighting: &Sighting) -> Record {
    let what = match &sighting.what {
        Sighted::Roster { seq, signer, time_ms } => {
            What::Roster { entry: seq.0, signer: signer.to_string(), time: rfc3339(*time_ms) }
        }
        Sighted::Header { publisher, epoch, mode: how, slots, time_ms } => What::Header {
            publisher: publisher.to_string(),
            epoch: epoch.0,
            mode: mode(*how),
            slots: *slots,
            time: rfc3339(*time_ms),
        },
        Sighted::Batch { publisher, epoch, batch_no, first_seq, messages, time_ms, ciphertext, end } => {
            What::Batch {
                publisher: publisher.map(|publisher| publisher.to_string()),
                epoch: epoch.0,
                batch_no: batch_no.0,
                first_seq: first_seq.0,
                messages: *messages,
                ciphertext_bytes: *ciphertext,
                end: *end,
                time: rfc3339(*time_ms),
            }
        }
        Sighted::Unreadable => What::Unreadable,
    };
    Record { offset: sighting.offset.0, holds: sighting.holds, what }
}

fn line(sighting: &Sighting) -> String {
    let (kind, time, by, what) = match &sighting.what {
        Sighted::Roster { seq, signer, time_ms } => {
            ("roster", Some(*time_ms), signer.short(), format!("entry {seq}"))
        }
        Sighted::Header { publisher, epoch, mode: how, slots, time_ms } => {
            let slots = count((*slots).into(), "slot");
            ("header", Some(*time_ms), publisher.short(), format!("epoch {epoch}, {}, {slots}", mode(*how)))
        }
        Sighted::Batch { publisher, epoch, batch_no, messages, time_ms, ciphertext, end, .. } => {
            let by = publisher.map_or("nobody".into(), |publisher| publisher.short());
            let (messages, size) = (count((*messages).into(), "message"), bytes(*ciphertext));
            let end = if *end { ", END" } else { "" };
            let what = format!("epoch {epoch}, batch {batch_no}, {messages}, {size}{end}");
            ("batch", Some(*time_ms), by, what)
        }
        Sighted::Unreadable => ("?", None, String::new(), "unreadable".into()),
    };
    let (offset, time) = (grouped(sighting.offset.0), time.map_or(String::new(), rfc3339));
    let not = if sighting.holds { "" } else { "  DOES NOT HOLD" };
    format!("{offset:>8}  {time:<24}  {kind:<6}  {by:<12}  {what}{not}\n")
}
