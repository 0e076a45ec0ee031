//! Our broker, loaded by a publisher that seals by hand, so that the size of batches is chosen here, and by subscribers
//! that read its records without opening them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sealcast::{BrokerLink, Durability, Identity, LinkOptions, Policy, Role, State, TopicAdmin, TopicId};
use sealcast_envelope::{EpochPlan, EpochSender, Message, WrapKey, WrapTarget, fresh};
use sealcast_link::{Connection, FrameReader, FrameWriter, Link, Turns};
use sealcast_proto::frame::{From as Begin, Reply, Request, Subscribe, TABLE_FRAME_SLOTS};
use sealcast_proto::limits::{MAX_EPOCH_BATCHES, SLOT_BYTES};
use sealcast_proto::object::PrevClose;
use sealcast_proto::record::Record;
use sealcast_proto::{Epoch, Hash, Seq, SlotSource};
use serde_json::Value;

use crate::load::{Load, message};
use crate::plan::Fanout;

/// Handshakes under way at once.
const AT_ONCE: usize = 32;

pub async fn fanout(plan: &Fanout) -> Result<Value> {
    let load = Load::new(plan);
    let broker: BrokerLink = plan.server.parse()?;
    let generate = || Arc::new(Identity::generate(&mut rand::rng()));
    let readers: Vec<_> = std::iter::repeat_with(generate).take(plan.subscribers).collect();
    let owner = generate();
    let members: Vec<_> = readers.iter().map(|reader| (reader.public(), Role::Reader)).collect();
    let policy = Policy { durability: Durability::Memory, ..Policy::default() };
    let admin =
        TopicAdmin::create(&broker, "peers", owner.clone(), &State::memory(), policy, &members).await?;
    let topic = admin.link().topic;
    let options = LinkOptions { max_udp_payload: plan.mtu, ..LinkOptions::default() };
    let subscribe = |reader: Arc<Identity>| {
        let link = Link::new(broker.clone(), reader, options.clone());
        async move {
            let connection = Turns::new(&link).connect().await?;
            let (mut writer, mut reader) = connection.open().await?;
            let wish = Subscribe { topic, from: Begin::Latest, roster_seq: None, until_head: false };
            writer.send(Request::Subscribe(wish).encode()).await?;
            while !matches!(reader.reply().await?.context("a reply")?, Reply::AtHead { .. }) {}
            Ok::<_, anyhow::Error>((link, writer, reader))
        }
    };
    let subscribed: Vec<_> = stream::iter(readers).map(subscribe).buffered(AT_ONCE).try_collect().await?;
    let mut keep = Vec::new();
    for (subscriber, (link, writer, reader)) in subscribed.into_iter().enumerate() {
        keep.push((link, writer));
        let load = Arc::clone(&load);
        tokio::spawn(async move {
            if let Err(error) = read(reader, subscriber, &load).await {
                eprintln!("{error:#}");
                std::process::exit(1);
            }
        });
    }
    let link = Link::new(broker.clone(), owner.clone(), options);
    let mut hand = Hand::begin(link.connect().await?, owner, &admin, topic).await?;
    let size = plan.size;
    let publish = load.publish(plan, async |first, count| {
        let frame = hand.batch(first, count, size).await?;
        load.sending(count);
        Ok(hand.writer.send(frame).await?)
    });
    tokio::select! {
        published = publish => published.and_then(|()| bail!("the publisher ended")),
        result = load.measure(plan) => result,
    }
}

async fn read(mut reader: FrameReader, subscriber: usize, load: &Load) -> Result<()> {
    loop {
        let Some(reply) = reader.reply().await? else { bail!("subscriber {subscriber} was cut off") };
        match reply {
            Reply::Record(_, record) => {
                let Record::Batch(batch) = Record::decode(record)? else { bail!("a header among batches") };
                let batch = batch.peek()?;
                load.got(subscriber, batch.first_seq.0, batch.count.into())?;
            }
            Reply::Refused(refusal) => bail!("refused: {}", refusal.detail),
            _ => {}
        }
    }
}

