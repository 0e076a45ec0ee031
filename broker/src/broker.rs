//! A running broker: started, linked to, drained.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use sealcast_link::{ListenOptions, Listener};
use sealcast_proto::{BrokerLink, Identity, PublicKey};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::{Config, StartError};
use crate::shared::Shared;
use crate::storage::Storage;
use crate::store::{FjallLog, FjallOptions, LogError, Recovered};
use crate::{key, retention, session};

/// A running broker. Dropped without [`Broker::shutdown`] it stops as if it had been killed, which loses nothing that was
/// acknowledged as durable.
pub struct Broker {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    link: BrokerLink,
    local: SocketAddr,
    accepting: JoinHandle<()>,
    retention: JoinHandle<()>,
}

impl Broker {
    /// Opens the data directory and the port, and serves. Must be called inside a multi-threaded tokio runtime.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        if config.owners.is_empty() && !config.listen.ip().is_loopback() {
            return Err(StartError::Open { listen: config.listen });
        }
        let (log, identity, recovered) = open(&config).await?;
        let storage =
            Storage::start(Arc::new(log)).map_err(|error| StartError::store(config.data.clone(), error))?;
        let shared = Arc::new(Shared::new(storage, config.limits.clone(), config.owners.clone()));
        let topics = shared.take_up().await?;
        let listener = listen(config.listen, &identity)?;
        let local = listener
            .local_addr()
            .map_err(|error| StartError::Listen { listen: config.listen, error: Arc::new(error) })?;
        let link = link(&config, local, identity.public())?;
        if let Some(path) = &config.link_file {
            write_link(path, &link)?;
        }
        tracing::info!(
            %local, topics, records = recovered.records, bytes = recovered.bytes, data = %config.data.display(), "started"
        );
        let listener = Arc::new(listener);
        let accepting = tokio::spawn(accept(shared.clone(), listener.clone()));
        let retention = tokio::spawn(retention::run(shared.clone()));
        Ok(Self { shared, listener, link, local, accepting, retention })
    }

    /// Its link: where it is and which key it has.
    pub fn link(&self) -> &BrokerLink {
        &self.link
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `stop` is done, then shuts down.
    pub async fn run_until(self, stop: impl Future<Output = ()>) {
        stop.await;
        self.shutdown().await;
    }

    /// Drains, within a bound (`Limits::drain` a step): tells every client to go, takes nothing new, stores and answers what
    /// was taken, closes the connections.
    pub async fn shutdown(self) {
        let most = self.shared.limits.drain;
        self.shared.drain();
        self.accepting.abort();
        self.retention.abort();
        let commit = self.shared.storage.commit.clone();
        // What was sent before the notice arrived is on its way through the topics: it is stored and answered first.
        let answered = self.shared.owing.none_left(most / 2).await;
        let flushed = tokio::task::spawn_blocking(move || commit.shut_down());
        let flushed = timeout(most, flushed).await.is_ok();
        self.listener.close("the broker is going away");
        let closed = timeout(most, self.listener.closed()).await.is_ok();
        self.shared.stop_topics();
        let ended = self.shared.tasks.none_left(most).await;
        tracing::info!(answered, flushed, closed, ended, "stopped");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.accepting.abort();
        self.retention.abort();
        self.listener.close("the broker is gone");
        self.shared.stop_topics();
    }
}

async fn open(config: &Config) -> Result<(FjallLog, Identity, Recovered), StartError> {
    let data = config.data.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let opened = FjallLog::open(&data, FjallOptions::default());
        let (log, recovered) = opened.map_err(|error| StartError::store(data.clone(), error))?;
        Ok((log, key::open(&data)?, recovered))
    });
    opening.await.unwrap_or(Err(StartError::Store(LogError::Closed)))
}

fn listen(addr: SocketAddr, identity: &Identity) -> Result<Listener, StartError> {
    Listener::bind(addr, identity, ListenOptions::default()).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => StartError::PortInUse { listen: addr },
        _ => StartError::Listen { listen: addr, error: Arc::new(error) },
    })
}

fn link(config: &Config, local: SocketAddr, key: PublicKey) -> Result<BrokerLink, StartError> {
    let host = config.advertise.clone().unwrap_or_else(|| {
        let ip = match local.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        if ip != local.ip() {
            tracing::warn!(
                "the link names {ip}, which only this machine reaches: give --advertise HOST:PORT"
            );
        }
        (ip.to_string(), local.port())
    });
    BrokerLink::new(vec![host.clone()], vec![key]).map_err(|_| StartError::Advertise(host.0))
}

/// Replaced whole: whoever waits for the file never reads half a link.
fn write_link(path: &Path, link: &BrokerLink) -> Result<(), StartError> {
    let new = path.with_extension("new");
    let written = std::fs::write(&new, format!("{link}\n")).and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| StartError::LinkFile { path: path.into(), error: Arc::new(error) })
}

async fn accept(shared: Arc<Shared>, listener: Arc<Listener>) {
    while let Some(handshake) = listener.accept().await {
        if listener.connections() > shared.limits.connections {
            handshake.refuse();
            continue;
        }
        let (shared, working) = (shared.clone(), shared.tasks.one_more());
        tokio::spawn(async move {
            let from = handshake.remote_addr();
            let served = match handshake.establish().await {
                Ok(connection) => session::serve(shared, connection).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::debug!(%from, %error, "connection ended");
            }
            drop(working);
        });
    }
}
