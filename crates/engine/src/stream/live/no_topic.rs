//! Without Kafka there is no topic for predictions.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use insightera_events::Lines;

use super::Sent;
use super::receiver::Receiver;
use crate::{Error, Result};

/// A topic that predictions are sent to; there is none.
#[derive(Debug)]
pub enum LiveTopic {}

impl LiveTopic {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn open(topic: &str, _: &BTreeMap<String, String>, _: &[String], _: &Arc<Receiver>) -> Result<Self> {
        let error = Error::invalid(format!(
            "the topic `{topic}` of [live] cannot be written: this insightera was built without Kafka"
        ));
        Err(error.hint("build it with the feature `kafka`, send to a webhook with `url`, or leave [live] out"))
    }

    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub fn send(&self, _: &Sent, _: &RecordBatch, _: &Lines, _: &[(u32, i64)]) -> Result<()> {
        match *self {}
    }
}
