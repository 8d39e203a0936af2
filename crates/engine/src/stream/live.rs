//! Predictions to a Kafka topic as they are made, before they are committed.
//!
//! **At least once.** A commit is sent off when every prediction in it has been
//! acknowledged by the topic's brokers; a process that ends before its commit
//! predicts again what it had, and sends it again. The id of a message is the
//! same then: the place of its event, which the header `insightera-id` has.

use std::fmt::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use super::kafka_client::{Refusals, check_security};
use crate::config::{LiveSettings, Secret};
use crate::{Error, Result};

/// How long the brokers may take to answer at the start, and how long until it
/// is looked whether they refuse to.
const PATIENCE: Duration = Duration::from_secs(15);
const ATTEMPT: Duration = Duration::from_secs(1);
/// Where the options stand.
const SECTION: &str = "[live.kafka]";
/// How long all that was sent may take to be acknowledged.
const FLUSH: Duration = Duration::from_secs(60);
/// How long to wait when too much is on its way.
const FULL: Duration = Duration::from_millis(2);

/// What the predictions' readers rely on; an option that says otherwise is
/// refused.
const OURS: &[(&str, &str)] = &[("acks", "all"), ("enable.idempotence", "true")];

/// A topic that predictions are sent to.
pub struct LiveTopic {
    topic: String,
    key: Vec<String>,
    producer: ThreadedProducer<Told>,
    sent: Sent,
}

/// Predictions that were sent, to wait for by another thread than the one that
/// sends the next.
#[derive(Debug, Clone)]
pub struct Sent {
    topic: String,
    way: Arc<Way>,
}

/// Predictions on their way, and what could not be delivered.
#[derive(Debug, Default)]
struct Way {
    state: Mutex<(usize, Option<KafkaError>)>,
    arrived: Condvar,
}

impl Way {
    fn state(&self) -> MutexGuard<'_, (usize, Option<KafkaError>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent {
    fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), way: Arc::default() }
    }

    /// Waits until all of them were taken by the topic's brokers.
    ///
    /// # Errors
    /// When one was not.
    pub fn wait(&self) -> Result<()> {
        let state = self.way.state();
        let under_way = |state: &mut (usize, Option<KafkaError>)| state.0 > 0 && state.1.is_none();
        let waited = self.way.arrived.wait_timeout_while(state, FLUSH, under_way);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(self.undelivered(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)));
        }
        state.1.clone().map_or(Ok(()), |error| Err(self.undelivered(error)))
    }

    fn undelivered(&self, error: KafkaError) -> Error {
        Error::data(format!("predictions could not be sent to the topic `{}` of [live]: {error}", self.topic))
            .hint("nothing is lost: start the stream again, and it sends what it had not committed once more")
            .cause(error)
    }
}

/// What the client tells us.
#[derive(Clone, Default)]
struct Told(Arc<Refusals>);

impl ClientContext for Told {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, why: &str) {
        self.0.note(&error, why);
    }
}

impl ProducerContext for Told {
    type DeliveryOpaque = Arc<Way>;

    fn delivery(&self, result: &DeliveryResult<'_>, way: Arc<Way>) {
        let mut state = way.state();
        state.0 -= 1;
        if let Err((error, _)) = result {
            state.1.get_or_insert_with(|| error.clone());
        }
        if state.0 == 0 || state.1.is_some() {
            way.arrived.notify_all();
        }
    }
}

