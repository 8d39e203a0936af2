//! Predictions to whoever wants them as they are made, before they are
//! committed: to a topic of Kafka, or to a webhook.
//!
//! **Words.** The *receiver* is the topic or the webhook. A prediction is
//! *taken* when the receiver has acknowledged it. A *place* is the partition
//! and the offset of the event that a prediction is made of.
//!
//! **At least once.** A commit is sent off when every prediction in it was
//! taken; a process that ends before its commit predicts again what it had, and
//! sends it again. The id of a prediction is the same then: the name of the
//! pipeline and the place, `live/0/17`.
//!
//! **Patience.** A receiver that is away for a while is waited for: that
//! predictions wait is told after half a minute and then each minute, commits
//! wait for them, and when too many are on their way so does the stream. It
//! goes on by itself. Told to stop, it ends within seconds with an error that
//! says what was not taken; nothing of that is committed, so nothing is lost. A
//! receiver that refuses predictions ends the stream.

#[cfg(not(feature = "kafka"))]
#[path = "no_topic.rs"]
mod topic;
#[cfg(feature = "kafka")]
mod topic;

mod batches;
mod receiver;
mod webhook;

use std::sync::Arc;

use arrow::array::RecordBatch;

use self::receiver::Receiver;
pub use self::receiver::{Sent, Watch};
use self::topic::LiveTopic;
use self::webhook::LiveWebhook;
use crate::config::LiveSettings;
use crate::{Error, Result};

/// The receiver of a running stream's predictions.
pub struct Live {
    to: To,
    receiver: Arc<Receiver>,
    sent: Sent,
}

enum To {
    Topic(LiveTopic),
    Webhook(LiveWebhook),
}

impl Live {
    /// Opens the way to the receiver. `key` are the columns of the entity.
    ///
    /// # Errors
    /// When a setting is wrong; of a topic also when no broker answers, or there
    /// is no such topic. A webhook is not asked before there are predictions.
    pub fn open(settings: &LiveSettings, key: &[String], watch: Watch) -> Result<Self> {
        let (to, receiver) = match settings {
            LiveSettings::Topic { topic, options } => {
                let receiver = Receiver::new(format!("the topic `{topic}` of [live]"), watch);
                (To::Topic(LiveTopic::open(topic, options, key, &receiver)?), receiver)
            }
            LiveSettings::Webhook { url, timeout } => {
                let (webhook, receiver) = LiveWebhook::open(url, *timeout, watch)?;
                (To::Webhook(webhook), receiver)
            }
        };
        Ok(Self { to, sent: Sent::new(&receiver), receiver })
    }

    /// Sends rows, each made of the event at its place. Waits only while too
    /// many are on their way.
    ///
    /// # Errors
    /// When one that was sent before was refused; `Unavailable` when it waits
    /// and is told to stop.
    pub fn send(&self, rows: &RecordBatch, places: &[(u32, i64)]) -> Result<()> {
        let wrong = |e: arrow::error::ArrowError| Error::internal(format!("a prediction as JSON: {e}")).cause(e);
        let lines = insightera_events::lines(rows).map_err(wrong)?;
        self.sent.add(places.len());
        match &self.to {
            To::Topic(topic) => topic.send(&self.sent, rows, &lines, places)?,
            To::Webhook(webhook) => webhook.send(&self.sent, &lines, places)?,
        }
        self.receiver.refusal()
    }

    /// What was sent since this was called last.
    pub fn take_sent(&mut self) -> Sent {
        std::mem::replace(&mut self.sent, Sent::new(&self.receiver))
    }

    /// Nobody waits for the receiver any more, whatever was not taken.
    pub fn close(&self) {
        self.receiver.close();
    }
}
