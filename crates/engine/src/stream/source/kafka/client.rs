//! The client of the brokers, and how long it is waited for.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::super::Group;
use super::member::Member;
use super::{ATTEMPT, LOOK, PATIENCE};

/// How long leaving a group and closing may take together, about.
pub const FAREWELL: Duration = Duration::from_secs(5);
/// How long one is waited for that is followed by another of its name.
const SUCCESSION: Duration = Duration::from_secs(30);
/// The longest that a question waits without a look whether the stream is to
/// stop.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(4);

/// A client of the brokers. It closes on a thread of its own: it ends only when
/// its requests have ended, and those to a broker that stands still take a
/// minute. What it has not done by then ends with the process.
pub struct KafkaClient {
    /// There until it is dropped.
    consumer: Option<BaseConsumer<Member>>,
    /// Whether the group knows it by a name, which the next of the process has too.
    is_named: bool,
    /// Whether the stream is to stop.
    stop: Arc<AtomicBool>,
    /// How long its last words may take.
    farewell: Duration,
}

impl KafkaClient {
    /// Of a process of the group.
    pub fn new(consumer: BaseConsumer<Member>, group: &Group) -> Self {
        Self {
            consumer: Some(consumer),
            is_named: group.member.is_some(),
            stop: group.stop.clone(),
            farewell: FAREWELL,
        }
    }

    /// It has waited already for the group to let it go.
    pub fn has_waited(&mut self, waited: Duration) {
        self.farewell = FAREWELL.saturating_sub(waited).max(ATTEMPT);
    }

    /// Whether the stream was told to stop: nothing is waited for any more.
    pub fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Asks the brokers something until they answer, for [`PATIENCE`] or until
    /// the stream is to stop. A question is given the time that it may take.
    ///
    /// # Errors
    /// The client's, of the last try.
    pub fn ask<T>(&self, question: impl Fn(Duration) -> KafkaResult<T>) -> KafkaResult<T> {
        let (mut waited, mut attempt) = (Duration::ZERO, ATTEMPT);
        loop {
            let answer = question(attempt);
            waited += attempt;
            if waited >= PATIENCE || self.stops() || !answer.as_ref().is_err_and(is_late) {
                return answer;
            }
            attempt = (2 * attempt).min(LONGEST_ATTEMPT).min(PATIENCE - waited);
        }
    }
}

/// Whether no answer came in the time that it was given.
fn is_late(error: &KafkaError) -> bool {
    let code = match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    };
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut};
    matches!(code, Some(OperationTimedOut | BrokerTransportFailure | AllBrokersDown))
}

impl Deref for KafkaClient {
    type Target = BaseConsumer<Member>;

    fn deref(&self) -> &Self::Target {
        self.consumer.as_ref().expect("a client is there until it is dropped")
    }
}

impl Drop for KafkaClient {
    fn drop(&mut self) {
        let Some(consumer) = self.consumer.take() else { return };
        // Nobody is there any more to answer the group.
        consumer.context().closing.store(true, Ordering::SeqCst);
        let (done, closed) = sync_channel::<()>(1);
        let close = move || {
            drop(consumer);
            drop(done);
        };
        // Without a thread it is closed here, as the closure is dropped.
        let Ok(_) = std::thread::Builder::new().name("kafka client closes".to_owned()).spawn(close) else { return };
        let mut waited = Duration::ZERO;
        while waited < if self.is_named && !self.stops() { SUCCESSION } else { self.farewell } {
            match closed.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => waited += LOOK,
                _ => return,
            }
        }
    }
}
