use std::net::UdpSocket;

use super::*;
use crate::ConnectError;

/// Nothing listens there: the network says so.
pub(super) fn dead_addr() -> SocketAddr {
    UdpSocket::bind(loopback()).unwrap().local_addr().unwrap()
}

fn impatient() -> LinkOptions {
    LinkOptions {
        connect_timeout: Duration::from_millis(400),
        address_timeout: Duration::from_millis(100),
        ..LinkOptions::default()
    }
}

#[tokio::test]
async fn a_dead_first_host_is_passed_over() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut connections = serve(listener);
    let link = link_to(&[dead_addr(), addr], &[BROKER], LinkOptions::default());
    let connection = soon(link.connect()).await.unwrap();
    assert_eq!(connection.remote_addr(), addr);
    soon(connections.recv()).await.unwrap();
}

#[tokio::test]
async fn a_silent_first_host_is_passed_over() {
    let (listener, addr) = listen(ListenOptions::default());
    let _connections = serve(listener);
    let silent = UdpSocket::bind(loopback()).unwrap();
    let hosts = [silent.local_addr().unwrap(), addr];
    let connection = soon(link_to(&hosts, &[BROKER], LinkOptions::default()).connect()).await.unwrap();
    assert_eq!(connection.remote_addr(), addr);
}

#[tokio::test]
async fn errors_say_what_to_look_at() {
    let dead = dead_addr();
    let error = soon(link_to(&[dead], &[BROKER], LinkOptions::default()).connect()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot reach a broker at {dead}: nothing listens at {dead}"));

    let silent = UdpSocket::bind(loopback()).unwrap();
    let addr = silent.local_addr().unwrap();
    let error = soon(link_to(&[addr], &[BROKER], impatient()).connect()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot reach a broker at {addr}: no answer from {addr} within 0.1 s")
    );
    assert!(error.is_retryable());

    // No label of a name is that long: refused without asking anyone.
    let broker = BrokerLink::new(vec![("a".repeat(64), 1)], vec![identity(BROKER).public()]).unwrap();
    let link = Link::new(broker, Arc::new(identity(ALICE)), LinkOptions::default());
    assert!(matches!(soon(link.connect()).await, Err(ConnectError::Resolve { .. })));
}

#[tokio::test]
async fn many_callers_share_one_connection() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut connections = serve(listener);
    let link = link_to(&[addr], &[BROKER], LinkOptions::default());
    let (a, b, c) = soon(async { tokio::join!(link.connect(), link.connected(), link.connect()) }).await;
    let (_there, _control) = soon(connections.recv()).await.unwrap();
    for connection in [a.unwrap(), b, c.unwrap()] {
        assert_eq!(soon(connection.request([question()])).await, Ok(Reply::Done(Offset(1))));
    }
    assert!(connections.try_recv().is_err(), "one connection for all");
}

#[tokio::test]
async fn many_callers_share_one_failure() {
    let link = link_to(&[dead_addr()], &[BROKER], LinkOptions::default());
    let (a, b, c) = soon(async { tokio::join!(link.connect(), link.connect(), link.connect()) }).await;
    let error = a.unwrap_err();
    assert_eq!((b.unwrap_err(), c.unwrap_err()), (error.clone(), error.clone()));
    assert_eq!(link.attempts(), 1);
    assert_eq!(link.last_error(), Some(error));
}

#[tokio::test]
async fn a_dropped_attempt_leaves_the_link_usable() {
    let (listener, addr) = listen(ListenOptions::default());
    let _connections = serve(listener);
    let link = link_to(&[addr], &[BROKER], LinkOptions::default());
    assert!(tokio::time::timeout(Duration::ZERO, link.connect()).await.is_err());
    assert!(soon(link.connect()).await.is_ok());
}

#[tokio::test]
async fn it_waits_for_a_broker_that_starts_later() {
    let addr = dead_addr();
    let link = link_to(&[addr], &[BROKER], LinkOptions::default());
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { link.connected().await }
    });
    while link.last_error().is_none() {
        tokio::task::yield_now().await;
    }
    let listener = Listener::bind(addr, &identity(BROKER), ListenOptions::default()).unwrap();
    let _connections = serve(Arc::new(listener));
    soon(waiting).await.unwrap();
    assert_eq!(link.last_error(), None);
}

