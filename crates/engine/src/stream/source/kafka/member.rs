//! What the client tells of its group and of its connections.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::super::super::kafka_client::Refusals;
use super::super::Rebalance;
use super::topics::Topics;

/// What the client tells us. Its own log goes nowhere: what matters comes as
/// an error.
pub struct Member {
    topics: Topics,
    /// Rebalances that wait for an answer.
    asked: Mutex<VecDeque<Rebalance>>,
    /// Nobody is there any more to answer.
    pub closing: AtomicBool,
    /// The group has missed this process, which has no partitions again yet.
    pub missed: AtomicBool,
    pub refusals: Refusals,
}

impl Member {
    /// Nothing told yet.
    pub fn new(topics: Topics) -> Self {
        let (asked, closing, missed, refusals) = Default::default();
        Self { topics, asked, closing, missed, refusals }
    }

    /// Rebalances that wait for an answer.
    pub fn asked(&self) -> MutexGuard<'_, VecDeque<Rebalance>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Member {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, why: &str) {
        self.refusals.note(&error, why);
    }
}

impl ConsumerContext for Member {
    /// Called by a poll. It only notes what is wanted: the answer takes a
    /// commit, and is given from the stream's own loop.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        // It has subscribed to these topics and to no others.
        let number = |topic: &str, partition| Some(Topics::number(self.topics.find(topic, 0)?, partition));
        let elements = list.elements();
        let partitions = elements.iter().filter_map(|one| number(one.topic(), one.partition())).collect();
        let gained = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            // Without an answer the client never closes.
            let _ = match (consumer.rebalance_protocol(), gained) {
                (RebalanceProtocol::Cooperative, false) => consumer.incremental_unassign(list),
                (RebalanceProtocol::Cooperative, true) => Ok(()),
                _ => consumer.unassign(),
            };
            return;
        }
        self.missed.store(!gained && consumer.assignment_lost(), Ordering::SeqCst);
        self.asked().push_back(if gained { Rebalance::Gained(partitions) } else { Rebalance::Lost(partitions) });
    }
}
