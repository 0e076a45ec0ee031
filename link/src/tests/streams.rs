use bytes::Bytes;
use sealcast_proto::frame::{Code, FrameError, FrameKind, Refusal, frame_header};
use sealcast_proto::limits::MAX_RECORD_FRAME;

use super::keys::raw_connect_with;
use super::*;
use crate::{FrameReader, FrameWriter, RequestError};
use crate::{tls, transport};

/// A connected pair; the broker answers nothing by itself.
struct Pair {
    here: Connection,
    there: Connection,
    _control: Control,
    _link: Link,
    _listener: Arc<Listener>,
}

type Stream = (FrameWriter, FrameReader);

impl Pair {
    async fn new() -> Self {
        Self::with(ListenOptions::default(), LinkOptions::default()).await
    }

    async fn with(theirs: ListenOptions, ours: LinkOptions) -> Self {
        let (listener, addr) = listen(theirs);
        let link = link_to(&[addr], &[BROKER], ours);
        let broker = async {
            let connection = listener.accept().await.unwrap().establish().await.unwrap();
            let control = connection.accept_hello("b", LIMIT, 8).await.unwrap();
            (connection, control)
        };
        let (here, (there, control)) = soon(async { tokio::join!(link.connect(), broker) }).await;
        Self { here: here.unwrap(), there, _control: control, _link: link, _listener: listener }
    }

    /// A stream's two ends; its first frame has been read.
    async fn stream(&self) -> (Stream, Stream) {
        let mut near = self.here.open().await.unwrap();
        near.0.send(question().encode()).await.unwrap();
        let mut far = soon(self.there.accept()).await.unwrap();
        assert_eq!(soon(far.1.request()).await, Ok(Some(question())));
        (near, far)
    }
}

/// Loopback carries 64 KiB: what is found is what both sides allow.
#[tokio::test]
async fn large_datagrams_are_used_where_both_sides_allow_them() {
    for (ours, theirs) in [(6_000, 6_000), (6_000, 1_452), (1_452, 6_000)] {
        let listen = ListenOptions { max_udp_payload: theirs, ..ListenOptions::default() };
        let link = LinkOptions { max_udp_payload: ours, ..LinkOptions::default() };
        let pair = Pair::with(listen, link).await;
        let ((mut writer, mut answers), (mut reply, mut reader)) = pair.stream().await;
        let most = ours.min(theirs);
        let found = async {
            // The search ends some bytes below the bound.
            while [&pair.here, &pair.there].iter().any(|end| end.udp_payload() < most - 50) {
                writer.send(question().encode()).await.unwrap();
                reader.request().await.unwrap();
                reply.send(Reply::Done(Offset(1)).encode()).await.unwrap();
                answers.reply().await.unwrap();
            }
        };
        soon(found).await;
        // What a side takes is at least 1,472, quinn's default.
        assert!([&pair.here, &pair.there].iter().all(|end| end.udp_payload() <= most.max(1_472)));
    }
}

#[tokio::test]
async fn frames_arrive_whole_in_order_and_then_the_end() {
    let pair = Pair::new().await;
    let ((mut writer, _), (_, mut reader)) = pair.stream().await;
    let large = Bytes::from(vec![3; MAX_RECORD_FRAME]);
    let sent =
        [Request::Record(large.clone()), question(), Request::Table(Bytes::new()), Request::Record(large)];
    let write = async {
        let mut frames: Vec<_> = sent.iter().map(Request::encode).collect();
        writer.send_all(&mut frames).await.unwrap();
        assert!(frames.iter().all(Bytes::is_empty), "what was written is taken out");
        let stopped = writer.stopped();
        writer.finish();
        stopped.await
    };
    let read = async {
        let mut got = Vec::new();
        while let Some(request) = reader.request().await.unwrap() {
            got.push(request);
        }
        assert_eq!(reader.request().await, Ok(None), "the end stays the end");
        got
    };
    let (written, got) = soon(async { tokio::join!(write, read) }).await;
    assert_eq!(written, Ok(()));
    assert!(got == sent);
}