/// A broker in a runtime of its own, to be killed: nothing it holds says goodbye.
async fn doomed_broker(addr: SocketAddr) -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let start = runtime.spawn(async move {
        let listener = Listener::bind(addr, &identity(BROKER), ListenOptions::default()).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut connections = serve(Arc::new(listener));
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Some(connection) = connections.recv().await {
                kept.push(connection);
            }
        });
        addr
    });
    let addr = start.await.unwrap();
    (runtime, addr)
}

#[tokio::test]
async fn a_restarted_broker_is_noticed_and_found_again() {
    let (runtime, addr) = doomed_broker(loopback()).await;
    let options = LinkOptions { keep_alive: Duration::from_millis(20), ..LinkOptions::default() };
    let link = link_to(&[addr], &[BROKER], options);
    let before = soon(link.connect()).await.unwrap();
    assert!(soon(before.request([question()])).await.is_ok());

    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(LIMIT)).await.unwrap();
    let (runtime, _) = doomed_broker(addr).await;
    // Its stateless reset, long before the idle timeout.
    assert_eq!(soon(before.closed()).await, LinkError::Reset);
    assert!(LinkError::Reset.is_retryable());

    let after = soon(link.connected()).await;
    assert_eq!(soon(after.request([question()])).await, Ok(Reply::Done(Offset(1))));
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(LIMIT)).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_closes_says_why() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut connections = serve(listener.clone());
    let link = link_to(&[addr], &[BROKER], LinkOptions::default());
    let connection = soon(link.connect()).await.unwrap();
    let _there = soon(connections.recv()).await.unwrap();
    listener.close("back at \x1b[1mnoon");
    let error = soon(connection.closed()).await;
    assert_eq!(error.to_string(), "the peer closed the connection: back at \u{fffd}[1mnoon");
    assert!(error.is_retryable());
    soon(listener.closed()).await;
    assert!(listener.accept().await.is_none());
}

#[tokio::test]
async fn a_closed_link_stays_closed() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut connections = serve(listener);
    let link = link_to(&[addr], &[BROKER], LinkOptions::default());
    let connection = soon(link.connect()).await.unwrap();
    let (there, _control) = soon(connections.recv()).await.unwrap();
    soon(link.close()).await;
    assert_eq!(connection.close_reason(), Some(LinkError::ClosedHere));
    let reason = soon(there.closed()).await;
    assert_eq!(reason, LinkError::Closed { reason: "the client is done".into(), refused: false });
    assert_eq!(soon(link.connect()).await.unwrap_err(), ConnectError::Closed);
    assert!(tokio::time::timeout(Duration::from_millis(1), link.connected()).await.is_err());
}

#[test]
fn a_link_outlives_the_runtime_it_began_in() {
    let (runtime, broker) =
        (tokio::runtime::Runtime::new().unwrap(), tokio::runtime::Runtime::new().unwrap());
    let (addr, _connections) = broker.block_on(async {
        let (listener, addr) = listen(ListenOptions::default());
        (addr, serve(listener))
    });
    let link = link_to(&[addr], &[BROKER], LinkOptions::default());
    assert!(runtime.block_on(soon(link.connect())).is_ok());
    runtime.shutdown_timeout(LIMIT);
    let connection = tokio::runtime::Runtime::new().unwrap().block_on(soon(link.connected()));
    assert_eq!(connection.peer(), identity(BROKER).public());
}

#[tokio::test]
async fn a_link_closed_during_an_attempt_ends_it() {
    let silent = UdpSocket::bind(loopback()).unwrap();
    let link = link_to(&[silent.local_addr().unwrap()], &[BROKER], LinkOptions::default());
    let attempt = tokio::spawn({
        let link = link.clone();
        async move { link.connect().await }
    });
    // Its first packet is on the way.
    let silent = {
        silent.set_nonblocking(true).unwrap();
        tokio::net::UdpSocket::from_std(silent).unwrap()
    };
    while soon(silent.recv(&mut [0; 2_000])).await.unwrap() < 1_200 {}
    soon(link.close()).await;
    assert_eq!(soon(attempt).await.unwrap().unwrap_err(), ConnectError::Closed);
}

#[tokio::test]
async fn every_future_can_be_spawned() {
    fn send<T: Send>(future: T) -> T {
        future
    }
    let (listener, addr) = listen(ListenOptions::default());
    let _connections = serve(listener);
    let link = link_to(&[addr], &[BROKER], impatient());
    drop(send(link.connected()));
    let connection = soon(send(link.connect())).await.unwrap();
    assert!(soon(send(connection.request([question()]))).await.is_ok());
    assert!(soon(send(connection.fetch(question()))).await.is_ok());
    soon(send(link.close())).await;
}
