//! Without Kafka there is no topic for predictions.

use arrow::array::RecordBatch;

use crate::config::LiveSettings;
use crate::{Error, Result};

/// A topic that predictions are sent to; there is none.
#[derive(Debug)]
pub enum LiveTopic {}

impl LiveTopic {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn open(settings: &LiveSettings, _: &[String]) -> Result<Self> {
        let error = Error::invalid(format!(
            "the topic `{}` of [live] cannot be written: this insightera was built without Kafka",
            settings.topic
        ));
        Err(error.hint("build it with the feature `kafka`, or leave [live] out"))
    }

    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub fn send(&self, _: &str, _: &RecordBatch, _: &[(u32, i64)]) -> Result<()> {
        match *self {}
    }

    /// Never called.
    pub fn take_sent(&mut self) -> Sent {
        match *self {}
    }
}

/// Predictions that were sent; there are none.
#[derive(Debug, Clone)]
pub enum Sent {}

impl Sent {
    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub fn wait(&self) -> Result<()> {
        match *self {}
    }
}
