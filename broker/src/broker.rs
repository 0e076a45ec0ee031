//! A running broker: started, linked to, drained.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sealcast_link::{ListenOptions, Listener};
use sealcast_proto::{BrokerLink, Identity, PublicKey};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::config::{Config, StartError};
use crate::edge::{self, Marks};
use crate::ops::Ops;
use crate::order::{Cluster, Order, StoreOptions};
use crate::shared::Shared;
use crate::storage::Storage;
use crate::store::{FjallLog, FjallOptions, Log, LogError, Recovered};
use crate::{key, retention, session};

/// The view's directory in the data directory of a broker that shares a cluster's order.
const VIEW: &str = "view";

/// A running broker. Dropped without [`Broker::shutdown`] it stops as if it had been killed, which loses nothing that was
/// acknowledged as durable.
pub struct Broker {
    running: Running,
    link: BrokerLink,
    local: SocketAddr,
}

/// What ends with the broker.
struct Running {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    accepting: JoinHandle<()>,
    retention: JoinHandle<()>,
    ops: Option<Ops>,
    /// What reads the order that it shares with others.
    _edge: JoinSet<()>,
}

impl Broker {
    /// Opens the data directory and the port, and serves. Must be called inside a multi-threaded tokio runtime.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        // First: taking up a large log takes its time, and whoever asks is told that it does.
        let ops = match config.ops {
            Some(addr) => Some(listen_ops(addr).await?),
            None => None,
        };
        let (log, identity, recovered) = open(&config).await?;
        let mut storage = Storage::start(Arc::new(log), &config.limits)
            .map_err(|error| StartError::store(config.data.clone(), error))?;
        let shares = share(&config, &mut storage).await?;
        let shared = Arc::new(Shared::new(storage, &config));
        let topics = shared.take_up().await?;
        let edge = match shares {
            Some((order, marks)) => edge::begin(&shared, &order, marks).await?,
            None => JoinSet::new(),
        };
        let listener = listen(&config, &identity)?;
        let local = listener
            .local_addr()
            .map_err(|error| StartError::Listen { listen: config.listen, error: Arc::new(error) })?;
        let link = link(&config, local, identity.public())?;
        if let Some(path) = &config.link_file {
            write_link(path, &link)?;
        }
        let data = config.data.display();
        let Recovered { records, bytes, staged_tables_dropped, imports_cleared, torn_bytes, .. } = recovered;
        tracing::info!(
            %local, %data, topics, records, bytes, torn_bytes, staged_tables_dropped, imports_cleared, "started"
        );
        let listener = Arc::new(listener);
        if let Some(ops) = &ops {
            ops.show(shared.clone(), identity.public());
            tracing::info!(ops = %ops.local_addr(), "health, metrics and topics");
        }
        let accepting = tokio::spawn(accept(shared.clone(), listener.clone()));
        let retention = tokio::spawn(retention::run(shared.clone()));
        Ok(Self {
            running: Running { shared, listener, accepting, retention, ops, _edge: edge },
            link,
            local,
        })
    }

    /// Its link: where it is and which key it has.
    pub fn link(&self) -> &BrokerLink {
        &self.link
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Where the operations listener is, if it is asked for.
    pub fn ops_addr(&self) -> Option<SocketAddr> {
        self.running.ops.as_ref().map(Ops::local_addr)
    }

    /// Takes over the limits, the owners and what else may change while it runs; the rest of `config` is as it was, or
    /// ignored. What begins from now on is held to it.
    pub fn reload(&self, config: &Config) {
        self.running.shared.reload(config);
    }

    /// Serves until `stop` is done, then shuts down.
    pub async fn run_until(self, stop: impl Future<Output = ()>) {
        stop.await;
        self.shutdown().await;
    }

    /// Drains, each step within a bound (`Limits::drain`): tells every client to go, takes nothing new, stores and answers
    /// what was taken, closes the connections. Afterwards the data directory is free.
    pub async fn shutdown(self) {
        let Running { shared, listener, .. } = &self.running;
        let most = shared.limits().drain;
        let log = shared.storage.reads.log().clone();
        shared.drain();
        // What was sent before the notice arrived is on its way through the topics: it is stored and answered first.
        let answered = shared.owing.none_left(most).await;
        let commit = shared.storage.commit.clone();
        let flushed = tokio::task::spawn_blocking(move || commit.shut_down());
        let flushed = timeout(most, flushed).await.is_ok();
        listener.close("the broker is going away");
        let told = timeout(most, listener.closed()).await.is_ok();
        drop(self);
        let closed = timeout(most, close(log)).await.is_ok();
        tracing::info!(answered, flushed, told, closed, "stopped");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.accepting.abort();
        self.retention.abort();
        self.listener.close("the broker is gone");
        self.shared.stop_topics();
    }
}

