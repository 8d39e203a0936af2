//! The thread that commits, while the next interval fills.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::commit::{Committed, Committer, Interval};
use super::live::Sent;
use super::metrics::Metrics;
use super::notices::Outage;
use super::options::StreamOptions;
use crate::background::step_back;
use crate::memory::give_back;
use crate::notify::Warn;
use crate::{Error, Result};

/// Bytes of an interval from which on its memory is given back to the system:
/// that of a stream that catches up. Giving back takes time from who predicts.
const MUCH: usize = 64 << 20;
/// Tries of a commit after the stream was told to stop.
const LAST_TRIES: u32 = 5;
/// How long metrics wait for another commit before they are written.
const IDLE: Duration = Duration::from_secs(10);

/// The thread that commits, and the ways to and from it.
pub struct Worker {
    committer: Arc<Mutex<Committer>>,
    intervals: Option<SyncSender<Interval>>,
    results: Receiver<Result<Committed>>,
    /// Whether a commit runs.
    pub busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it.
    pub fn new(committer: Committer, mut metrics: Metrics, options: &StreamOptions) -> Self {
        let (stop, warn) = (options.stop.clone(), options.on_warning.clone());
        let committer = Arc::new(Mutex::new(committer));
        let (intervals, incoming) = sync_channel::<Interval>(1);
        let (outgoing, results) = channel();
        let own = committer.clone();
        let thread = std::thread::spawn(move || {
            // Events that come are predicted first.
            step_back();
            let keep_trying = |tries: u32| !stop.load(Ordering::SeqCst) || tries <= LAST_TRIES;
            let (mut swollen, mut outage) = (false, Outage::default());
            loop {
                let interval = match incoming.recv_timeout(IDLE) {
                    Ok(interval) => interval,
                    Err(RecvTimeoutError::Timeout) => {
                        told(metrics.flush(), warn.as_ref());
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                // What is committed is neither sent nor told again.
                let result = interval.sent.as_ref().map_or(Ok(()), Sent::wait).and_then(|()| {
                    outage.wait(&interval.notices);
                    let mut committer = own.lock().unwrap_or_else(PoisonError::into_inner);
                    committer.commit(&interval, &keep_trying)
                });
                let failed = result.is_err();
                let committed = result.as_ref().ok().cloned();
                let gone = outgoing.send(result).is_err();
                if let Some(committed) = committed {
                    told(metrics.note(&interval.times, &interval.scorer, &committed), warn.as_ref());
                }
                if gone || failed {
                    break;
                }
                let large = interval.bytes() >= MUCH;
                drop(interval);
                if large || swollen {
                    give_back();
                }
                swollen = large;
            }
            told(metrics.flush(), warn.as_ref());
        });
        Self { committer, intervals: Some(intervals), results, busy: false, thread: Some(thread) }
    }

    /// What commits, while no commit runs.
    pub fn committer(&self) -> MutexGuard<'_, Committer> {
        self.committer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread end, with what it still has to tell.
    pub fn end(&mut self) {
        self.intervals = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it was told as a result that did not come.
            let _ = thread.join();
        }
    }

    /// Hands it an interval; while it is busy nobody may.
    pub fn send(&mut self, interval: Interval) -> Result<()> {
        let gone = || Error::internal("the committing thread is gone");
        self.busy = true;
        self.intervals.as_ref().ok_or_else(gone)?.send(interval).map_err(|_| gone())
    }

    /// The result of the commit that runs, if it is there.
    ///
    /// # Errors
    /// What the commit says.
    pub fn result(&mut self, wait: bool) -> Result<Option<Committed>> {
        if !self.busy {
            return Ok(None);
        }
        let gone = || Error::internal("the committing thread stopped with a panic");
        let result = if wait {
            self.results.recv().map_err(|_| gone())?
        } else {
            match self.results.try_recv() {
                Ok(result) => result,
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => return Err(gone()),
            }
        };
        self.busy = false;
        result.map(Some)
    }
}

/// Metrics that cannot be written are a warning: the predictions are there.
fn told(result: Result<()>, warn: Option<&Warn>) {
    if let (Err(error), Some(warn)) = (result, warn) {
        warn(&format!("`ml_monitoring.inference_metrics` has no row of this interval: {error}"));
    }
}
