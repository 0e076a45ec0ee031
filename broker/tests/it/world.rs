use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sealcast_broker::{Broker, Config, Limits, Servers};
use sealcast_link::{Connection, FrameReader, FrameWriter, Link, LinkError, LinkOptions, RequestError};
use sealcast_proto::frame::{
    Ack, Code, EpochDelivery, From, Level, Refusal, Reply, Request, RosterDelivery, Subscribe,
    TABLE_FRAME_SLOTS,
};
use sealcast_proto::limits::SLOT_BYTES;
use sealcast_proto::object::Genesis;
use sealcast_proto::roster::{EntryBundle, Role};
use sealcast_proto::slot::table_hash;
use sealcast_proto::{MemberIndex, Offset, RosterSeq, Signed, TopicId};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::hand::{Admin, Hand, batch_record, genesis, header_record, identity};

/// Long enough for any machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("nothing came")
}

/// The cluster whose edge every world's broker is that names no other; none, unless tests are run a second time at one.
static AROUND: Mutex<Option<Servers>> = Mutex::new(None);

/// See [`AROUND`].
#[allow(dead_code, reason = "of those who have one")]
pub fn around(servers: Option<Servers>) {
    *AROUND.lock().unwrap_or_else(PoisonError::into_inner) = servers;
}

pub struct World {
    pub dir: TempDir,
    pub broker: Option<Broker>,
    pub limits: Limits,
    /// With an operations listener, and topic ids in its metrics or not.
    pub ops: Option<bool>,
    /// The cluster whose order it shares, and how many copies that keeps.
    pub store: Option<(Servers, u32)>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    /// An edge of a cluster.
    #[allow(dead_code, reason = "of those who have one")]
    pub async fn edge(servers: &str, replicas: u32) -> Self {
        let store = Some((Servers::read(servers).unwrap(), replicas));
        let mut world = Self { store, ..Self::not_started() };
        world.start().await;
        world
    }

    pub async fn with(limits: Limits) -> Self {
        let mut world = Self { limits, ..Self::not_started() };
        world.start().await;
        world
    }

    /// Its directory, and no broker yet.
    pub fn not_started() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            broker: None,
            limits: Limits::default(),
            ops: None,
            store: AROUND.lock().unwrap_or_else(PoisonError::into_inner).clone().map(|servers| (servers, 1)),
        }
    }

    /// Where the `n`th record of the only topic stands, as long as nothing was refused. In a cluster's order places begin
    /// at 1, and the topic's creation has the first.
    pub fn at(&self, n: u64) -> Offset {
        Offset(n + if self.store.is_some() { 2 } else { 0 })
    }

    /// What its acknowledgements promise.
    pub fn level(&self) -> Level {
        match self.store {
            None => Level::Durable,
            Some((_, 1)) => Level::Memory,
            Some(_) => Level::Replicated,
        }
    }

    pub fn config(&self) -> Config {
        let listen = "127.0.0.1:0".parse().unwrap();
        Config {
            listen,
            limits: self.limits.clone(),
            ops: self.ops.map(|_| listen),
            store: self.store.as_ref().map(|(servers, _)| servers.clone()),
            store_replicas: self.store.as_ref().map_or(3, |(_, replicas)| *replicas),
            topic_labels: self.ops == Some(true),
            ..Config::new(self.dir.path())
        }
    }

    /// What the operations listener answers: the status and the body.
    pub async fn ask(&self, path: &str) -> (u16, String) {
        let addr = self.broker.as_ref().unwrap().ops_addr().unwrap();
        let path = path.to_owned();
        soon(tokio::task::spawn_blocking(move || http_get(addr, &path))).await.unwrap()
    }

    pub async fn start(&mut self) {
        self.broker = Some(Broker::start(self.config()).await.unwrap());
    }

    pub async fn restart(&mut self) {
        self.broker.take().unwrap().shutdown().await;
        self.start().await;
    }

    pub async fn client(&self, n: u8) -> Client {
        let link = self.broker.as_ref().unwrap().link().clone();
        let link = Link::new(link, Arc::new(identity(n)), LinkOptions::default());
        let connecting = async {
            loop {
                match link.connect().await {
                    // A handshake that a starved machine did not finish in time.
                    Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(20)).await,
                    other => return other,
                }
            }
        };
        let connection = soon(connecting).await.unwrap();
        Client { _link: link, connection }
    }

    /// A topic of owner 1 with these members; the owner's connection and view of the roster.
    pub async fn topic(&self, members: &[(u8, Role)]) -> (TopicId, Admin, Client) {
        let (topic, parsed, signed) = genesis(0);
        let owner = self.client(1).await;
        owner.create(&signed).await.unwrap();
        let mut admin = Admin::new(topic, &parsed);
        let entry = admin.add(members);
        owner.append(topic, &entry).await.unwrap();
        (topic, admin, owner)
    }
}