/// A publisher that seals what it is told to, in the batches it is told to.
struct Hand {
    connection: Connection,
    identity: Arc<Identity>,
    plan: EpochPlan,
    targets: Vec<WrapTarget>,
    sender: EpochSender,
    writer: FrameWriter,
}

impl Hand {
    async fn begin(
        connection: Connection,
        identity: Arc<Identity>,
        admin: &TopicAdmin,
        topic: TopicId,
    ) -> Result<Self> {
        let mut targets = Vec::new();
        for (member, of) in admin.roster().members() {
            let (identity, source) = (of.identity, SlotSource::Static);
            targets.push(WrapTarget { member, identity, source, x25519: WrapKey::of_identity(&identity) });
        }
        let chain = admin.roster().chain();
        let plan = EpochPlan {
            topic,
            publisher: identity.public(),
            epoch: Epoch(now_ms()),
            prev_header_hash: Hash::ZERO,
            roster_seq: chain.seq(),
            roster_hash: chain.hash(),
        };
        let (mut writer, mut reader) = connection.open().await?;
        writer.send(Request::Publish(topic).encode()).await?;
        tokio::spawn(async move {
            loop {
                match reader.reply().await {
                    Ok(Some(Reply::Ack(_))) => {}
                    other => {
                        eprintln!("the publisher was told {other:?}");
                        std::process::exit(1);
                    }
                }
            }
        });
        let sender = epoch(&connection, &mut writer, &plan, &targets, None, &identity).await?;
        Ok(Self { connection, identity, plan, targets, sender, writer })
    }

    /// The frame of the next batch. A new epoch begins where the last one is full.
    async fn batch(&mut self, first: u64, count: u64, size: usize) -> Result<Bytes> {
        if self.sender.next_batch_no().0 >= MAX_EPOCH_BATCHES {
            let close = PrevClose {
                batches: self.sender.next_batch_no().0.into(),
                last_batch_hash: self.sender.last_hash(),
            };
            self.plan.epoch = Epoch(self.plan.epoch.0 + 1);
            self.plan.prev_header_hash = self.sender.header_hash();
            let Self { connection, identity, plan, targets, writer, .. } = self;
            self.sender = epoch(connection, writer, plan, targets, Some(close), identity).await?;
        }
        let mut messages = Vec::with_capacity(count as usize);
        for of in first..first + count {
            let mut payload = Vec::with_capacity(size);
            message(of, size, &mut payload);
            messages.push(Message::new(payload).encode()?);
        }
        let record = self.sender.seal(&messages, Seq(first), now_ms(), false)?;
        Ok(Request::Record(Record::Batch(record).encode()).encode())
    }
}

/// Begins an epoch: uploads its table and publishes its header.
async fn epoch(
    connection: &Connection,
    writer: &mut FrameWriter,
    plan: &EpochPlan,
    targets: &[WrapTarget],
    close: Option<PrevClose>,
    identity: &Identity,
) -> Result<EpochSender> {
    let new = fresh(plan, targets, &mut rand::rng())?;
    let (table, slot_count, slots_hash) = (new.table(), new.slot_count(), new.slots_hash());
    ensure!(slot_count as usize == targets.len(), "somebody's key is unusable");
    let step = TABLE_FRAME_SLOTS * SLOT_BYTES;
    let chunks = (0..table.len()).step_by(step).map(|from| table.slice(from..table.len().min(from + step)));
    let announce = Request::UploadTable { topic: plan.topic, slot_count, slots_hash };
    let requests: Vec<_> = std::iter::once(announce).chain(chunks.map(Request::Table)).collect();
    connection.request(requests).await?;
    let (header, sender, _) = new.finish(close, now_ms(), identity);
    writer.send(Request::Record(Record::Header(header).encode()).encode()).await?;
    Ok(sender)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}