#[tokio::test]
async fn a_frame_over_its_limit_ends_the_stream() {
    let pair = Pair::new().await;
    let ((mut writer, _reader), (_writer, mut far)) = pair.stream().await;
    let header = frame_header(FrameKind::Control, FrameKind::Control.max_len() + 1);
    writer.send(Bytes::copy_from_slice(&header)).await.unwrap();
    let error = soon(far.next()).await.unwrap_err();
    assert!(matches!(error, LinkError::Frame(FrameError::TooLong { .. })));
    assert_eq!(soon(far.next()).await, Err(error));
    assert_eq!(soon(writer.stopped()).await, Err(LinkError::StreamStopped));
    assert!(pair.here.is_usable(), "the other streams go on");
}

#[tokio::test]
async fn an_abandoned_stream_is_not_taken_for_a_finished_one() {
    let pair = Pair::new().await;
    let ((mut writer, _reader), (_writer, mut far)) = pair.stream().await;
    writer.reset();
    assert_eq!(soon(far.next()).await, Err(LinkError::StreamReset));

    let ((mut writer, _reader), (_writer, mut far)) = pair.stream().await;
    writer.send(question().encode().slice(..9)).await.unwrap();
    writer.finish();
    assert_eq!(soon(far.next()).await, Err(LinkError::Truncated));
    assert_eq!(writer.send(question().encode()).await, Err(LinkError::StreamClosed));
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_not_waited_for() {
    let pair = Pair::new().await;
    let ((_, _reader), (mut writer, _far)) = pair.stream().await;
    let record = Reply::Record(Offset(1), vec![0; 1 << 20].into()).encode();
    let mut frames = vec![record; 64];
    let outcome = soon(writer.send_all_within(&mut frames, Duration::from_millis(50))).await;
    assert_eq!(outcome, Err(LinkError::Stalled));
}

/// It takes something again and again, as a client with a small window can make a broker see; but never enough.
#[tokio::test]
async fn a_peer_that_trickles_is_not_waited_for() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut transport = transport::client(1_452, transport::KEEP_ALIVE, 1);
    transport.stream_receive_window(4_096_u32.into());
    let client = tls::test_client(&identity(ALICE), [identity(BROKER).public()].into());
    let accept = async { listener.accept().await.unwrap().establish().await.unwrap() };
    let (broker, client) =
        soon(async { tokio::join!(accept, raw_connect_with(client, transport, addr)) }).await;
    let client = client.unwrap();
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.write_all(&question().encode()).await.unwrap();
    let (mut writer, _reader) = soon(broker.accept()).await.unwrap();
    let mut frames = vec![Reply::Record(Offset(1), vec![0; 64 << 10].into()).encode()];
    let stall = Duration::from_millis(200);
    // At most 9 KiB within the deadline, however the machine is loaded: what QUIC takes at once, and this.
    let trickle = async {
        let mut due = tokio::time::interval(stall / 10);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut taken = 0;
        while let Ok(Some(some)) = recv.read(&mut [0; 512]).await {
            taken += some;
            due.tick().await;
        }
        taken
    };
    let (outcome, taken) =
        soon(async { tokio::join!(writer.send_all_within(&mut frames, stall), trickle) }).await;
    assert_eq!(outcome, Err(LinkError::Stalled));
    assert!(taken < 64 << 10, "{taken}");
}

#[tokio::test]
async fn an_interrupted_write_goes_on_where_it_stopped() {
    let pair = Pair::new().await;
    let ((_, mut reader), (mut writer, _far)) = pair.stream().await;
    let sent: Vec<_> = (0..40).map(|n| Reply::Record(Offset(n), vec![n as u8; 1 << 20].into())).collect();
    let write = async {
        let mut frames: Vec<_> = sent.iter().map(Reply::encode).collect();
        loop {
            // Dropped at every wait.
            if let Ok(done) = tokio::time::timeout(Duration::ZERO, writer.send_all(&mut frames)).await {
                break done.unwrap();
            }
            tokio::task::yield_now().await;
        }
        writer.finish();
    };
    let read = async {
        for expected in &sent {
            assert!(reader.reply().await.unwrap().as_ref() == Some(expected));
        }
        assert_eq!(reader.reply().await, Ok(None));
    };
    soon(async { tokio::join!(write, read) }).await;
}

