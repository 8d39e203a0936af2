//! Which topic a name means. One that was deleted and made again has the name
//! and the partitions of the old one, and may have as many events: only its id
//! is another.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings::{self, rd_kafka_admin_op_t};
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

/// The id of brokers that have none.
const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A C value, and what frees it.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            #[expect(unsafe_code, reason = "librdkafka's own destructor")]
            // SAFETY: the value came from librdkafka, and nobody else frees it.
            unsafe {
                (self.1)(self.0);
            }
        }
    }
}

/// The ids that the brokers gave topics, by name, as Kafka's tools print them.
/// One has none where the brokers have no ids (before Kafka 2.8) or tell this
/// client none.
///
/// # Errors
/// When no broker answers in time.
pub fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    patience: Duration,
) -> Result<BTreeMap<String, String>, KafkaError> {
    let named: Vec<CString> = topics.iter().filter_map(|topic| CString::new(*topic).ok()).collect();
    let mut names: Vec<_> = named.iter().map(|name| name.as_ptr()).collect();
    let mut ids = BTreeMap::new();
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    #[expect(unsafe_code, reason = "the client's crate has no function for DescribeTopics")]
    // SAFETY: the client outlives the call, and the answer's parts are read
    // before the event that owns them is destroyed; every other value is freed
    // by the function that librdkafka names for it. Null is checked where
    // librdkafka may answer it.
    unsafe {
        let rk = client.native_ptr();
        let topics = bindings::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let topics = Owned(topics, bindings::rd_kafka_TopicCollection_destroy);
        let operation = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options =
            Owned(bindings::rd_kafka_AdminOptions_new(rk, operation), bindings::rd_kafka_AdminOptions_destroy);
        bindings::rd_kafka_AdminOptions_set_request_timeout(options.0, millis, ptr::null_mut(), 0);
        let queue = Owned(bindings::rd_kafka_queue_new(rk), bindings::rd_kafka_queue_destroy);
        bindings::rd_kafka_DescribeTopics(rk, topics.0, options.0, queue.0);
        let event = Owned(bindings::rd_kafka_queue_poll(queue.0, millis), bindings::rd_kafka_event_destroy);
        if event.0.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        }
        match bindings::rd_kafka_event_error(event.0) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE => return Ok(ids),
            other => return Err(KafkaError::AdminOp(other.into())),
        }
        let result = bindings::rd_kafka_event_DescribeTopics_result(event.0);
        let mut count = 0;
        let found = bindings::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for place in 0..count {
            let description = *found.add(place);
            let error = bindings::rd_kafka_TopicDescription_error(description);
            if !error.is_null() && bindings::rd_kafka_error_code(error) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                // Whoever reads the topic is told what is wrong with it.
                continue;
            }
            let name = bindings::rd_kafka_TopicDescription_name(description);
            let id = bindings::rd_kafka_Uuid_base64str(bindings::rd_kafka_TopicDescription_topic_id(description));
            if name.is_null() || id.is_null() {
                continue;
            }
            if let (Ok(name), Ok(id)) = (CStr::from_ptr(name).to_str(), CStr::from_ptr(id).to_str())
                && id != NONE
            {
                ids.insert(name.to_owned(), id.to_owned());
            }
        }
    }
    Ok(ids)
}
