//! Predictions to a topic of Kafka. A message is the row as JSON, its key that
//! of the entity, and the header `insightera-id` its id.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use insightera_core::ErrorKind;
use insightera_events::Lines;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use super::super::kafka_client::{Refusals, check_security};
use super::Sent;
use super::receiver::{Patience, Receiver, Refusal, Way};
use crate::config::Secret;
use crate::{Error, Result};

/// How long the brokers may take to answer at the start, and how long until it
/// is looked whether they refuse to.
const PATIENCE: Duration = Duration::from_secs(15);
const ATTEMPT: Duration = Duration::from_secs(1);
/// Where the options stand.
const SECTION: &str = "[live.kafka]";
/// How long to wait when too much is on its way.
const FULL: Duration = Duration::from_millis(2);

/// What the predictions' readers rely on; an option that says otherwise is
/// refused.
const OURS: &[(&str, &str)] = &[("acks", "all"), ("enable.idempotence", "true")];
/// How long a message may wait for the brokers, by both of its names.
const MESSAGE_TIMEOUT: [&str; 2] = ["message.timeout.ms", "delivery.timeout.ms"];

/// A topic that predictions are sent to.
pub struct LiveTopic {
    topic: String,
    key: Vec<String>,
    producer: ThreadedProducer<Told>,
    receiver: Arc<Receiver>,
}

/// What the client tells us.
struct Told {
    refusals: Refusals,
    receiver: Arc<Receiver>,
}

impl ClientContext for Told {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, why: &str) {
        self.refusals.note(&error, why);
        let vague = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        let why = if why.is_empty() { error.to_string() } else { why.to_owned() };
        self.receiver.trouble(why, vague);
    }
}

impl ProducerContext for Told {
    type DeliveryOpaque = Arc<Way>;

    fn delivery(&self, result: &DeliveryResult<'_>, way: Arc<Way>) {
        match result {
            Ok(_) => way.taken(1),
            Err((error, _)) => way.receiver.refuse(undelivered(&way.receiver, error)),
        }
    }
}

/// A prediction that the brokers will not take.
fn undelivered(receiver: &Receiver, error: &KafkaError) -> Refusal {
    // Only with a time-out of the user's own.
    let kind = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageTimedOut | RDKafkaErrorCode::OperationTimedOut) => ErrorKind::Unavailable,
        _ => ErrorKind::Data,
    };
    Refusal {
        kind,
        message: format!("predictions could not be sent to {}: {error}", receiver.name),
        hint: "nothing is lost: start the stream again, and it sends what it had not committed once more".to_owned(),
    }
}

impl LiveTopic {
    /// Connects to the brokers. `options` are the client's by librdkafka's
    /// names, `key` the columns of the entity.
    ///
    /// # Errors
    /// When an option is wrong, no broker answers, or there is no such topic.
    pub fn open(
        topic: &str,
        options: &BTreeMap<String, String>,
        key: &[String],
        receiver: &Arc<Receiver>,
    ) -> Result<Self> {
        check_security(SECTION, options)?;
        let told = Told { refusals: Refusals::default(), receiver: receiver.clone() };
        let producer: ThreadedProducer<Told> = client(options)?.create_with_context(told).map_err(|e| {
            Error::invalid(format!("[live.kafka]: {e}")).hint("the options are librdkafka's, by its names").cause(e)
        })?;
        reach(&producer, topic, options)?;
        Ok(Self { topic: topic.to_owned(), key: key.to_vec(), producer, receiver: receiver.clone() })
    }

    /// Sends rows, each with its line of JSON, made of the event at its place.
    ///
    /// # Errors
    /// When one is refused; `Unavailable` when too many are on their way and the
    /// stream is told to stop.
    pub fn send(&self, sent: &Sent, rows: &RecordBatch, lines: &Lines, places: &[(u32, i64)]) -> Result<()> {
        let keys = self.keys(rows).map_err(|e| Error::internal(format!("the key of a prediction: {e}")).cause(e))?;
        let mut id = String::new();
        for ((line, key), (partition, offset)) in lines.iter().zip(&keys).zip(places) {
            id.clear();
            // Writing to a string cannot fail.
            let _ = write!(id, "{}/{partition}/{offset}", self.receiver.watch.pipeline);
            let headers = OwnedHeaders::new().insert(Header { key: "insightera-id", value: Some(id.as_bytes()) });
            let record = BaseRecord::with_opaque_to(&self.topic, sent.way());
            self.queue(record.key(key.as_str()).payload(line).headers(headers))?;
        }
        Ok(())
    }

