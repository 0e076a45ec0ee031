//! Beginning something at a broker that may not be able to just now.

use std::time::Duration;

use sealcast_proto::frame::{Code, Refusal};
use tokio::time::{Instant, sleep};

use crate::backoff;
use crate::connection::Connection;
use crate::error::{ConnectError, LinkError, RequestError};
use crate::link::Link;

/// How long trouble is waited out: longer than a cluster's election or a broker's restart takes, and no longer than
/// whoever sits before it believes that something is still going on.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a failure is that asking again may mend, without anyone changing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// The broker is at one of its limits; its turn comes after about so many milliseconds.
    Turn(u64),
    /// The broker cannot now, for so many milliseconds, or went away (0).
    Trouble(u64),
}

impl Passing {
    /// What a refusal is: passing if it says when to come back.
    pub fn refused(refusal: &Refusal) -> Option<Self> {
        match refusal.code {
            _ if refusal.retry_after_ms == 0 => None,
            Code::Busy => Some(Self::Turn(refusal.retry_after_ms)),
            Code::ReadOnly | Code::Draining => Some(Self::Trouble(refusal.retry_after_ms)),
            _ => None,
        }
    }

    /// What the end of a connection is: passing if it was lost. A stream that ended badly on a connection that lives is
    /// the broker's doing, and would be again.
    pub fn lost(error: &LinkError) -> Option<Self> {
        match error {
            LinkError::Closed { refused: false, .. }
            | LinkError::TimedOut
            | LinkError::Reset
            | LinkError::Transport(_) => Some(Self::Trouble(0)),
            _ => None,
        }
    }

    /// The same without the broker's word for how long: its limits are trouble too.
    pub fn bounded(self) -> Self {
        match self {
            Self::Turn(ms) | Self::Trouble(ms) => Self::Trouble(ms),
        }
    }

    /// What the failure of a request is.
    pub fn failed(error: &RequestError) -> Option<Self> {
        match error {
            RequestError::Refused(refusal) => Self::refused(refusal),
            RequestError::Link(error) => Self::lost(error),
            RequestError::NoAnswer => None,
        }
    }
}

/// Attempts at one thing, on whatever connection there is: any broker of the link may be the one that can.
///
/// Limits are waited for as long as the broker asks for it. Trouble is waited out for a minute in all, and only where
/// somebody answered before: a broker that cannot be reached at all is told at once.
#[derive(Debug)]
pub struct Turns<'a> {
    link: &'a Link,
    failures: u32,
    wait: Duration,
    /// When the patience with trouble ends, from its beginning.
    until: Option<Instant>,
}

impl<'a> Turns<'a> {
    /// Before the first attempt.
    pub fn new(link: &'a Link) -> Self {
        Self { link, failures: 0, wait: Duration::ZERO, until: None }
    }

    /// The connection for the next attempt, when it is due.
    ///
    /// # Errors
    /// No broker can be reached, and none could since this began, or for too long.
    pub async fn connect(&mut self) -> Result<Connection, ConnectError> {
        loop {
            sleep(std::mem::take(&mut self.wait)).await;
            let error = match self.link.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let passing = match &error {
                ConnectError::Refused(refusal) => Passing::refused(refusal),
                other => (self.failures > 0 && other.is_retryable()).then_some(Passing::Trouble(0)),
            };
            if !self.again(passing) {
                return Err(error);
            }
        }
    }

    /// A part of it succeeded: trouble with the rest is waited out from its own beginning.
    pub fn progressed(&mut self) {
        (self.failures, self.until) = (0, None);
    }

    /// Whether an attempt that failed so is to be made again.
    pub fn again(&mut self, passing: Option<Passing>) -> bool {
        let now = Instant::now();
        let retry_after_ms = match passing {
            None => return false,
            Some(Passing::Turn(ms)) => ms,
            Some(Passing::Trouble(ms)) => {
                let until = *self.until.get_or_insert(now + PATIENCE);
                if now >= until {
                    return false;
                }
                ms
            }
        };
        self.failures = self.failures.saturating_add(1);
        self.wait = backoff::turn(retry_after_ms, self.failures, &mut rand::rng());
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sealcast_proto::{BrokerLink, Identity};

    use super::*;
    use crate::LinkOptions;

    fn link() -> Link {
        let me = Identity::generate(&mut rand::rng());
        let broker = BrokerLink::new(vec![("127.0.0.1".into(), 1)], vec![me.public()]).unwrap();
        Link::new(broker, Arc::new(me), LinkOptions::default())
    }

    #[tokio::test(start_paused = true)]
    async fn limits_are_waited_for_and_trouble_is_for_a_minute() {
        let link = link();
        let mut turns = Turns::new(&link);
        assert!(!turns.again(None));
        assert!(turns.again(Some(Passing::Turn(1))));
        // The minute begins with the first trouble.
        sleep(PATIENCE * 2).await;
        assert!(turns.again(Some(Passing::Trouble(1))));
        sleep(PATIENCE / 2).await;
        assert!(turns.again(Some(Passing::Trouble(1))));
        sleep(PATIENCE / 2).await;
        assert!(!turns.again(Some(Passing::Trouble(1))));
        assert!(turns.again(Some(Passing::Turn(1))));
        assert!(!turns.again(Some(Passing::Turn(1).bounded())));
        // A part was done: the rest has its own minute.
        turns.progressed();
        assert!(turns.again(Some(Passing::Turn(1).bounded())));
        sleep(PATIENCE / 2).await;
        assert!(turns.again(Some(Passing::Trouble(1))));
    }

    #[test]
    fn what_passes_says_when_to_come_back() {
        let refusal = |code, retry_after_ms| Refusal { retry_after_ms, ..Refusal::new(code, "") };
        assert_eq!(Passing::refused(&refusal(Code::Busy, 7)), Some(Passing::Turn(7)));
        assert_eq!(Passing::refused(&refusal(Code::ReadOnly, 7)), Some(Passing::Trouble(7)));
        assert_eq!(Passing::refused(&refusal(Code::Draining, 7)), Some(Passing::Trouble(7)));
        assert_eq!(Passing::refused(&refusal(Code::Busy, 0)), None);
        assert_eq!(Passing::refused(&refusal(Code::NotAllowed, 7)), None);
        assert_eq!(Passing::lost(&LinkError::Reset), Some(Passing::Trouble(0)));
        assert_eq!(Passing::lost(&LinkError::StreamReset), None);
        assert_eq!(Passing::lost(&LinkError::Closed { reason: "go".into(), refused: true }), None);
        assert_eq!(Passing::failed(&RequestError::NoAnswer), None);
    }
}
