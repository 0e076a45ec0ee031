use std::net::UdpSocket;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use super::keys::raw_client;
use super::*;
use crate::ConnectError;

fn noise(rng: &mut StdRng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(1..=most)];
    rng.fill_bytes(&mut bytes);
    bytes
}

#[tokio::test]
async fn noise_on_the_port_harms_nobody() {
    let (listener, addr) = listen(ListenOptions::default());
    let _connections = serve(listener);
    let socket = UdpSocket::bind(loopback()).unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    for round in 0..2_000 {
        let mut packet = noise(&mut rng, 1_400);
        if round % 2 == 0 {
            // The beginning of a first packet, version 1, full size.
            packet.resize(1_200, 0);
            let first = 0xc0 | (packet[0] & 0x0f);
            packet[..6].copy_from_slice(&[first, 0, 0, 0, 1, 8]);
        }
        let _ = socket.send_to(&packet, addr);
    }
    let connection = soon(link_to(&[addr], &[BROKER], LinkOptions::default()).connected()).await;
    assert_eq!(soon(connection.request([question()])).await, Ok(Reply::Done(Offset(1))));
}

#[tokio::test]
async fn noise_instead_of_a_hello_is_an_error() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut rng = StdRng::seed_from_u64(2);
    for _ in 0..20 {
        let broker = async {
            let connection = listener.accept().await.unwrap().establish().await.unwrap();
            connection.accept_hello("b", Duration::from_millis(200), 8).await
        };
        let (broker, client) =
            soon(async { tokio::join!(broker, shout(addr, noise(&mut rng, 3_000))) }).await;
        assert!(broker.is_err());
        assert!(matches!(LinkError::from(soon(client.closed()).await), LinkError::Closed { .. }));
    }
}

/// Connects and writes this where the hello should stand.
async fn shout(addr: SocketAddr, bytes: Vec<u8>) -> quinn::Connection {
    let client = raw_client(addr).await;
    let (mut send, _recv) = client.open_bi().await.unwrap();
    // The broker may stop reading in the middle.
    let _ = send.write_all(&bytes).await;
    let _ = send.finish();
    client
}

#[tokio::test]
async fn noise_on_a_stream_ends_the_stream_only() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut connections = serve(listener);
    let link = link_to(&[addr], &[BROKER], LinkOptions::default());
    let connection = soon(link.connect()).await.unwrap();
    let _there = soon(connections.recv()).await.unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..50 {
        let (mut writer, mut reader) = soon(connection.open()).await.unwrap();
        let _ = writer.send(noise(&mut rng, 3_000).into()).await;
        writer.finish();
        // The broker's task ends on the error, and with it the stream.
        let _ = soon(reader.reply()).await;
    }
    assert_eq!(soon(connection.request([question()])).await, Ok(Reply::Done(Offset(1))));
}

#[tokio::test]
async fn under_load_an_address_is_proven_first() {
    let (listener, addr) = listen(ListenOptions { retry_above: 0, ..ListenOptions::default() });
    let _connections = serve(listener);
    let connection = soon(link_to(&[addr], &[BROKER], LinkOptions::default()).connect()).await.unwrap();
    assert_eq!(soon(connection.request([question()])).await, Ok(Reply::Done(Offset(1))));
}

#[tokio::test]
async fn a_full_broker_says_so() {
    let (listener, addr) = listen(ListenOptions { max_handshakes: 0, ..ListenOptions::default() });
    let _connections = serve(listener);
    let error = soon(link_to(&[addr], &[BROKER], LinkOptions::default()).connect()).await.unwrap_err();
    assert!(error.to_string().contains("refused to accept"), "{error}");
    assert!(matches!(error, ConnectError::Unreachable { .. }) && error.is_retryable());
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut_off() {
    let (listener, addr) =
        listen(ListenOptions { handshake_timeout: Duration::from_millis(20), ..ListenOptions::default() });
    // A client of whom nothing but its first packet arrives, not even that it is gone.
    let relay = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    let client = tokio::spawn(raw_client(relay.local_addr().unwrap()));
    let mut first = [0; 2048];
    let (len, _) = soon(relay.recv_from(&mut first)).await.unwrap();
    relay.send_to(&first[..len], addr).await.unwrap();
    let handshake = soon(listener.accept()).await.unwrap();
    let outcome = soon(handshake.establish()).await;
    assert!(matches!(outcome, Err(LinkError::Late(_))), "{outcome:?}");
    client.abort();
}