    /// Queues a message; waits while the queue is full.
    fn queue(&self, mut record: BaseRecord<'_, str, [u8], Arc<Way>>) -> Result<()> {
        let mut patience = None;
        while let Err((error, again)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(undelivered(&self.receiver, &error).into());
            }
            self.receiver.refusal()?;
            let waiting = self.receiver.waiting();
            patience.get_or_insert_with(|| Patience::new(&self.receiver, waiting)).look(waiting)?;
            std::thread::sleep(FULL);
            record = again;
        }
        Ok(())
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

/// The client's configuration: ours, and the options of the pipeline.
fn client(options: &BTreeMap<String, String>) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config.set("client.id", "insightera");
    // A prediction leaves when it is there, together with those of its poll.
    config.set("linger.ms", "0.2");
    // Brokers that are away are waited for.
    if MESSAGE_TIMEOUT.iter().all(|name| !options.contains_key(*name)) {
        config.set("message.timeout.ms", "0");
    }
    for (name, value) in options {
        if let Some((_, wanted)) = OURS.iter().find(|(ours, wanted)| ours == name && wanted != value) {
            return Err(Error::invalid(format!("[live.kafka] `{name}` cannot be `{value}`"))
                .hint(format!("remove it: predictions arrive at least once, and it is always `{wanted}`")));
        }
        config.set(name, Secret::new(value).reveal(&format!("[live.kafka] `{name}`"))?);
    }
    for (name, value) in OURS {
        config.set(*name, *value);
    }
    Ok(config)
}

/// Waits until the brokers answer, and say that the topic is there.
fn reach(producer: &ThreadedProducer<Told>, topic: &str, options: &BTreeMap<String, String>) -> Result<()> {
    let mut waited = Duration::ZERO;
    let metadata = loop {
        match producer.client().fetch_metadata(Some(topic), ATTEMPT) {
            Ok(metadata) => break metadata,
            Err(error) => {
                waited += ATTEMPT;
                if let Some(refused) = producer.context().refusals.error(SECTION, options) {
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
        return Err(
            Error::not_found(format!("there is no topic `{topic}`")).hint("create it, or correct `topic` in [live]")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;

    use arrow::array::{ArrayRef, Float64Array, StringArray};
    use insightera_core::SystemClock;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;

    use super::super::receiver::tests::watch;
    use super::*;

    fn cluster() -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("risk", 2, 1).unwrap();
        cluster
    }

    /// The topic `risk` of a cluster, and what is warned of it.
    fn open(
        cluster: &MockCluster<'static, DefaultProducerContext>,
        more: &[(&str, &str)],
    ) -> (LiveTopic, Arc<Receiver>, Arc<Mutex<Vec<String>>>) {
        let (watch, told) = watch(Arc::new(SystemClock::new()));
        let receiver = Receiver::new("the topic `risk` of [live]".to_owned(), watch);
        let servers = cluster.bootstrap_servers();
        let own = [("bootstrap.servers", servers.as_str()), ("reconnect.backoff.max.ms", "200")];
        let options = own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let topic = LiveTopic::open("risk", &options, &["nim".to_owned()], &receiver).unwrap();
        (topic, receiver, told)
    }

    fn send(topic: &LiveTopic, sent: &Sent, count: usize) -> Result<()> {
        let nim = StringArray::from_iter_values((0..count).map(|row| format!("{row:06}")));
        let risk = Float64Array::from_iter_values((0..count).map(|row| row as f64));
        let rows = RecordBatch::try_from_iter([("nim", Arc::new(nim) as ArrayRef), ("risk", Arc::new(risk))]).unwrap();
        let places: Vec<(u32, i64)> = (0..count).map(|row| (0, row as i64)).collect();
        sent.add(count);
        topic.send(sent, &rows, &insightera_events::lines(&rows).unwrap(), &places)
    }

    #[test]
    fn predictions_wait_for_brokers_that_are_away() {
        let cluster = cluster();
        let (topic, receiver, _) = open(&cluster, &[]);
        let sent = Sent::new(&receiver);
        send(&topic, &sent, 10).unwrap();
        sent.wait().unwrap();
        cluster.broker_down(-1).unwrap();
        let later = Sent::new(&receiver);
        send(&topic, &later, 10).unwrap();
        std::thread::scope(|threads| {
            let waits = threads.spawn(|| later.wait());
            std::thread::sleep(Duration::from_secs(1));
            assert!(!waits.is_finished());
            cluster.broker_up(-1).unwrap();
            waits.join().unwrap().unwrap();
        });
        assert_eq!(receiver.waiting(), 0);
    }

    #[test]
    fn a_full_queue_looks_whether_the_stream_is_told_to_stop() {
        let cluster = cluster();
        let (topic, receiver, _) = open(&cluster, &[("queue.buffering.max.messages", "20")]);
        cluster.broker_down(-1).unwrap();
        let sent = Sent::new(&receiver);
        std::thread::scope(|threads| {
            let sends = threads.spawn(|| send(&topic, &sent, 100));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!sends.is_finished());
            receiver.watch.stop.store(true, Ordering::SeqCst);
            let error = sends.join().unwrap().unwrap_err();
            assert!(error.retryable() && error.to_string().contains("100 predictions wait for the topic"), "{error}");
        });
    }

    #[test]
    fn messages_have_no_time_out_but_the_users_own() {
        let of = |options: &[(&str, &str)]| {
            let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let config = client(&options).unwrap();
            MESSAGE_TIMEOUT.map(|name| config.get(name).map(str::to_owned))
        };
        assert_eq!(of(&[]), [Some("0".to_owned()), None]);
        assert_eq!(of(&[("message.timeout.ms", "7000")]), [Some("7000".to_owned()), None]);
        assert_eq!(of(&[("delivery.timeout.ms", "7000")]), [None, Some("7000".to_owned())]);
        assert!(client(&[("acks".to_owned(), "1".to_owned())].into()).is_err());
    }
}
