//! How many predictions a receiver has not taken yet, and how long those who
//! wait for it have patience.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insightera_core::{Clock, ErrorKind};

use crate::notify::Warn;
use crate::{Error, Result};

/// Seconds without anything taken until it is told, and until it is told again.
const FIRST_WARNING: f64 = 30.0;
const NEXT_WARNING: f64 = 60.0;
/// Seconds that a receiver has after the stream was told to stop: without
/// anything taken, and altogether.
const LAST_QUIET: f64 = 5.0;
const LAST: f64 = 20.0;
/// How often who waits looks up.
const LOOK: Duration = Duration::from_millis(100);

/// What those who wait look at, and whom they tell.
pub struct Watch {
    /// The pipeline.
    pub pipeline: String,
    /// The run; no other one has its id.
    pub run_id: String,
    /// Set when the stream is told to stop.
    pub stop: Arc<AtomicBool>,
    /// Told of what goes wrong.
    pub warn: Option<Warn>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Why a receiver will not take a prediction, however often it is sent.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What the caller must do.
    pub kind: ErrorKind,
    /// What happened.
    pub message: String,
    /// The next step.
    pub hint: String,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.kind, refusal.message).hint(refusal.hint)
    }
}

/// A topic or a webhook, as all see it who wait for it.
pub struct Receiver {
    /// What it is, for messages.
    pub name: String,
    /// What those who wait look at.
    pub watch: Watch,
    waiting: AtomicUsize,
    /// Whether it has trouble since it last took something.
    troubled: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    trouble: String,
    refusal: Option<Refusal>,
    closed: bool,
    /// When somebody was warned last, monotonic seconds.
    warned: Option<f64>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver {{ {}, waiting: {:?} }}", self.name, self.waiting)
    }
}