/// One question over HTTP: the status and the body.
pub fn http_get(addr: std::net::SocketAddr, path: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

pub struct Client {
    _link: Link,
    pub connection: Connection,
}

impl Client {
    pub async fn request(&self, requests: Vec<Request>) -> Result<Reply, Refusal> {
        match soon(self.connection.request(requests)).await {
            Ok(reply) => Ok(reply),
            Err(RequestError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn fetch(&self, request: Request) -> Result<Vec<Reply>, Refusal> {
        let mut replies = soon(self.connection.fetch(request)).await.unwrap();
        let mut out = vec![];
        loop {
            match soon(replies.next()).await {
                Ok(Some(reply)) => out.push(reply),
                Ok(None) => return Ok(out),
                Err(RequestError::Refused(refusal)) => return Err(refusal),
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub async fn create(&self, genesis: &Signed<Genesis>) -> Result<Reply, Refusal> {
        self.request(vec![Request::CreateTopic(genesis.clone())]).await
    }

    pub async fn append(&self, topic: TopicId, bundle: &EntryBundle) -> Result<Offset, Refusal> {
        match self.request(vec![Request::AppendRoster(topic), Request::Bundle(bundle.clone())]).await? {
            Reply::Done(offset) => Ok(offset),
            other => panic!("{other:?}"),
        }
    }

    pub async fn upload(&self, topic: TopicId, table: &Bytes) -> Result<Reply, Refusal> {
        let slot_count = (table.len() / SLOT_BYTES) as u32;
        let mut requests = vec![Request::UploadTable { topic, slot_count, slots_hash: table_hash(table) }];
        let chunk = TABLE_FRAME_SLOTS * SLOT_BYTES;
        let chunks = (0..table.len()).step_by(chunk).map(|at| table.slice(at..table.len().min(at + chunk)));
        requests.extend(chunks.map(Request::Table));
        self.request(requests).await
    }

    pub async fn open(&self, first: Request) -> Pipe {
        let (mut writer, reader) = soon(self.connection.open()).await.unwrap();
        writer.send(first.encode()).await.unwrap();
        Pipe { writer, reader }
    }

    pub async fn publish(&self, topic: TopicId) -> Pipe {
        self.open(Request::Publish(topic)).await
    }

    /// Begins `hand`'s next epoch with a slot for each of `members`: table, header, both acknowledged.
    pub async fn begin(
        &self,
        pipe: &mut Pipe,
        topic: TopicId,
        hand: &mut Hand,
        admin: &Admin,
        members: &[u8],
    ) -> Ack {
        let indexes: Vec<MemberIndex> = members.iter().map(|n| admin.index(*n)).collect();
        let (header, table) = hand.begin(&admin.roster, &indexes);
        if !table.is_empty() {
            self.upload(topic, &table).await.unwrap();
        }
        pipe.record(header_record(&header)).await;
        pipe.ack().await
    }

    pub async fn subscribe(&self, topic: TopicId, from: From, roster_seq: Option<RosterSeq>) -> Pipe {
        self.open(Request::Subscribe(Subscribe { topic, from, roster_seq, until_head: false })).await
    }

    /// Everything up to the head, which must come to an end.
    pub async fn read_all(&self, topic: TopicId, from: From, roster_seq: Option<RosterSeq>) -> Vec<Reply> {
        let wish = Subscribe { topic, from, roster_seq, until_head: true };
        self.fetch(Request::Subscribe(wish)).await.unwrap()
    }

    /// A publisher at work: its stream, its hand, an epoch for `members`.
    pub async fn publisher(&self, topic: TopicId, n: u8, admin: &Admin, members: &[u8]) -> (Pipe, Hand) {
        let mut hand = Hand::new(n);
        let mut pipe = self.publish(topic).await;
        self.begin(&mut pipe, topic, &mut hand, admin, members).await;
        (pipe, hand)
    }
}

/// A stream.
pub struct Pipe {
    pub writer: FrameWriter,
    pub reader: FrameReader,
}

impl Pipe {
    pub async fn send(&mut self, request: Request) {
        soon(self.writer.send(request.encode())).await.unwrap();
    }

    pub async fn record(&mut self, record: Bytes) {
        self.send(Request::Record(record)).await;
    }

    pub async fn next(&mut self) -> Reply {
        self.maybe().await.unwrap().expect("the stream ended")
    }

    pub async fn maybe(&mut self) -> Result<Option<Reply>, LinkError> {
        soon(self.reader.reply()).await
    }

    pub async fn ack(&mut self) -> Ack {
        match self.next().await {
            Reply::Ack(ack) => ack,
            other => panic!("{other:?}"),
        }
    }

    pub async fn refused(&mut self) -> Refusal {
        match self.next().await {
            Reply::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    pub async fn end(&mut self) {
        assert_eq!(self.maybe().await.unwrap(), None);
    }

    /// A batch of noise; acknowledged.
    pub async fn batch(&mut self, hand: &mut Hand, noise: &[u8]) -> Ack {
        let batch = hand.batch(noise);
        self.record(batch_record(&batch)).await;
        self.ack().await
    }

    /// Everything up to and including the first reply that `last` picks.
    pub async fn until(&mut self, last: impl Fn(&Reply) -> bool) -> Vec<Reply> {
        let mut out = vec![];
        loop {
            let reply = self.next().await;
            let done = last(&reply);
            out.push(reply);
            if done {
                return out;
            }
        }
    }

    pub async fn until_head(&mut self) -> Vec<Reply> {
        self.until(|reply| matches!(reply, Reply::AtHead { .. })).await
    }
}

pub fn ciphertexts(replies: &[Reply]) -> Vec<Bytes> {
    let record = |reply: &Reply| match reply {
        Reply::Record(_, record) => Some(Reply::batch(record.clone()).unwrap().ciphertext().0.clone()),
        _ => None,
    };
    replies.iter().filter_map(record).collect()
}

pub fn epochs(replies: &[Reply]) -> Vec<&EpochDelivery> {
    replies
        .iter()
        .filter_map(|reply| if let Reply::Epoch(epoch) = reply { Some(epoch) } else { None })
        .collect()
}

pub fn entries(replies: &[Reply]) -> Vec<&RosterDelivery> {
    replies
        .iter()
        .filter_map(|reply| if let Reply::Roster(entry) = reply { Some(entry) } else { None })
        .collect()
}

pub fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Code {
    result.unwrap_err().code
}
