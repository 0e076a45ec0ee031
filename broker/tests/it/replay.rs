use std::time::Duration;

use sealcast_broker::Limits;
use sealcast_broker::settings::Size;
use sealcast_proto::frame::From;
use sealcast_proto::roster::Role;

use crate::subscribe::read_count;
use crate::world::{World, soon};

#[crate::wire(flavor = "multi_thread")]
pub async fn replays_that_nobody_reads_give_their_turns_back() {
    // Nobody is cut off, and next to nothing stands outside the log.
    let limits = Limits { stall: Duration::from_secs(3_600), ring_bytes: Size(2 << 20), ..Limits::default() };
    let world = World::with(limits).await;
    // More than have a turn at once, and one who reads.
    let members: Vec<(u8, Role)> =
        std::iter::once((2, Role::Publisher)).chain((10..21).map(|n| (n, Role::Reader))).collect();
    let (topic, admin, _owner) = world.topic(&members).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    // More than a stream's window (4 MiB), twice.
    let count = 40;
    for n in 0..count {
        pipe.batch(&mut hand, &vec![n as u8; 256 << 10]).await;
    }
    let mut silent = vec![];
    for n in 10..20 {
        let reader = world.client(n).await;
        let mut sub = reader.subscribe(topic, From::Earliest, None).await;
        // Its replay is under way.
        read_count(&mut sub, 1).await;
        silent.push((reader, sub));
    }
    let reader = world.client(20).await;
    let mut sub = reader.subscribe(topic, From::Earliest, None).await;
    let got = soon(read_count(&mut sub, count)).await;
    assert!(got.iter().enumerate().all(|(n, ciphertext)| ciphertext[0] == n as u8));
    pipe.batch(&mut hand, b"and then live").await;
    read_count(&mut sub, 1).await;
}
