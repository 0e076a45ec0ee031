use sealcast_proto::frame::{Code, From};
use sealcast_proto::roster::Role;

use crate::hand::batch_record;
use crate::world::{World, ciphertexts, soon};

#[crate::wire(flavor = "multi_thread")]
pub async fn what_was_sent_is_answered_and_everybody_is_told() {
    let mut world = World::new().await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let count = 200;
    for n in 0..count {
        pipe.record(batch_record(&hand.batch(&[n; 2_000]))).await;
    }
    // The first answer: the broker has begun on them.
    pipe.ack().await;
    let broker = world.broker.take().unwrap();
    let connection = client.connection.clone();
    let acks = async {
        let mut acks = 1;
        while let Ok(Some(_)) = pipe.maybe().await {
            acks += 1;
        }
        acks
    };
    let ((), notice, acks) =
        soon(async { tokio::join!(broker.shutdown(), connection.noticed(), acks) }).await;
    assert_eq!(notice.code, Code::Draining);
    assert!(soon(connection.closed()).await.to_string().contains("going away"));
    drop(owner);
    world.start().await;
    let stored = ciphertexts(&world.client(1).await.read_all(topic, From::Earliest, None).await).len();
    assert!(acks <= stored && acks > 1, "{acks} acknowledged, {stored} stored");
}
