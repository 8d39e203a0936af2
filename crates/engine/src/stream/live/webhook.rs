//! Predictions to a webhook. A thread of its own posts them, one request after
//! the other, in the order in which they were made; what cannot be delivered
//! now is tried again for as long as it takes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use insightera_core::ErrorKind;
use insightera_events::Lines;
use reqwest::StatusCode;

use super::Sent;
use super::batches::{Batch, Batches, Block};
use super::receiver::{Patience, Receiver, Refusal, Watch};
use crate::config::Secret;
use crate::webhook::{Answer, Webhook};
use crate::{Error, Result, network};

/// The pause after a request that was not taken, of which each next one is
/// twice as long; the longest; and the longest that a webhook may ask for.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_ASKED: Duration = Duration::from_secs(600);
/// How often who waits for room looks up.
const LOOK: Duration = Duration::from_millis(100);

/// A webhook that predictions are sent to.
pub struct LiveWebhook {
    lane: Arc<Lane>,
}

/// What the stream and the thread that posts have in common.
struct Lane {
    webhook: Webhook,
    receiver: Arc<Receiver>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    batches: Batches,
    /// Whether the stream is gone.
    closed: bool,
}

impl LiveWebhook {
    /// Starts the thread; sends nothing. `timeout` is in microseconds.
    ///
    /// # Errors
    /// `Invalid` when the address is none, or is in a variable that is not
    /// there.
    pub fn open(url: &Secret, timeout: i64, watch: Watch) -> Result<(Self, Arc<Receiver>)> {
        let webhook = Webhook::new(url, "`url` of [live]", timeout)?;
        let receiver = Receiver::new(format!("the webhook `{}` of [live]", webhook.origin()), watch);
        let (queue, changed) = Default::default();
        let lane = Arc::new(Lane { webhook, receiver: receiver.clone(), queue, changed });
        let own = lane.clone();
        let work = move || {
            let panicked = || Refusal {
                kind: ErrorKind::Internal,
                message: format!("the thread that sends to {} stopped with a panic", own.receiver.name),
                hint: "start the stream again: nothing is lost".to_owned(),
            };
            if let Err(refusal) = catch_unwind(AssertUnwindSafe(|| own.work())).unwrap_or_else(|_| Err(panicked())) {
                own.receiver.refuse(refusal);
            }
        };
        Builder::new()
            .name("live webhook".to_owned())
            .spawn(work)
            .map_err(|e| Error::unavailable(format!("no thread for {}: {e}", receiver.name)).cause(e))?;
        Ok((Self { lane }, receiver))
    }

    /// Queues rows as lines of JSON, each made of the event at its place. Waits
    /// while the queue is full.
    ///
    /// # Errors
    /// When one that was sent before was refused; `Unavailable` when the queue
    /// is full and the stream is told to stop.
    pub fn send(&self, sent: &Sent, lines: &Lines, places: &[(u32, i64)]) -> Result<()> {
        let Lane { receiver, changed, .. } = self.lane.as_ref();
        let block = Block::new(&receiver.watch.pipeline, lines, places, sent.way());
        let mut patience = None;
        loop {
            let mut queue = self.lane.queue();
            if queue.batches.has_room(block.size()) {
                queue.batches.push(block);
                changed.notify_all();
                return Ok(());
            }
            drop(changed.wait_timeout(queue, LOOK));
            receiver.refusal()?;
            let waiting = receiver.waiting();
            patience.get_or_insert_with(|| Patience::new(receiver, waiting)).look(waiting)?;
        }
    }
}

impl Drop for LiveWebhook {
    /// The thread ends after the request that it is at.
    fn drop(&mut self) {
        self.lane.queue().closed = true;
        self.lane.changed.notify_all();
    }
}

impl Lane {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts what comes until the stream is gone, or something is refused.
    fn work(self: &Arc<Self>) -> std::result::Result<(), Refusal> {
        while let Some(batch) = self.next() {
            self.deliver(&batch)?;
        }
        Ok(())
    }

    /// The next request; none when the stream is gone.
    fn next(&self) -> Option<Batch> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            let watch = &self.receiver.watch;
            if let Some(batch) = queue.batches.next(&watch.pipeline, &watch.run_id) {
                self.changed.notify_all();
                return Some(batch);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Posts a request until it is taken, or the stream is gone.
    fn deliver(self: &Arc<Self>, batch: &Batch) -> std::result::Result<(), Refusal> {
        let mut pause = PAUSE;
        for tries in 1.. {
            match self.post(batch) {
                Ok(Answer::Taken) => {
                    batch.taken();
                    break;
                }
                Ok(Answer::Refused { status, said }) => return Err(self.refused(batch, status, &said)),
                Ok(Answer::Later { why, after }) => {
                    let why = if tries == 1 { why } else { format!("{why}, {tries} times") };
                    self.receiver.trouble(why, false);
                    if self.sleep(after.map_or(pause, |after| after.clamp(PAUSE, LONGEST_ASKED))) {
                        break;
                    }
                }
                Err(error) => return Err(self.broken(&error)),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    /// Posts a request once.
    fn post(self: &Arc<Self>, batch: &Batch) -> Result<Answer> {
        let (own, body, key) = (self.clone(), batch.body.clone(), batch.key.clone());
        network::wait(async move { own.webhook.post(body, Some(&key)).await })
    }

    /// Waits, and says whether the stream is gone.
    fn sleep(&self, pause: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.queue(), pause, |queue| !queue.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    fn refused(&self, batch: &Batch, status: Option<StatusCode>, said: &str) -> Refusal {
        let (first, last) = &batch.ids;
        let answered = status.map_or_else(|| "there is no such request".to_owned(), |s| format!("it answered {s}"));
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let remedy = match status.map_or(0, |status| status.as_u16()) {
            300..=399 | 404 | 410 => "correct `url` in [live]: requests are sent to that address alone",
            401 | 403 | 407 => "correct `url` in [live], with the token or the `user:password@` that the webhook wants",
            413 => "let the webhook take requests of 1 MB",
            _ => "let the webhook take what README says of [live], or correct `url`",
        };
        Refusal {
            kind: ErrorKind::Invalid,
            message: format!("{} refused the predictions `{first}` to `{last}`: {answered}{said}", self.receiver.name),
            hint: format!(
                "{remedy}; nothing is lost: started again, the stream sends what it had not committed once more"
            ),
        }
    }

    fn broken(&self, error: &Error) -> Refusal {
        Refusal {
            kind: error.kind(),
            message: format!("predictions could not be sent to {}: {error}", self.receiver.name),
            hint: "start the stream again: nothing is lost".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
