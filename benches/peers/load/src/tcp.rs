//! NATS and MQTT over TLS, spoken by hand: fixed topics and sizes, so that a message's length is known.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::load::{Load, message, number};
use crate::plan::Fanout;
use crate::{Peer, certs};

/// Bytes read at a time, at most.
const READ: usize = 64 << 10;

pub async fn fanout(plan: &Fanout) -> Result<Value> {
    let load = Load::new(plan);
    let wire = Wire::new(plan.peer, plan.size);
    for subscriber in 0..plan.subscribers {
        let mut stream = connect(plan.peer, &plan.server).await?;
        match plan.peer {
            Peer::Nats => {
                stream.write_all(b"SUB b 1\r\nPING\r\n").await?;
                line(&mut stream, "PONG").await?;
            }
            _ => {
                // SUBSCRIBE to "b" with QoS 0, and its answer.
                stream.write_all(&[0x82, 6, 0, 1, 0, 1, b'b', 0]).await?;
                let mut answer = [0; 5];
                stream.read_exact(&mut answer).await?;
                ensure!(answer == [0x90, 3, 0, 1, 0], "SUBACK: {answer:?}");
            }
        }
        let (load, wire) = (Arc::clone(&load), wire.clone());
        tokio::spawn(async move {
            if let Err(error) = wire.read(stream, subscriber, &load).await {
                eprintln!("{error:#}");
                std::process::exit(1);
            }
        });
    }
    let mut publisher = connect(plan.peer, &plan.server).await?;
    let mut buffer = Vec::new();
    let publish = load.publish(plan, async |first, count| {
        buffer.clear();
        for of in first..first + count {
            buffer.extend_from_slice(&wire.publish_head);
            message(of, wire.size, &mut buffer);
            buffer.extend_from_slice(wire.tail);
        }
        load.sending(count);
        publisher.write_all(&buffer).await?;
        Ok(publisher.flush().await?)
    });
    tokio::select! {
        published = publish => published.and_then(|()| bail!("the publisher ended")),
        result = load.measure(plan) => result,
    }
}

/// How messages stand on the wire.
#[derive(Clone)]
struct Wire {
    size: usize,
    publish_head: Vec<u8>,
    delivery_head: Vec<u8>,
    tail: &'static [u8],
}

impl Wire {
    fn new(peer: Peer, size: usize) -> Self {
        if peer == Peer::Nats {
            return Self {
                size,
                publish_head: format!("PUB b {size}\r\n").into(),
                delivery_head: format!("MSG b 1 {size}\r\n").into(),
                tail: b"\r\n",
            };
        }
        let mut head = vec![0x30];
        let mut rest = size + 3;
        loop {
            let more = rest > 127;
            head.push((rest % 128) as u8 | u8::from(more) << 7);
            rest /= 128;
            if !more {
                break;
            }
        }
        head.extend_from_slice(&[0, 1, b'b']);
        Self { size, publish_head: head.clone(), delivery_head: head, tail: b"" }
    }

    async fn read(&self, mut stream: TlsStream<TcpStream>, subscriber: usize, load: &Load) -> Result<()> {
        let head = self.delivery_head.len();
        let frame = head + self.size + self.tail.len();
        let mut buffer = vec![0; READ + frame];
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "subscriber {subscriber} was cut off");
            filled += read;
            let mut at = 0;
            let first = load.next(subscriber);
            let mut next = first;
            while at < filled {
                let rest = &buffer[at..filled];
                if rest[0] == self.delivery_head[0] {
                    let Some(whole) = rest.get(..frame) else { break };
                    let got = number(&whole[head..]);
                    ensure!(got == next, "subscriber {subscriber} got message {got} where {next} was due");
                    next += 1;
                    at += frame;
                } else {
                    // A line of NATS's own: PING, INFO.
                    let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { break };
                    ensure!(!rest.starts_with(b"-ERR"), "{}", String::from_utf8_lossy(&rest[..end]));
                    at += end + 2;
                }
            }
            load.got(subscriber, first, next - first)?;
            buffer.copy_within(at..filled, 0);
            filled -= at;
        }
    }
}

/// Connects, with TLS, as far as a first message.
pub async fn connect(peer: Peer, server: &str) -> Result<TlsStream<TcpStream>> {
    let mut tcp = TcpStream::connect(server).await.with_context(|| format!("connect to {server}"))?;
    tcp.set_nodelay(true)?;
    if peer == Peer::Nats {
        // The server says INFO in the clear, then both change to TLS.
        let mut byte = [0];
        while byte != *b"\n" {
            tcp.read_exact(&mut byte).await?;
        }
    }
    let connector = TlsConnector::from(Arc::new(certs::client(None)?));
    let mut stream = connector.connect(ServerName::try_from("localhost")?, tcp).await.context("TLS")?;
    if peer == Peer::Nats {
        stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":true,\"lang\":\"rust\",\"version\":\"0\",\"protocol\":1,\"echo\":false,\"headers\":true,\"no_responders\":true}\r\nPING\r\n").await?;
        line(&mut stream, "PONG").await?;
    } else {
        // CONNECT, MQTT 3.1.1, clean session, no keep-alive, no name.
        let connect = [&[0x10, 12, 0, 4], &b"MQTT"[..], &[4, 2, 0, 0, 0, 0]].concat();
        stream.write_all(&connect).await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        ensure!(answer == [0x20, 2, 0, 0], "CONNACK: {answer:?}");
    }
    Ok(stream)
}

/// Reads lines up to this one.
async fn line(stream: &mut TlsStream<TcpStream>, wanted: &str) -> Result<()> {
    let mut line = Vec::new();
    loop {
        let byte = stream.read_u8().await?;
        if byte != b'\n' {
            line.push(byte);
            continue;
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        ensure!(!text.starts_with("-ERR"), "{text}");
        if text == wanted {
            return Ok(());
        }
        line.clear();
    }
}
