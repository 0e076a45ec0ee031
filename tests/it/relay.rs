//! A UDP path of our own between clients and a broker: by a seed it loses, delays, reorders and duplicates datagrams, and
//! like a NAT it may give a client another source port, or be cut.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinHandle};

/// What happens to a datagram.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    /// Lost, of a thousand.
    pub(crate) loss: u32,
    /// Sent twice, of a thousand.
    pub(crate) duplicate: u32,
    /// On its way for so long, milliseconds; each on its own, so that later ones overtake earlier ones.
    pub(crate) delay_ms: RangeInclusive<u64>,
}

impl Weather {
    /// A tenth is lost, the rest takes 50 ± 40 ms.
    pub(crate) fn storm() -> Self {
        Self { loss: 100, duplicate: 30, delay_ms: 10..=90 }
    }
}

/// What happened so far, in datagrams.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) lost: AtomicU64,
    pub(crate) duplicated: AtomicU64,
    pub(crate) overtaken: AtomicU64,
    /// Lost because the path was cut.
    pub(crate) cut: AtomicU64,
    /// Source ports that the broker saw.
    pub(crate) ports: AtomicU64,
}

/// A running relay; ends when dropped.
pub(crate) struct Relay {
    path: Arc<Path>,
    addr: SocketAddr,
    task: JoinHandle<()>,
}

struct Path {
    front: UdpSocket,
    broker: SocketAddr,
    weather: Weather,
    seed: u64,
    dice: Mutex<StdRng>,
    /// The way on for each client: a socket of its own, whose answers a task takes back.
    bindings: Mutex<HashMap<SocketAddr, (Arc<UdpSocket>, AbortHandle)>>,
    cut: AtomicBool,
    counts: Counts,
    /// Numbers of datagrams, to see who overtakes whom.
    taken: AtomicU64,
    newest: AtomicU64,
}

impl Relay {
    pub(crate) async fn start(broker: SocketAddr, weather: Weather, seed: u64) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let addr = front.local_addr().expect("an address");
        let path = Arc::new(Path {
            front,
            broker,
            weather,
            seed,
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            bindings: Mutex::default(),
            cut: AtomicBool::new(false),
            counts: Counts::default(),
            taken: AtomicU64::new(0),
            newest: AtomicU64::new(0),
        });
        let task = tokio::spawn(path.clone().toward_broker());
        Self { path, addr, task }
    }

    /// Where clients find it.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.path.counts
    }

    /// As a NAT that forgot everybody: the broker sees other source ports from here on, and what is still on its way to
    /// the old ones is lost.
    pub(crate) fn rebind(&self) {
        self.path.bindings.lock().unwrap().drain().for_each(|(_, (_, answers))| answers.abort());
    }

    /// Nothing gets through until [`Relay::mend`].
    pub(crate) fn cut(&self) {
        self.path.cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn mend(&self) {
        self.path.cut.store(false, Ordering::Relaxed);
    }

    /// Waits until a cut has swallowed `datagrams` more.
    pub(crate) async fn swallowed(&self, datagrams: u64) {
        let goal = self.path.counts.cut.load(Ordering::Relaxed) + datagrams;
        while self.path.counts.cut.load(Ordering::Relaxed) < goal {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.rebind();
        if std::thread::panicking() {
            eprintln!("the relay's seed: {}; {:?}", self.path.seed, self.path.counts);
        }
    }
}

/// The largest datagram.
const DATAGRAM: usize = 64 << 10;

impl Path {
    async fn toward_broker(self: Arc<Self>) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            // A client that is gone is told by an error on this socket: not its concern.
            let Ok((len, client)) = self.front.recv_from(&mut buffer).await else { continue };
            let onward = self.binding(client).await;
            let broker = self.broker;
            self.carry(&buffer[..len], move |datagram| {
                let onward = onward.clone();
                async move { drop(onward.send_to(&datagram, broker).await) }
            });
        }
    }

    async fn binding(self: &Arc<Self>, client: SocketAddr) -> Arc<UdpSocket> {
        if let Some((socket, _)) = self.bindings.lock().unwrap().get(&client) {
            return socket.clone();
        }
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
        self.counts.ports.fetch_add(1, Ordering::Relaxed);
        let answers = tokio::spawn(self.clone().toward_client(socket.clone(), client)).abort_handle();
        self.bindings.lock().unwrap().insert(client, (socket.clone(), answers));
        socket
    }

    async fn toward_client(self: Arc<Self>, socket: Arc<UdpSocket>, client: SocketAddr) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            // A broker that is gone is told by an error on this socket: the next datagram may find the next one.
            let Ok((len, _)) = socket.recv_from(&mut buffer).await else { continue };
            let path = self.clone();
            self.carry(&buffer[..len], move |datagram| {
                let path = path.clone();
                async move { drop(path.front.send_to(&datagram, client).await) }
            });
        }
    }

    /// Decides what becomes of a datagram.
    fn carry<F, S>(self: &Arc<Self>, datagram: &[u8], send: S)
    where
        F: Future<Output = ()> + Send,
        S: Fn(Vec<u8>) -> F + Send + Sync + 'static,
    {
        if self.cut.load(Ordering::Relaxed) {
            self.counts.cut.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let delays: Vec<Duration> = {
            let mut dice = self.dice.lock().unwrap();
            if dice.random_ratio(self.weather.loss, 1000) {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let twice = dice.random_ratio(self.weather.duplicate, 1000);
            self.counts.duplicated.fetch_add(u64::from(twice), Ordering::Relaxed);
            let copies = 1 + usize::from(twice);
            (0..copies)
                .map(|_| Duration::from_millis(dice.random_range(self.weather.delay_ms.clone())))
                .collect()
        };
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let send = Arc::new(send);
        for delay in delays {
            let (path, send, datagram) = (self.clone(), send.clone(), datagram.to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                if path.newest.fetch_max(number, Ordering::Relaxed) > number {
                    path.counts.overtaken.fetch_add(1, Ordering::Relaxed);
                }
                send(datagram).await;
            });
        }
    }
}
