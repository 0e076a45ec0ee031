use sealcast_proto::frame::{Code, Hello, Refusal};
use sealcast_proto::limits::PROTOCOL_VERSION;
use tokio::time::timeout;

use super::keys::raw_client;
use super::*;
use crate::{ConnectError, FrameReader, FrameWriter};

/// A broker's connection and a client's that has not said anything.
async fn silent_pair() -> (Connection, quinn::Connection) {
    let (listener, addr) = listen(ListenOptions::default());
    let accept = async { listener.accept().await.unwrap().establish().await.unwrap() };
    soon(async { tokio::join!(accept, raw_client(addr)) }).await
}

fn hello(version: u32, agent: &str) -> Request {
    Request::Hello(Hello { version, agent: agent.into(), time_ms: 5 })
}

async fn say(client: &quinn::Connection, request: &Request) -> (FrameWriter, FrameReader) {
    let (send, recv) = client.open_bi().await.unwrap();
    let (mut writer, reader) = (FrameWriter::new(send, None), FrameReader::new(recv, None));
    writer.send(request.encode()).await.unwrap();
    (writer, reader)
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off() {
    let (broker, client) = silent_pair().await;
    let outcome = soon(broker.accept_hello("b", Duration::from_millis(20), 8)).await;
    assert_eq!(outcome.unwrap_err(), LinkError::Late("say hello"));
    let reason = LinkError::from(soon(client.closed()).await);
    assert_eq!(reason, LinkError::Closed { reason: "no hello in time".into(), refused: false });
}

#[tokio::test]
async fn half_a_hello_is_no_hello() {
    let (broker, client) = silent_pair().await;
    let (mut send, _recv) = client.open_bi().await.unwrap();
    send.write_all(&hello(PROTOCOL_VERSION, "a").encode()[..7]).await.unwrap();
    let outcome = soon(broker.accept_hello("b", Duration::from_millis(20), 8)).await;
    assert_eq!(outcome.unwrap_err(), LinkError::Late("say hello"));
}

#[tokio::test]
async fn another_first_frame_ends_the_connection() {
    let (broker, client) = silent_pair().await;
    let _stream = say(&client, &question()).await;
    let outcome = soon(broker.accept_hello("b", LIMIT, 8)).await;
    assert!(matches!(outcome, Err(LinkError::Protocol(_))));
    let closed = LinkError::from(soon(client.closed()).await);
    assert!(matches!(closed, LinkError::Closed { refused: true, .. }), "{closed:?}");
    assert!(!closed.is_retryable());
}

#[tokio::test]
async fn before_the_hello_there_is_one_stream() {
    let (broker, client) = silent_pair().await;
    let (send, recv) = client.open_bi().await.unwrap();
    let second = client.open_bi();
    tokio::pin!(second);
    assert!(timeout(Duration::ZERO, &mut second).await.is_err(), "not permitted yet");
    assert!(timeout(Duration::ZERO, client.open_uni()).await.is_err(), "never permitted");

    let (mut writer, mut reader) = (FrameWriter::new(send, None), FrameReader::new(recv, None));
    writer.send(hello(PROTOCOL_VERSION, "a").encode()).await.unwrap();
    let control = soon(broker.accept_hello("b", LIMIT, 2)).await.unwrap();
    assert_eq!(control.hello.time_ms, 5);
    assert!(matches!(soon(reader.reply()).await, Ok(Some(Reply::Hello(hello))) if hello.agent == "b"));
    let _second = soon(second).await.unwrap();
    assert!(timeout(Duration::ZERO, client.open_bi()).await.is_err(), "the third of two");
}

#[tokio::test]
async fn a_client_of_another_version_is_told_so() {
    let (broker, client) = silent_pair().await;
    let (_writer, mut reader) = say(&client, &hello(PROTOCOL_VERSION + 1, "a")).await;
    let (outcome, reply) =
        soon(async { tokio::join!(broker.accept_hello("b", LIMIT, 8), reader.reply()) }).await;
    assert_eq!(outcome.unwrap_err(), LinkError::Version);
    assert!(matches!(reply, Ok(Some(Reply::Refused(refusal))) if refusal.code == Code::Version));
}

/// A link's outcome where a broker answers the hello with this.
async fn connect_answered(reply: Reply) -> Result<Connection, ConnectError> {
    let (listener, addr) = listen(ListenOptions::default());
    tokio::spawn(async move {
        let connection = listener.accept().await.unwrap().establish().await.unwrap();
        let (mut writer, mut reader) = connection.accept().await.unwrap();
        reader.request().await.unwrap();
        writer.send(reply.encode()).await.unwrap();
        connection.closed().await
    });
    soon(link_to(&[addr], &[BROKER], LinkOptions::default()).connect()).await
}

#[tokio::test]
async fn a_broker_of_another_version_is_refused() {
    let other = Hello { version: PROTOCOL_VERSION + 1, agent: String::new(), time_ms: 0 };
    let error = connect_answered(Reply::Hello(other)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Refused(refusal) if refusal.code == Code::Version));
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_refused_hello_says_why_in_one_safe_line() {
    let refusal = Refusal::new(Code::Draining, "moving to\x1b[31m another host\n");
    let error = connect_answered(Reply::Refused(refusal)).await.unwrap_err();
    assert_eq!(error.to_string(), "the broker refused: Draining: moving to[31m another host");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_broker_that_turns_an_identity_away_is_not_asked_again() {
    let (listener, addr) = listen(ListenOptions::default());
    tokio::spawn(async move {
        listener.accept().await.unwrap().establish().await.unwrap().refuse("not on this broker");
        listener.accept().await.map(drop)
    });
    let error = soon(link_to(&[addr], &[BROKER], LinkOptions::default()).connect()).await.unwrap_err();
    assert_eq!(error.to_string(), "the broker refused: NotAllowed: not on this broker");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_broker_that_goes_away_is_left_for_a_new_connection() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut connections = serve(listener);
    let link = link_to(&[addr], &[BROKER], LinkOptions::default());
    let first = soon(link.connect()).await.unwrap();
    let (there, mut control) = soon(connections.recv()).await.unwrap();
    control.writer.send(Reply::Refused(Refusal::new(Code::Draining, "update")).encode()).await.unwrap();
    assert_eq!(soon(first.noticed()).await.code, Code::Draining);
    assert!(!first.is_usable());

    let second = soon(link.connect()).await.unwrap();
    let (other, _control) = soon(connections.recv()).await.unwrap();
    assert_ne!(there.remote_addr().port(), 0);
    assert!(second.is_usable() && there.close_reason().is_none() && other.close_reason().is_none());
    // What was in hand on the old one is finished there, and then it ends.
    assert_eq!(soon(first.request([question()])).await, Ok(Reply::Done(Offset(1))));
    drop(first);
    assert!(matches!(soon(there.closed()).await, LinkError::Closed { refused: false, .. }));
}
