//! Asking the operations listener: one HTTP request, read to its end.

use std::str::FromStr;
use std::time::Duration;

use sealcast_broker::ops::BrokerStatus;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::failure::{Exit, Failure};

/// For one question.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer, bytes: a thousand topics with a thousand subscribers each would be more, and no terminal shows that.
const MAX_ANSWER: u64 = 64 << 20;

/// Where the operations listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ops(String);

impl FromStr for Ops {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write http://HOST:PORT, as `sealcast broker --ops` listens";
        let rest = text.trim().strip_prefix("http://").unwrap_or(text.trim());
        let host = rest.strip_suffix('/').unwrap_or(rest);
        let (name, port) = host.rsplit_once(':').ok_or(FORM)?;
        let named =
            !name.is_empty() && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
        match named && port.parse::<u16>().is_ok() {
            true => Ok(Self(host.to_owned())),
            false => Err(FORM.into()),
        }
    }
}

impl Ops {
    /// What the broker does now.
    pub(super) async fn status(&self) -> Result<BrokerStatus, Failure> {
        let answer =
            timeout(PATIENCE, self.get("/topics")).await.map_err(|_| self.failed("no answer in time"))?;
        let answer = answer.map_err(|error| self.failed(&error.to_string()))?;
        let body = body(&answer).map_err(|why| self.failed(&why))?;
        serde_json::from_slice(body).map_err(|_| {
            self.failed("not the answer of this version's broker").hint("update the older of the two")
        })
    }

    fn failed(&self, why: &str) -> Failure {
        Failure::new(Exit::CannotConnect, format!("cannot ask {}: {why}", self.0))
            .hint("is it the address that the broker's --ops names? without --ops it does not listen")
    }

    async fn get(&self, path: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(&self.0).await?;
        // 1.0: the answer comes in one piece and ends with the connection.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\n\r\n", self.0);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

/// The body of a good answer, or why it is none.
fn body(answer: &[u8]) -> Result<&[u8], String> {
    const NO_HTTP: &str = "it does not speak HTTP";
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(NO_HTTP)?;
    let (head, body) = answer.split_at(end + 4);
    let head = String::from_utf8_lossy(head);
    let status = head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.")).ok_or(NO_HTTP)?;
    match status.split_whitespace().nth(1) {
        Some("200") => Ok(body),
        Some(code) => {
            let said: String = String::from_utf8_lossy(body).chars().take(200).collect();
            Err(format!("it says {code}: {}", said.trim()))
        }
        None => Err(NO_HTTP.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, host) in [
            ("http://127.0.0.1:7444", "127.0.0.1:7444"),
            ("http://127.0.0.1:7444/", "127.0.0.1:7444"),
            ("localhost:80", "localhost:80"),
            (" http://[::1]:7444 ", "[::1]:7444"),
        ] {
            assert_eq!(text.parse(), Ok(Ops(host.into())), "{text}");
        }
        for text in [
            "",
            "http://",
            "127.0.0.1",
            ":7444",
            "http://a:b",
            "http://a/b:1",
            "a b:1",
            "a:70000",
            "https://a:1",
        ] {
            assert!(text.parse::<Ops>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_good_answer_has_a_body() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\na: b\r\n\r\n{}"), Ok(&b"{}"[..]));
        let starting = body(b"HTTP/1.1 503 Service Unavailable\r\n\r\nstarting\n");
        assert_eq!(starting, Err("it says 503: starting".into()));
        for other in [&b""[..], b"SSH-2.0-x\r\n", b"SSH\r\n\r\n", b"HTTP/1.1\r\n\r\n"] {
            assert!(body(other).is_err());
        }
    }
}
