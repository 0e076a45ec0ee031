//! What the application holds.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use sealcast_proto::{Offset, TopicId};
use tokio::sync::{mpsc, oneshot};

use crate::driver::{Command, Saved};
use crate::error::SubscribeError;
use crate::event::Item;
use crate::inbox::{Counters, PublisherHead};
use crate::outage::Outages;
use crate::taken::Taken;

/// The longest tag, bytes: a file's length and name, a database's row.
pub const MAX_TAG: usize = 1024;

/// A subscription: a [`Stream`] of [`Item`]s, messages and [events](crate::Event).
///
/// **Taken.** An item counts as taken when the next one is polled, or on [`Subscription::commit`]. What was taken is
/// saved within 200 ms. After a crash the items taken since the last save come again, recognisable by publisher and seq;
/// after [`Subscription::close`] nothing does.
///
/// **Dropping** it ends it, with what was taken saved soon afterwards: close it to be sure, and to count the last item
/// as taken.
pub struct Subscription {
    pub(crate) topic: TopicId,
    pub(crate) items: mpsc::UnboundedReceiver<Vec<Item>>,
    pub(crate) current: std::vec::IntoIter<Item>,
    /// Items returned to the application so far.
    pub(crate) returned: u64,
    pub(crate) taken: Arc<Taken>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) start_offset: Offset,
    pub(crate) resumed: bool,
    pub(crate) tag: Option<Bytes>,
    pub(crate) outages: Option<Outages>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .field("returned", &self.returned)
            .finish_non_exhaustive()
    }
}

impl Subscription {
    /// The next item; `None` after the last one: a [terminal](crate::Event::is_terminal) event, or the end where
    /// [`SubscribeOptions::until_head`](crate::SubscribeOptions::until_head) asked for one.
    ///
    /// The item before counts as taken from this call on. Cancel-safe: a dropped call loses no item.
    pub async fn next(&mut self) -> Option<Item> {
        std::future::poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.taken.set(self.returned);
        loop {
            if let Some(item) = self.current.next() {
                self.returned += 1;
                return Poll::Ready(Some(item));
            }
            match self.items.poll_recv(cx) {
                Poll::Ready(Some(items)) => self.current = items.into_iter(),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Counts everything returned so far as taken and saves it; when it returns, that is on the disk.
    ///
    /// Where a tag is in use, what is saved is what the last tag covers. At the very beginning it waits until the broker has shown
    /// the roster: before, there is no place at which to resume.
    ///
    /// # Errors
    /// [`SubscribeError::State`]: it was not saved; what was saved before is intact.
    pub async fn commit(&mut self) -> Result<(), SubscribeError> {
        self.taken.set(self.returned);
        self.ask(|reply| Command::Commit { reply }).await.map(|_| ())
    }

    /// The same, and ends the subscription. Returns the position saved: where the next one resumes.
    ///
    /// # Errors
    /// As [`Subscription::commit`]; it is ended all the same.
    pub async fn close(self) -> Result<Offset, SubscribeError> {
        self.taken.set(self.returned);
        self.ask(|reply| Command::Close { reply }).await
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Saved>) -> Command) -> Saved {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| SubscribeError::Closed)?;
        answer.await.map_err(|_| SubscribeError::Closed)?
    }

    /// The application's own note about everything returned so far, for instance how long its output file is then.
    /// It is saved with the position, in one file replace: after a crash [`Subscription::tag`] tells exactly what the
    /// items that come next follow.
    ///
    /// Once a tag is in use, the saved position moves with the tag only: after writing, call this again.
    ///
    /// # Errors
    /// [`SubscribeError::Tag`] if it is longer than [`MAX_TAG`]; then the one before stays.
    pub fn set_tag(&mut self, tag: impl Into<Bytes>) -> Result<(), SubscribeError> {
        let tag = tag.into();
        if tag.len() > MAX_TAG {
            return Err(SubscribeError::Tag(tag.len()));
        }
        self.tag = Some(tag.clone());
        self.taken.set_tag(tag, self.returned);
        Ok(())
    }

    /// The tag set last; at first, the one saved with the position at which this subscription resumed.
    pub fn tag(&self) -> Option<Bytes> {
        self.tag.clone()
    }

    /// Tells when no broker carries the subscription, and when one does again: to show to people. `None` if it was asked for
    /// before.
    pub fn outages(&mut self) -> Option<Outages> {
        self.outages.take()
    }

    /// Which topic.
    pub fn topic(&self) -> TopicId {
        self.topic
    }

    /// Where delivery began.
    pub fn start_offset(&self) -> Offset {
        self.start_offset
    }

    /// Whether it went on at a saved position. Where [`StartAt::Resume`](crate::StartAt::Resume) found none, it began
    /// with what was published from then on.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The newest hashes of each publisher, for two members to compare: where they have the same batch, they must have
    /// the same hash, or the publisher or the broker shows them different things (docs/protocol.md section 7).
    pub async fn head(&self) -> Vec<PublisherHead> {
        self.status().await.0
    }

    /// What was dropped without a word.
    pub async fn counters(&self) -> Counters {
        self.status().await.1
    }

    async fn status(&self) -> (Vec<PublisherHead>, Counters) {
        let (reply, answer) = oneshot::channel();
        // A subscription whose task is gone knows nothing.
        let _ = self.commands.send(Command::Status { reply });
        answer.await.unwrap_or_default()
    }
}

impl Stream for Subscription {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.poll_item(cx)
    }
}