/// Closes the log once the last task that reads or writes it has ended.
async fn close(log: Arc<dyn Log>) {
    while Arc::strong_count(&log) > 1 {
        sleep(Duration::from_millis(2)).await;
    }
    // The last handle: closing may wait for the disk.
    let closing = tokio::task::spawn_blocking(move || drop(log));
    if closing.await.is_err() {
        tracing::error!("the log did not close in order");
    }
}

async fn open(config: &Config) -> Result<(FjallLog, Identity, Recovered), StartError> {
    let data = config.data.clone();
    // What is only a view of a cluster's order stands apart: it may be thrown away.
    let view = if config.store.is_some() { data.join(VIEW) } else { data.clone() };
    let options = FjallOptions { reserve_bytes: config.limits.disk_reserve.0, ..FjallOptions::default() };
    let opening = tokio::task::spawn_blocking(move || {
        let opened = FjallLog::open(&view, options);
        let (log, recovered) = opened.map_err(|error| StartError::store(data.clone(), error))?;
        Ok((log, key::open(&data)?, recovered))
    });
    // The engine vouches for no file that was tampered with.
    let panicked =
        "opening the store ended in a panic; if its files may be damaged, restore them from a copy";
    opening.await.unwrap_or_else(|_| Err(StartError::Store(LogError::Misuse(panicked.into()))))
}

/// Joins the cluster, if there is one.
async fn share(config: &Config, storage: &mut Storage) -> Result<Option<(Arc<Order>, Marks)>, StartError> {
    let Some(servers) = config.store.clone() else { return Ok(None) };
    let options = StoreOptions {
        servers,
        replicas: config.store_replicas,
        auth: config.store_auth.clone(),
        ca: config.store_ca.clone(),
        certificate: config.store_cert.clone().zip(config.store_key.clone()),
    };
    let cluster = Arc::new(Cluster::connect(&options).await?);
    let marks = Marks::open(&config.data, cluster.born())?;
    let order = Order::start(cluster, &marks.places());
    storage.order = Some(order.clone());
    tracing::info!(servers = %options.servers, level = ?order.level(), "shares the order of a cluster");
    Ok(Some((order, marks)))
}

async fn listen_ops(addr: SocketAddr) -> Result<Ops, StartError> {
    Ops::bind(addr).await.map_err(|error| StartError::Ops { ops: addr, error: Arc::new(error) })
}

fn listen(config: &Config, identity: &Identity) -> Result<Listener, StartError> {
    let (addr, limits) = (config.listen, &config.limits);
    let options = ListenOptions {
        max_handshakes: limits.handshakes,
        max_handshakes_per_source: limits.handshakes_per_source,
        retry_above: limits.retry_above,
        handshake_timeout: limits.handshake,
        receive_window: u32::try_from(limits.receive_window.0).unwrap_or(u32::MAX),
        send_window: limits.send_window.0,
        max_udp_payload: u16::try_from(limits.max_udp_payload.0).unwrap_or(u16::MAX),
        ..ListenOptions::default()
    };
    Listener::bind(addr, identity, options).map_err(|error| match error.kind() {
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
        let limits = shared.limits();
        // Those beyond `connections` are told so once their hello came.
        let too_many =
            shared.is_draining() || !shared.handshakes.try_take(limits.handshakes_per_second.into());
        let Some(stranger) = shared.stranger().filter(|_| !too_many) else {
            handshake.refuse();
            shared.metrics.attempt("refused");
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let from = handshake.remote_addr();
            let served = match handshake.establish().await {
                Ok(connection) => session::serve(shared, connection, stranger).await,
                Err(error) => {
                    shared.metrics.attempt("failed");
                    Err(error)
                }
            };
            if let Err(error) = served {
                tracing::debug!(%from, %error, "connection ended");
            }
        });
    }
}
