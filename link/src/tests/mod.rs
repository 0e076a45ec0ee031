//! Real QUIC over loopback. Nothing here sleeps: every test waits for what must happen.

/// Addresses, time-outs, back-off, restarts.
mod dialing;
/// First words and last words.
mod hello;
/// Whoever sends nonsense.
mod hostile;
/// Who is who.
mod keys;
/// Who only says so.
mod proof;
/// Frames, requests, back-pressure.
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sealcast_proto::frame::{Reply, Request};
use sealcast_proto::{BrokerLink, Identity, Offset, TopicId};
use tokio::sync::mpsc;

use crate::{
    Connection, Control, HELLO_TIMEOUT, Handshake, Link, LinkError, LinkOptions, ListenOptions, Listener,
};

/// Long enough for any machine: reaching it is a failure.
const LIMIT: Duration = Duration::from_secs(30);
const BROKER: u8 = 1;
const ALICE: u8 = 2;

fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn listen(options: ListenOptions) -> (Arc<Listener>, SocketAddr) {
    let listener = Listener::bind(loopback(), &identity(BROKER), options).unwrap();
    let addr = listener.local_addr().unwrap();
    (Arc::new(listener), addr)
}

fn link_to(addrs: &[SocketAddr], keys: &[u8], options: LinkOptions) -> Link {
    let hosts = addrs.iter().map(|addr| (addr.ip().to_string(), addr.port())).collect();
    let keys = keys.iter().map(|n| identity(*n).public()).collect();
    Link::new(BrokerLink::new(hosts, keys).unwrap(), Arc::new(identity(ALICE)), options)
}

/// Finishes within [`LIMIT`], or the test fails.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.expect("it takes too long")
}

/// A broker that does the hello, hands over each connection and answers each stream's requests with a count.
fn serve(listener: Arc<Listener>) -> mpsc::UnboundedReceiver<(Connection, Control)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(handshake) = listener.accept().await {
            tokio::spawn(serve_one(handshake, sender.clone()));
        }
    });
    receiver
}

async fn serve_one(
    handshake: Handshake,
    sender: mpsc::UnboundedSender<(Connection, Control)>,
) -> Result<(), LinkError> {
    let connection = handshake.establish().await?;
    let control = connection.accept_hello("test broker", HELLO_TIMEOUT, 8).await?;
    let _ = sender.send((connection.clone(), control));
    loop {
        let (mut writer, mut reader) = connection.accept().await?;
        tokio::spawn(async move {
            let mut count = 0;
            while let Some(_request) = reader.request().await? {
                count += 1;
            }
            writer.send(Reply::Done(Offset(count)).encode()).await
        });
    }
}

fn question() -> Request {
    Request::FetchTopic(TopicId([7; 32]))
}