impl LiveTopic {
    /// Connects to the brokers.
    ///
    /// # Errors
    /// When an option is wrong, no broker answers, or there is no such topic.
    pub fn open(settings: &LiveSettings, key: &[String]) -> Result<Self> {
        check_security(SECTION, &settings.options)?;
        let mut config = ClientConfig::new();
        config.set("client.id", "insightera");
        // A prediction leaves when it is there, together with those of its poll.
        config.set("linger.ms", "0.2");
        for (name, value) in &settings.options {
            if let Some((_, wanted)) = OURS.iter().find(|(ours, wanted)| ours == name && wanted != value) {
                return Err(Error::invalid(format!("[live.kafka] `{name}` cannot be `{value}`"))
                    .hint(format!("remove it: predictions arrive at least once, and it is always `{wanted}`")));
            }
            config.set(name, Secret::new(value).reveal(&format!("[live.kafka] `{name}`"))?);
        }
        for (name, value) in OURS {
            config.set(*name, *value);
        }
        let producer: ThreadedProducer<Told> = config.create_with_context(Told::default()).map_err(|e| {
            Error::invalid(format!("[live.kafka]: {e}")).hint("the options are librdkafka's, by its names").cause(e)
        })?;
        let topic = settings.topic.clone();
        let mut waited = Duration::ZERO;
        let metadata = loop {
            match producer.client().fetch_metadata(Some(&topic), ATTEMPT) {
                Ok(metadata) => break metadata,
                Err(error) => {
                    waited += ATTEMPT;
                    if let Some(refused) = producer.context().0.error(SECTION, &settings.options) {
                        return Err(refused.cause(error));
                    }
                    if waited >= PATIENCE {
                        let what = format!("no answer from the brokers of the topic `{topic}` of [live]: {error}");
                        return Err(Error::unavailable(what).cause(error));
                    }
                }
            }
        };
        if metadata.topics().iter().all(|found| found.name() != topic || found.partitions().is_empty()) {
            return Err(Error::not_found(format!("there is no topic `{topic}`"))
                .hint("create it, or correct `topic` in [live]"));
        }
        Ok(Self { sent: Sent::new(&topic), topic, key: key.to_vec(), producer })
    }

    /// Sends rows, each made of the event at its place.
    ///
    /// # Errors
    /// When one that was sent before was not taken.
    pub fn send(&self, pipeline: &str, rows: &RecordBatch, places: &[(u32, i64)]) -> Result<()> {
        let wrong = |e: arrow::error::ArrowError| Error::internal(format!("a prediction as JSON: {e}")).cause(e);
        let lines = insightera_events::lines(rows).map_err(wrong)?;
        let keys = self.keys(rows).map_err(wrong)?;
        let mut id = String::new();
        self.sent.way.state().0 += places.len();
        for ((line, key), (partition, offset)) in lines.iter().zip(&keys).zip(places) {
            id.clear();
            // Writing to a string cannot fail.
            let _ = write!(id, "{pipeline}/{partition}/{offset}");
            let headers = OwnedHeaders::new().insert(Header { key: "insightera-id", value: Some(id.as_bytes()) });
            let way = self.sent.way.clone();
            let mut record =
                BaseRecord::with_opaque_to(&self.topic, way).key(key.as_str()).payload(line).headers(headers);
            while let Err((error, again)) = self.producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(self.sent.undelivered(error));
                }
                std::thread::sleep(FULL);
                record = again;
            }
        }
        let failed = self.sent.way.state().1.clone();
        failed.map_or(Ok(()), |error| Err(self.sent.undelivered(error)))
    }

    /// What was sent since this was called last.
    pub fn take_sent(&mut self) -> Sent {
        std::mem::replace(&mut self.sent, Sent::new(&self.topic))
    }

    /// The text of each row's key: its column, or a JSON array of its columns.
    fn keys(&self, rows: &RecordBatch) -> std::result::Result<Vec<String>, arrow::error::ArrowError> {
        let mut columns = Vec::new();
        for name in &self.key {
            if let Some(column) = rows.column_by_name(name) {
                columns.push(cast(column, &DataType::Utf8)?);
            }
        }
        let texts: Vec<_> = columns.iter().map(|column| column.as_string::<i32>()).collect();
        let key = |row: usize| match texts.as_slice() {
            [one] => one.value(row).to_owned(),
            several => serde_json::json!(several.iter().map(|text| text.value(row)).collect::<Vec<_>>()).to_string(),
        };
        Ok((0..rows.num_rows()).map(key).collect())
    }
}
