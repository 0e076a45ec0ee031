//! A broker that does what a test tells it to: it plays replies that the test made up, or stands between a client and a
//! real broker and changes what passes.
//!
//! Real QUIC on both sides. Towards clients it has a key of its own, which stands in the link; towards the real broker it
//! is the client, whose identity the test lends it: more than any real broker could do.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use sealcast::{BrokerLink, Identity, PublicKey};
use sealcast_link::{
    Connection, Control, FrameReader, FrameWriter, HELLO_TIMEOUT, Handshake, Link, LinkError, LinkOptions,
    ListenOptions, Listener,
};
use sealcast_proto::Offset;
use sealcast_proto::frame::{Reply, Request};
use tokio::sync::broadcast;

/// What becomes of each reply of the real broker on its way to the client.
pub(crate) type Filter = Box<dyn FnMut(Reply) -> Vec<Reply> + Send>;

/// What becomes of each frame of the client on its way to the real broker.
pub(crate) type Tamper = Box<dyn FnMut(Request) -> Vec<Request> + Send>;

/// What is done about a stream.
pub(crate) enum Answer {
    /// These replies. A subscription or a watch then stays open, for [`Hostile::push`]; other streams end.
    Play(Vec<Reply>),
    /// What the real broker says, through a filter.
    Relay(Filter),
    /// What the client says, through a filter.
    Tamper(Tamper),
}

impl Answer {
    /// The real broker, unchanged.
    pub(crate) fn honest() -> Self {
        Self::Relay(Box::new(|reply| vec![reply]))
    }
}

/// Decides by who asks and by the stream's first frame.
pub(crate) type Script = Box<dyn FnMut(PublicKey, &Request) -> Answer + Send>;

struct Shared {
    script: Mutex<Script>,
    pushed: broadcast::Sender<Reply>,
    connections: Mutex<Vec<Connection>>,
    /// Ways to the real broker, one an identity.
    real: HashMap<PublicKey, Link>,
}

/// A running hostile broker. It ends with the runtime.
pub(crate) struct Hostile {
    link: BrokerLink,
    shared: Arc<Shared>,
}

impl Hostile {
    /// Plays made-up replies only.
    pub(crate) fn scripted(script: impl FnMut(PublicKey, &Request) -> Answer + Send + 'static) -> Self {
        Self::start(Box::new(script), HashMap::new())
    }

    /// Stands between these identities and the real broker; honest until told otherwise.
    pub(crate) fn between(real: &BrokerLink, identities: &[&Arc<Identity>]) -> Self {
        let link =
            |identity: &Arc<Identity>| Link::new(real.clone(), identity.clone(), LinkOptions::default());
        let real = identities.iter().map(|identity| (identity.public(), link(identity))).collect();
        Self::start(Box::new(|_, _| Answer::honest()), real)
    }

    fn start(script: Script, real: HashMap<PublicKey, Link>) -> Self {
        let key = Identity::generate(&mut rand::rng());
        let options = ListenOptions::default();
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), &key, options).unwrap();
        let port = listener.local_addr().unwrap().port();
        let link = BrokerLink::new(vec![("127.0.0.1".into(), port)], vec![key.public()]).unwrap();
        let (pushed, _) = broadcast::channel(1024);
        let shared =
            Arc::new(Shared { script: Mutex::new(script), pushed, connections: Mutex::default(), real });
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Some(handshake) = listener.accept().await {
                tokio::spawn(serve(handshake, serving.clone()));
            }
        });
        Self { link, shared }
    }

    /// Where clients find it.
    pub(crate) fn link(&self) -> &BrokerLink {
        &self.link
    }

    /// From now on streams are answered like this; those that stand go on as they are.
    pub(crate) fn turn(&self, script: impl FnMut(PublicKey, &Request) -> Answer + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// Sends more on every subscription and watch that is played.
    pub(crate) fn push(&self, replies: impl IntoIterator<Item = Reply>) {
        for reply in replies {
            // A client that has seen enough is gone in the middle of it.
            let _ = self.shared.pushed.send(reply);
        }
    }

    /// Cuts every connection; clients come back.
    pub(crate) fn cut(&self) {
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            connection.close("cut");
        }
    }
}

async fn serve(handshake: Handshake, shared: Arc<Shared>) -> Result<(), LinkError> {
    let connection = handshake.establish().await?;
    let _control: Control = connection.accept_hello("hostile", HELLO_TIMEOUT, 64).await?;
    shared.connections.lock().unwrap().push(connection.clone());
    loop {
        let (writer, reader) = connection.accept().await?;
        tokio::spawn(stream(connection.peer(), writer, reader, shared.clone()));
    }
}

async fn stream(
    peer: PublicKey,
    mut writer: FrameWriter,
    mut reader: FrameReader,
    shared: Arc<Shared>,
) -> Result<(), LinkError> {
    let Some(first) = reader.request().await? else { return Ok(()) };
    // Before the first reply, so that nothing pushed after it is lost.
    let mut pushed = shared.pushed.subscribe();
    let answer = (shared.script.lock().unwrap())(peer, &first);
    match answer {
        Answer::Relay(filter) => {
            let as_is: Tamper = Box::new(|request| vec![request]);
            relay(&shared.real[&peer], first, writer, reader, as_is, filter).await
        }
        Answer::Tamper(tamper) => {
            let as_is: Filter = Box::new(|reply| vec![reply]);
            relay(&shared.real[&peer], first, writer, reader, tamper, as_is).await
        }
        Answer::Play(replies) => {
            for reply in replies {
                writer.send(reply.encode()).await?;
            }
            if !matches!(first, Request::Subscribe(_) | Request::Watch(..)) {
                // What belongs to the request is taken and thrown away.
                while reader.request().await?.is_some() {}
                return Ok(());
            }
            while let Ok(reply) = pushed.recv().await {
                writer.send(reply.encode()).await?;
            }
            Ok(())
        }
    }
}

async fn relay(
    real: &Link,
    first: Request,
    mut writer: FrameWriter,
    mut reader: FrameReader,
    mut tamper: Tamper,
    mut filter: Filter,
) -> Result<(), LinkError> {
    let connection = real.connect().await.expect("the real broker is there");
    let (mut onwards, mut back) = connection.open().await?;
    for first in tamper(first) {
        onwards.send(first.encode()).await?;
    }
    let requests = async {
        while let Some(request) = reader.request().await? {
            for request in tamper(request) {
                onwards.send(request.encode()).await?;
            }
        }
        onwards.finish();
        Ok(())
    };
    let replies = async {
        while let Some(reply) = back.reply().await? {
            for reply in filter(reply) {
                writer.send(reply.encode()).await?;
            }
        }
        writer.finish();
        // The client has it all before the stream goes.
        let _ = writer.stopped().await;
        Err::<(), _>(LinkError::StreamStopped)
    };
    tokio::try_join!(requests, replies).map(|_| ())
}

/// The answer of a broker that is content with everything.
pub(crate) fn done() -> Answer {
    Answer::Play(vec![Reply::Done(Offset(0))])
}