impl Receiver {
    /// Nothing was sent to it yet.
    pub fn new(name: String, watch: Watch) -> Arc<Self> {
        let (waiting, troubled, state, changed) = Default::default();
        Arc::new(Self { name, watch, waiting, troubled, state, changed })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many predictions it has not taken yet.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Takes note of why nothing is taken at the moment; a `vague` reason does
    /// not replace another one.
    pub fn trouble(&self, why: String, vague: bool) {
        if vague && self.troubled.load(Ordering::SeqCst) {
            return;
        }
        self.state().trouble = why;
        self.troubled.store(true, Ordering::SeqCst);
    }

    /// Takes note that predictions were refused; the first reason stays.
    pub fn refuse(&self, refusal: Refusal) {
        self.state().refusal.get_or_insert(refusal);
        self.changed.notify_all();
    }

    /// Takes note that nobody has patience any more.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Nothing, or what was refused.
    ///
    /// # Errors
    /// What was refused.
    pub fn refusal(&self) -> Result<()> {
        self.state().refusal.clone().map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    /// Waits for a moment, or until something has happened; not at all when
    /// `still` says that there is nothing to wait for.
    fn doze(&self, still: impl Fn() -> bool) {
        let state = self.state();
        if still() && state.refusal.is_none() && !state.closed {
            drop(self.changed.wait_timeout(state, LOOK));
        }
    }

    /// What it is that waits, and why: `3 predictions wait for the topic …`.
    fn complaint(&self, since: &str) -> String {
        let n = self.waiting();
        let many = if n == 1 { "1 prediction waits".to_owned() } else { format!("{n} predictions wait") };
        let why = match self.troubled.load(Ordering::SeqCst) {
            true => self.state().trouble.clone(),
            false => "it has not acknowledged them".to_owned(),
        };
        format!("{many} for {}{since}: {why}", self.name)
    }

    fn warn(&self, quiet: f64) {
        if let Some(warn) = &self.watch.warn {
            let complaint = self.complaint(&format!(" since {quiet:.0} s"));
            warn(&format!("{}: {complaint}; they are committed when it has taken them", self.watch.pipeline));
        }
    }

    fn given_up(&self) -> Error {
        Error::unavailable(format!("{}; they are given up, because the stream was told to stop", self.complaint("")))
            .hint("nothing is lost: they are not committed, and the next start predicts and sends them again")
    }
}

/// Predictions that were sent, to wait for by another thread than the one that
/// sends the next.
#[derive(Debug, Clone)]
pub struct Sent(Arc<Way>);

/// Predictions on their way.
#[derive(Debug)]
pub struct Way {
    under_way: AtomicUsize,
    /// Who takes them.
    pub receiver: Arc<Receiver>,
}

impl Sent {
    /// Nothing yet.
    pub fn new(receiver: &Arc<Receiver>) -> Self {
        Self(Arc::new(Way { under_way: AtomicUsize::new(0), receiver: receiver.clone() }))
    }

    /// Takes note of predictions that go off now.
    pub fn add(&self, count: usize) {
        self.0.under_way.fetch_add(count, Ordering::SeqCst);
        self.0.receiver.waiting.fetch_add(count, Ordering::SeqCst);
    }

    /// What is told when they arrive.
    pub fn way(&self) -> Arc<Way> {
        self.0.clone()
    }

    /// Waits until all of them were taken, for as long as it takes. Warns of
    /// that.
    ///
    /// # Errors
    /// When one was refused; `Unavailable` when the stream was told to stop and
    /// the receiver takes nothing.
    pub fn wait(&self) -> Result<()> {
        let way = &self.0;
        let mut patience = Patience::new(&way.receiver, way.left());
        loop {
            if way.left() == 0 {
                return Ok(());
            }
            way.receiver.refusal()?;
            patience.look(way.left())?;
            way.receiver.doze(|| way.left() > 0);
        }
    }
}

impl Way {
    fn left(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    /// Takes note of predictions that were taken.
    pub fn taken(&self, count: usize) {
        let receiver = &self.receiver;
        receiver.waiting.fetch_sub(count, Ordering::SeqCst);
        if receiver.troubled.load(Ordering::Relaxed) {
            receiver.troubled.store(false, Ordering::SeqCst);
        }
        if self.under_way.fetch_sub(count, Ordering::SeqCst) == count {
            // Who looked before waits by now.
            drop(receiver.state());
            receiver.changed.notify_all();
        }
    }
}

/// The patience of one who waits.
#[derive(Debug)]
pub struct Patience<'a> {
    receiver: &'a Receiver,
    left: usize,
    /// Since when nothing was taken, and since when the stream is told to stop;
    /// monotonic seconds.
    quiet: f64,
    stopped: Option<f64>,
}

impl<'a> Patience<'a> {
    /// Begins to wait, for `left` predictions.
    pub fn new(receiver: &'a Receiver, left: usize) -> Self {
        Self { receiver, left, quiet: receiver.watch.clock.monotonic_seconds(), stopped: None }
    }

    /// To be called again and again; `left` are not taken yet.
    ///
    /// # Errors
    /// `Unavailable` when it has waited long enough.
    pub fn look(&mut self, left: usize) -> Result<()> {
        let watch = &self.receiver.watch;
        let now = watch.clock.monotonic_seconds();
        if left != self.left {
            (self.left, self.quiet) = (left, now);
        }
        if watch.stop.load(Ordering::SeqCst) {
            self.stopped.get_or_insert(now);
        }
        let quiet = now - self.quiet;
        let mut state = self.receiver.state();
        if state.closed {
            drop(state);
            return Err(self.receiver.given_up());
        }
        match decide(quiet, state.warned.map(|warned| now - warned), self.stopped.map(|stopped| now - stopped)) {
            Step::Wait => {}
            Step::Warn => {
                state.warned = Some(now);
                drop(state);
                self.receiver.warn(quiet);
            }
            Step::GiveUp => {
                drop(state);
                return Err(self.receiver.given_up());
            }
        }
        Ok(())
    }
}

/// What somebody who waits does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Wait,
    Warn,
    GiveUp,
}

/// Decides by the seconds since something was taken, since the last warning, and
/// since the stream was told to stop.
fn decide(quiet: f64, warned: Option<f64>, stopped: Option<f64>) -> Step {
    if stopped.is_some_and(|stopped| quiet >= LAST_QUIET || stopped >= LAST) {
        return Step::GiveUp;
    }
    if quiet >= FIRST_WARNING && warned.is_none_or(|warned| warned >= NEXT_WARNING) {
        return Step::Warn;
    }
    Step::Wait
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use insightera_core::{ManualClock, SystemClock};

    use super::*;

    /// A watch whose warnings are kept.
    pub fn watch(clock: Arc<dyn Clock>) -> (Watch, Arc<Mutex<Vec<String>>>) {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let own = told.clone();
        let warn: Warn = Arc::new(move |text: &str| own.lock().unwrap().push(text.to_owned()));
        let (pipeline, run_id) = ("live".to_owned(), "run-1".to_owned());
        (Watch { pipeline, run_id, stop: Arc::default(), warn: Some(warn), clock }, told)
    }

    fn receiver() -> (Arc<Receiver>, Arc<ManualClock>, Arc<Mutex<Vec<String>>>) {
        let clock = Arc::new(ManualClock::new(0));
        let (watch, told) = watch(clock.clone());
        (Receiver::new("the topic `x` of [live]".to_owned(), watch), clock, told)
    }

    #[test]
    fn who_waits_warns_after_half_a_minute_and_then_each_minute() {
        let (receiver, clock, told) = receiver();
        let sent = Sent::new(&receiver);
        sent.add(3);
        let mut patience = Patience::new(&receiver, 3);
        let mut other = Patience::new(&receiver, 3);
        for _ in 0..155 {
            patience.look(3).unwrap();
            other.look(3).unwrap();
            clock.advance(1_000_000);
        }
        let seconds = |text: &String| text.split(" since ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        assert_eq!(told.lock().unwrap().iter().map(seconds).collect::<Vec<_>>(), ["30", "90", "150"]);
        receiver.trouble("connection refused".to_owned(), false);
        receiver.trouble("all brokers are down".to_owned(), true);
        clock.advance(60_000_000);
        patience.look(3).unwrap();
        assert_eq!(
            told.lock().unwrap().last().unwrap(),
            "live: 3 predictions wait for the topic `x` of [live] since 215 s: connection refused; they are committed \
             when it has taken them"
        );
        // What is taken ends the silence and the trouble.
        sent.way().taken(2);
        patience.look(1).unwrap();
        clock.advance(29_000_000);
        patience.look(1).unwrap();
        assert_eq!(told.lock().unwrap().len(), 4);
        clock.advance(31_000_000);
        patience.look(1).unwrap();
        let last = told.lock().unwrap().last().unwrap().clone();
        assert!(last.contains("1 prediction waits for") && last.contains("it has not acknowledged them"), "{last}");
    }

    #[test]
    fn a_stream_that_is_told_to_stop_waits_only_while_something_is_taken() {
        let (receiver, clock, _) = receiver();
        Sent::new(&receiver).add(100);
        let mut patience = Patience::new(&receiver, 100);
        receiver.watch.stop.store(true, Ordering::SeqCst);
        for left in (80..100).rev() {
            patience.look(left).unwrap();
            clock.advance(900_000);
        }
        clock.advance(2_000_000);
        assert!(patience.look(79).is_err(), "it may not last for ever");
        let mut patience = Patience::new(&receiver, 79);
        clock.advance(4_900_000);
        patience.look(79).unwrap();
        clock.advance(100_000);
        let error = patience.look(79).unwrap_err();
        assert!(error.retryable() && error.to_string().contains("100 predictions wait for the topic `x`"), "{error}");
        assert!(error.to_string().contains("told to stop") && error.get_hint().unwrap().contains("nothing is lost"));
    }

    #[test]
    fn a_silence_that_is_long_already_ends_with_the_stop() {
        assert_eq!(decide(29.9, None, None), Step::Wait);
        assert_eq!(decide(1e6, Some(1.0), None), Step::Wait);
        assert_eq!(decide(30.0, None, Some(0.0)), Step::GiveUp);
        assert_eq!(decide(0.0, None, Some(19.9)), Step::Wait);
    }

    #[test]
    fn a_wait_ends_when_all_were_taken_and_with_a_refusal() {
        let (watch, _) = watch(Arc::new(SystemClock::new()));
        let receiver = Receiver::new("the topic `x` of [live]".to_owned(), watch);
        let (first, second) = (Sent::new(&receiver), Sent::new(&receiver));
        first.wait().unwrap();
        first.add(2);
        second.add(1);
        std::thread::scope(|threads| {
            let waits = threads.spawn(|| first.wait());
            first.way().taken(1);
            assert!(!waits.is_finished());
            first.way().taken(1);
            waits.join().unwrap().unwrap();
            assert_eq!(receiver.waiting(), 1);
            let waits = threads.spawn(|| second.wait());
            let refusal = Refusal { kind: ErrorKind::Invalid, message: "too large".into(), hint: "less".into() };
            receiver.refuse(refusal);
            let error = waits.join().unwrap().unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string(), error.get_hint()),
                (ErrorKind::Invalid, "too large".into(), Some("less"))
            );
            // What was taken before is committed all the same.
            first.wait().unwrap();
        });
    }

    #[test]
    fn nobody_waits_for_what_was_closed() {
        let (receiver, _, _) = receiver();
        let sent = Sent::new(&receiver);
        sent.add(1);
        std::thread::scope(|threads| {
            let waits = threads.spawn(|| sent.wait());
            receiver.close();
            assert!(waits.join().unwrap().unwrap_err().retryable());
        });
    }
}
