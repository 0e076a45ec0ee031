//! Bare QUIC: a server that passes what one publisher writes on to every subscriber, in slabs of 64 KiB, and knows no
//! topics, no records and no disk. What any fan-out over quinn can reach at most.
//!
//! A connection's first byte says what it is: `p` publishes on its stream, `s` is sent everything from then on.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::certs;
use crate::load::{Load, message, number};
use crate::plan::Fanout;

/// Bytes of a slab.
const SLAB: usize = 64 << 10;
/// Slabs that may wait for a subscriber.
const WAITING: usize = 256;

type Subscribers = Arc<Mutex<Vec<mpsc::Sender<Bytes>>>>;

pub async fn serve(listen: SocketAddr, mtu: u16) -> Result<()> {
    let crypto = QuicServerConfig::try_from(certs::server()?)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport(mtu)));
    let endpoint =
        Endpoint::new(endpoint_config(mtu)?, Some(config), socket(listen)?, Arc::new(TokioRuntime))?;
    println!("{}", endpoint.local_addr()?);
    let subscribers = Subscribers::default();
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(connection(incoming, Arc::clone(&subscribers)));
    }
    Ok(())
}

async fn connection(incoming: quinn::Incoming, subscribers: Subscribers) -> Result<()> {
    let connection = incoming.await?;
    let (mut send, mut recv) = connection.accept_bi().await?;
    let mut role = [0];
    recv.read_exact(&mut role).await?;
    if role == *b"s" {
        let (slabs, mut waiting) = mpsc::channel::<Bytes>(WAITING);
        subscribers.lock().expect("no panic").push(slabs);
        send.write_all(b"!").await?;
        let mut batch = Vec::new();
        // All that waits in one call.
        while waiting.recv_many(&mut batch, 16).await > 0 {
            let mut rest = &mut batch[..];
            while !rest.is_empty() {
                let written = send.write_chunks(rest).await?;
                rest = &mut rest[written.chunks..];
            }
            batch.clear();
        }
        return Ok(());
    }
    let mut slab = BytesMut::with_capacity(SLAB);
    while let Some(chunk) = recv.read_chunk(SLAB, true).await? {
        slab.extend_from_slice(&chunk.bytes);
        // What else has arrived goes with it.
        while slab.len() < SLAB {
            match recv.read_chunk(SLAB - slab.len(), true).now_or_never() {
                Some(Ok(Some(chunk))) => slab.extend_from_slice(&chunk.bytes),
                _ => break,
            }
        }
        let bytes = slab.split().freeze();
        slab.reserve(SLAB);
        let to = subscribers.lock().expect("no panic").clone();
        for subscriber in to {
            let _ = subscriber.send(bytes.clone()).await;
        }
    }
    Ok(())
}

pub async fn fanout(plan: &Fanout) -> Result<Value> {
    let load = Load::new(plan);
    let mut keep = Vec::new();
    for subscriber in 0..plan.subscribers {
        let (endpoint, connection) = connect(plan).await?;
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(b"s").await?;
        let mut ready = [0];
        recv.read_exact(&mut ready).await?;
        keep.push((endpoint, connection, send));
        let (load, size) = (Arc::clone(&load), plan.size);
        tokio::spawn(async move {
            if let Err(error) = read(recv, subscriber, size, &load).await {
                eprintln!("{error:#}");
                std::process::exit(1);
            }
        });
    }
    let (_endpoint, connection) = connect(plan).await?;
    let (mut send, _recv) = connection.open_bi().await?;
    send.write_all(b"p").await?;
    let size = plan.size;
    let publish = load.publish(plan, async |first, count| {
        let mut buffer = Vec::with_capacity(count as usize * size);
        for of in first..first + count {
            message(of, size, &mut buffer);
        }
        load.sending(count);
        Ok(send.write_chunk(Bytes::from(buffer)).await?)
    });
    tokio::select! {
        published = publish => published.and_then(|()| bail!("the publisher ended")),
        result = load.measure(plan) => result,
    }
}

async fn read(mut recv: quinn::RecvStream, subscriber: usize, size: usize, load: &Load) -> Result<()> {
    // Of a message whose other part is still to come.
    let mut part = Vec::new();
    loop {
        let Some(chunk) = recv.read_chunk(SLAB, true).await? else {
            bail!("subscriber {subscriber} was cut off")
        };
        let mut bytes = &chunk.bytes[..];
        let first = load.next(subscriber);
        let mut next = first;
        let mut whole = |message: &[u8]| {
            let got = number(message);
            ensure!(got == next, "subscriber {subscriber} got message {got} where {next} was due");
            next += 1;
            Ok(())
        };
        if !part.is_empty() {
            let (missing, rest) = bytes.split_at(bytes.len().min(size - part.len()));
            part.extend_from_slice(missing);
            bytes = rest;
            if part.len() == size {
                whole(&part)?;
                part.clear();
            }
        }
        while bytes.len() >= size {
            let (message, rest) = bytes.split_at(size);
            whole(message)?;
            bytes = rest;
        }
        part.extend_from_slice(bytes);
        load.got(subscriber, first, next - first)?;
    }
}

async fn connect(plan: &Fanout) -> Result<(Endpoint, Connection)> {
    let mut config =
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(certs::client(Some(b"bare"))?)?));
    config.transport_config(Arc::new(transport(plan.mtu)));
    let socket = socket("127.0.0.1:0".parse()?)?;
    let endpoint = Endpoint::new(endpoint_config(plan.mtu)?, None, socket, Arc::new(TokioRuntime))?;
    let connection = endpoint.connect_with(config, plan.server.parse()?, "localhost")?.await?;
    Ok((endpoint, connection))
}

/// As our own connections are set up (link/src/transport.rs).
fn transport(mtu: u16) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu);
    let mut config = TransportConfig::default();
    config
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window((4_u32 << 20).into())
        .receive_window((16_u32 << 20).into())
        .send_window(4 << 20)
        .datagram_receive_buffer_size(None);
    config
}

fn endpoint_config(mtu: u16) -> Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(mtu.max(1472))?;
    Ok(config)
}

fn socket(addr: SocketAddr) -> Result<std::net::UdpSocket> {
    Ok(std::net::UdpSocket::bind(addr)?)
}
