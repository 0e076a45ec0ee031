//! A client's way to its broker: at most one connection at a time, one attempt shared by all who wait.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use sealcast_proto::{BrokerLink, Identity};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep_until};

use crate::connection::Connection;
use crate::dial::Dialer;
use crate::error::ConnectError;
use crate::{backoff, transport};

/// A connection that lived this long was a success: the next failure begins a new series. A broker that takes connections
/// and drops them at once must not be called in a tight loop.
const STABLE: Duration = backoff::CAP;
/// The most that a broker's `retry_after` is followed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How a link connects.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Program and version, for the broker's log; it keeps 64 bytes.
    pub agent: String,
    /// For one try over all hosts.
    pub connect_timeout: Duration,
    /// For one address, hello included: two repetitions of a lost first packet.
    pub address_timeout: Duration,
    /// How often an idle connection says that it is there; a restarted broker is noticed within this time. Where the link
    /// names other hosts, a dead one is given up after three times this, and after 10 s at least.
    pub keep_alive: Duration,
    /// Upper bound of MTU discovery, bytes of UDP payload. Raise it on jumbo networks only, on both sides.
    pub max_udp_payload: u16,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            agent: concat!("sealcast/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(5),
            address_timeout: Duration::from_millis(2_500),
            keep_alive: transport::KEEP_ALIVE,
            max_udp_payload: transport::MAX_UDP_PAYLOAD,
        }
    }
}

/// A client's way to the broker of a link. Clones share one connection.
#[derive(Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Arc<Dialer>,
    series: Mutex<Series>,
    /// How many attempts have ended: who waited while one did takes its result instead of making another.
    ended: AtomicU64,
    last_error: SyncMutex<Option<ConnectError>>,
    connected: Notify,
}

/// Attempts in a row. Held during an attempt, so that there is one at a time.
#[derive(Default)]
struct Series {
    current: Option<(Connection, Instant)>,
    failures: u32,
    not_before: Option<Instant>,
}

enum Outcome {
    Failed(ConnectError),
    TooEarly(Instant),
}

impl Link {
    /// A way to `broker` as `identity`. Does nothing yet.
    pub fn new(broker: BrokerLink, identity: Arc<Identity>, options: LinkOptions) -> Self {
        let inner = Inner {
            dialer: Arc::new(Dialer::new(broker, identity, options)),
            series: Mutex::default(),
            ended: AtomicU64::new(0),
            last_error: SyncMutex::default(),
            connected: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The broker's link.
    pub fn broker(&self) -> &BrokerLink {
        self.inner.dialer.broker()
    }

    /// Who connects.
    pub fn identity(&self) -> &Arc<Identity> {
        self.inner.dialer.identity()
    }

    /// The connection, with the hello done: the present one while it is usable, else by one try over all hosts, now.
    /// Callers at the same time share one try and its failure. Cancel-safe.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        match self.inner.attempt(false).await {
            Ok(connection) => Ok(connection),
            Err(Outcome::Failed(error)) => Err(error),
            // Only paced attempts can be too early.
            Err(Outcome::TooEarly(_)) => Err(ConnectError::Closed),
        }
    }

    /// The connection, however long it takes: tries again with capped exponential back-off and full jitter. Errors that no
    /// waiting mends (a wrong key) are tried again too, at the cap, because an operator may mend them: show
    /// [`Link::last_error`] to people. Never completes after [`Link::close`]. Cancel-safe.
    pub async fn connected(&self) -> Connection {
        loop {
            let mut up = std::pin::pin!(self.inner.connected.notified());
            // From here on a success of anybody else is noticed.
            up.as_mut().enable();
            match self.inner.attempt(true).await {
                Ok(connection) => return connection,
                Err(Outcome::Failed(ConnectError::Closed)) => std::future::pending().await,
                Err(Outcome::Failed(_)) => {}
                Err(Outcome::TooEarly(until)) => tokio::select! {
                    () = sleep_until(until) => {}
                    () = up => {}
                },
            }
        }
    }

    /// Why the last try failed; `None` after a success.
    pub fn last_error(&self) -> Option<ConnectError> {
        self.inner.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the connection and tells the broker; afterwards there is none ever. Complete when the broker was told, or
    /// after a second. **What is written but not yet answered may be lost**: wait for acknowledgements first.
    pub async fn close(&self) {
        self.inner.dialer.close("the client is done").await;
    }

    /// How many attempts have ended.
    #[cfg(test)]
    pub(crate) fn attempts(&self) -> u64 {
        self.inner.ended.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.broker())
    }
}

impl Inner {
    async fn attempt(&self, paced: bool) -> Result<Connection, Outcome> {
        let ended = self.ended.load(Ordering::Acquire);
        let mut series = self.series.lock().await;
        if let Some(connection) = series.usable() {
            return Ok(connection);
        }
        if self.ended.load(Ordering::Acquire) != ended
            && let Some(error) = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
        {
            return Err(Outcome::Failed(error));
        }
        if paced && let Some(until) = series.not_before.filter(|until| *until > Instant::now()) {
            return Err(Outcome::TooEarly(until));
        }
        // Dropped here, a later caller makes its own attempt: nothing is left behind.
        let outcome = self.dialer.dial().await;
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = outcome.as_ref().err().cloned();
        self.ended.fetch_add(1, Ordering::Release);
        match outcome {
            Ok(connection) => {
                tracing::debug!(broker = %connection.remote_addr(), "connected");
                series.current = Some((connection.clone(), Instant::now()));
                self.connected.notify_waiters();
                Ok(connection)
            }
            Err(error) => {
                series.failed(&error);
                tracing::debug!(%error, failures = series.failures, "cannot connect");
                Err(Outcome::Failed(error))
            }
        }
    }
}

impl Series {
    /// The present connection; forgets one that is no longer usable, and counts it as a failure if it was short.
    fn usable(&mut self) -> Option<Connection> {
        let (connection, since) = self.current.as_ref()?;
        if connection.is_usable() {
            return Some(connection.clone());
        }
        if since.elapsed() >= STABLE {
            self.failures = 0;
        }
        self.current = None;
        self.pause(Duration::ZERO);
        None
    }

    fn failed(&mut self, error: &ConnectError) {
        let asked = match error {
            ConnectError::Refused(refusal) => Duration::from_millis(refusal.retry_after_ms),
            _ => Duration::ZERO,
        };
        self.pause(asked.min(MAX_RETRY_AFTER));
    }

    fn pause(&mut self, at_least: Duration) {
        self.failures = self.failures.saturating_add(1);
        let wait = backoff::delay(self.failures, &mut rand::rng()).max(at_least);
        self.not_before = Some(Instant::now() + wait);
    }
}