#[tokio::test]
async fn a_request_is_answered_once() {
    let pair = Pair::new().await;
    let answer = async {
        let (mut writer, mut reader) = pair.there.accept().await.unwrap();
        while reader.request().await.unwrap().is_some() {}
        writer.send(Reply::Done(Offset(9)).encode()).await.unwrap();
    };
    let frames = [question(), Request::Table(Bytes::from_static(&[1; 56]))];
    let (reply, ()) = soon(async { tokio::join!(pair.here.request(frames), answer) }).await;
    assert_eq!(reply, Ok(Reply::Done(Offset(9))));
}

#[tokio::test]
async fn an_early_refusal_ends_an_upload() {
    let pair = Pair::new().await;
    let refuse = async {
        let (mut writer, mut reader) = pair.there.accept().await.unwrap();
        reader.request().await.unwrap();
        reader.stop();
        writer.send(Reply::Refused(Refusal::new(Code::Busy, "later")).encode()).await.unwrap();
        (writer, reader)
    };
    let endless = std::iter::repeat_with(|| Request::Table(vec![0; 56 * 1024].into()));
    let (reply, _stream) = soon(async { tokio::join!(pair.here.request(endless), refuse) }).await;
    let Err(RequestError::Refused(refusal)) = reply else { panic!("{reply:?}") };
    assert_eq!((refusal.code, refusal.detail.as_str()), (Code::Busy, "later"));
}

#[tokio::test]
async fn no_answer_is_an_error_not_a_success() {
    let pair = Pair::new().await;
    let end = async { drop(pair.there.accept().await.unwrap()) };
    let (reply, ()) = soon(async { tokio::join!(pair.here.request([question()]), end) }).await;
    assert_eq!(reply, Err(RequestError::NoAnswer));
}

#[tokio::test]
async fn replies_come_one_by_one_until_the_end_or_a_refusal() {
    let pair = Pair::new().await;
    let answer = async {
        for last in [None, Some(Refusal::new(Code::NotAllowed, "no"))] {
            let (mut writer, _reader) = pair.there.accept().await.unwrap();
            let first = Reply::Done(Offset(1)).encode();
            let mut frames: Vec<_> = [Some(first), last.map(|refusal| Reply::Refused(refusal).encode())]
                .into_iter()
                .flatten()
                .collect();
            writer.send_all(&mut frames).await.unwrap();
        }
    };
    let ask = async {
        let mut replies = pair.here.fetch(question()).await.unwrap();
        assert_eq!(replies.next().await, Ok(Some(Reply::Done(Offset(1)))));
        assert_eq!(replies.next().await, Ok(None));
        let mut replies = pair.here.fetch(question()).await.unwrap();
        assert!(replies.next().await.is_ok());
        assert!(matches!(replies.next().await, Err(RequestError::Refused(_))));
    };
    soon(async { tokio::join!(ask, answer) }).await;
}

#[tokio::test]
async fn a_stream_in_use_keeps_the_connection() {
    let Pair { here, there, _control, _link, _listener } = Pair::new().await;
    let (mut writer, mut reader) = here.open().await.unwrap();
    drop((here, _link));
    writer.send(question().encode()).await.unwrap();
    let (mut answer, mut asked) = soon(there.accept()).await.unwrap();
    assert_eq!(soon(asked.request()).await, Ok(Some(question())));
    answer.send(Reply::Done(Offset(3)).encode()).await.unwrap();
    assert_eq!(soon(reader.reply()).await, Ok(Some(Reply::Done(Offset(3)))));
    assert_eq!(there.close_reason(), None);
    drop((writer, reader));
    let closed = soon(there.closed()).await;
    assert_eq!(closed, LinkError::Closed { reason: "no reason given".into(), refused: false });
}

#[tokio::test]
async fn the_broker_opens_no_stream() {
    let pair = Pair::new().await;
    assert!(tokio::time::timeout(Duration::from_millis(1), pair.there.open()).await.is_err());
}
