//! Telling somebody of alerts: webhooks, text for Slack, lines of a file.
//!
//! Whoever has something to tell never waits: notices go into a queue per
//! notifier, and a task sends them one after the other. What cannot be
//! delivered after some tries is given up with a warning; the rows are in the
//! alert's table all the same. A process that is killed forgets its queues: who
//! must not forget waits for the [`Delivery`] before it takes what it told of
//! for done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::json::ArrayWriter;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use tokio::task::JoinHandle;

use crate::config::{Address, NotifierSettings};
use crate::webhook::{Answer, Webhook};
use crate::{Error, Result};

/// Notices that wait for a notifier.
const QUEUE: usize = 1000;
/// Rows of a notice that are sent; of more, only the number is told.
const ROWS: usize = 100;
/// Rows that a person reads.
const ROWS_OF_TEXT: usize = 10;
/// Tries, and the pause after the first; each next one is twice as long.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(250);

/// Told of what could not be delivered.
pub type Warn = Arc<dyn Fn(&str) + Send + Sync>;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// The pipeline.
    pub pipeline: String,
    /// The alert.
    pub alert: String,
    /// When it was, microseconds since the epoch.
    pub at: i64,
    /// How many rows it has.
    pub count: usize,
    /// The first of them.
    pub rows: Vec<Map<String, Value>>,
}

impl Notice {
    /// A notice of rows, microseconds since the epoch.
    ///
    /// # Errors
    /// When a row has no JSON form.
    pub fn new(pipeline: &str, alert: &str, rows: &RecordBatch, at: i64) -> Result<Self> {
        let wrong = |e: &dyn std::fmt::Display| Error::internal(format!("the rows of alert `{alert}`: {e}"));
        let mut writer = ArrayWriter::new(Vec::new());
        let first = rows.slice(0, rows.num_rows().min(ROWS));
        writer.write(&first).and_then(|()| writer.finish()).map_err(|e| wrong(&e))?;
        let first = serde_json::from_slice(&writer.into_inner()).map_err(|e| wrong(&e))?;
        let (pipeline, alert) = (pipeline.to_owned(), alert.to_owned());
        Ok(Self { pipeline, alert, at, count: rows.num_rows(), rows: first })
    }

    fn json(&self) -> Value {
        json!({ "pipeline": self.pipeline, "alert": self.alert, "count": self.count, "rows": self.rows })
    }

    /// What a file gets.
    fn line(&self) -> String {
        let at = chrono::DateTime::from_timestamp_micros(self.at).unwrap_or_default();
        let at = at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let Value::Object(mut fields) = self.json() else { return String::new() };
        fields.shift_insert(0, "at".to_owned(), at.into());
        format!("{}\n", Value::Object(fields))
    }

    /// In Slack's form, where three characters must be written otherwise.
    fn text(&self) -> String {
        let plain = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let many = if self.count == 1 { "1 row".to_owned() } else { format!("{} rows", self.count) };
        let mut text = format!("*{}* of {}: {many}", plain(&self.alert), plain(&self.pipeline));
        for row in self.rows.iter().take(ROWS_OF_TEXT) {
            let values = row.iter().filter(|(name, _)| *name != "alert").map(|(name, value)| match value {
                Value::String(value) => format!("{name} {value}"),
                value => format!("{name} {value}"),
            });
            text.push_str(&format!("\n• {}", plain(&values.collect::<Vec<_>>().join(", "))));
        }
        let more = self.count.saturating_sub(ROWS_OF_TEXT.min(self.rows.len()));
        if more > 0 {
            text.push_str(&format!("\n… and {more} more"));
        }
        text
    }
}

/// Notices that are told together.
#[derive(Debug, Clone, Default)]
pub struct Delivery(Arc<(Mutex<Progress>, Condvar)>);

/// What has become of them.
#[derive(Debug, Default)]
struct Progress {
    /// Neither taken by who is to be told, nor given up with a warning.
    on_their_way: usize,
    /// Whether there was one at all.
    begun: bool,
    /// Whether one was given up.
    failed: bool,
}

impl Delivery {
    /// Waits until none is on its way any more, but not longer than `patience`.
    pub fn wait(&self, patience: Duration) {
        let waited = self.0.1.wait_timeout_while(self.progress(), patience, |all| all.on_their_way > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether there was nothing to tell.
    pub fn is_empty(&self) -> bool {
        !self.progress().begun
    }

    /// Whether everybody has been told.
    pub fn has_succeeded(&self) -> bool {
        let progress = self.progress();
        progress.on_their_way == 0 && !progress.failed
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, until what this answers is dropped.
    fn begin(&self) -> OnItsWay {
        let mut progress = self.progress();
        progress.on_their_way += 1;
        progress.begun = true;
        drop(progress);
        OnItsWay(self.clone())
    }

    fn fail(&self) {
        self.progress().failed = true;
    }
}

/// A notice that is on its way.
struct OnItsWay(Delivery);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.progress().on_their_way -= 1;
        self.0.0.1.notify_all();
    }
}

/// What a lane gets.
type Sending = (Arc<Notice>, OnItsWay);

/// The queues of the notifiers that somebody wants.
pub struct Outbox {
    lanes: BTreeMap<String, (Sender<Sending>, JoinHandle<()>)>,
    warn: Warn,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.lanes.keys()).finish()
    }
}

impl Outbox {
    /// Opens the queues; sends nothing.
    ///
    /// # Errors
    /// When an address is none, or is in a variable that is not there.
    pub fn open<'a>(
        project: &Path,
        notifiers: impl Iterator<Item = (&'a String, &'a NotifierSettings)>,
        warn: Warn,
    ) -> Result<Self> {
        let mut lanes = BTreeMap::new();
        for (name, settings) in notifiers {
            let lane = Lane { name: name.clone(), way: Way::new(project, name, settings)?, warn: warn.clone() };
            let (sender, receiver) = channel(QUEUE);
            lanes.insert(name.clone(), (sender, tokio::spawn(lane.deliver(receiver))));
        }
        Ok(Self { lanes, warn })
    }

    /// Puts a notice into the queues of these notifiers; `delivery` knows of it
    /// until it is delivered or given up.
    pub fn tell(&self, names: &[String], notice: Result<Notice>, delivery: &Delivery) {
        let notice = match notice {
            Ok(notice) => Arc::new(notice),
            Err(error) => return (self.warn)(&format!("nobody was told of an alert: {error}")),
        };
        for (name, (sender, _)) in names.iter().filter_map(|name| self.lanes.get_key_value(name)) {
            if let Err(TrySendError::Full(_)) = sender.try_send((notice.clone(), delivery.begin())) {
                delivery.fail();
                (self.warn)(&format!(
                    "notifier `{name}` is too slow: alert `{}` of `{}` was not sent to it",
                    notice.alert, notice.pipeline
                ));
            }
        }
    }

    /// Waits until the queues are empty, but not longer than `patience`.
    pub async fn close(self, patience: Duration) {
        let end = tokio::time::Instant::now() + patience;
        for (name, (sender, mut task)) in self.lanes {
            drop(sender);
            if tokio::time::timeout_at(end, &mut task).await.is_err() {
                task.abort();
                (self.warn)(&format!("notifier `{name}` did not take all notices in {} s", patience.as_secs()));
            }
        }
    }
}

/// One notifier.
struct Lane {
    name: String,
    way: Way,
    warn: Warn,
}

/// How a notifier is told.
enum Way {
    Json(Webhook),
    Text(Webhook),
    Lines(PathBuf),
}

impl Way {
    fn new(project: &Path, name: &str, settings: &NotifierSettings) -> Result<Self> {
        let webhook =
            |Address { url, timeout }: &Address| Webhook::new(url, &format!("`url` of [notifiers.{name}]"), *timeout);
        Ok(match settings {
            NotifierSettings::Webhook(address) => Self::Json(webhook(address)?),
            NotifierSettings::Slack(address) => Self::Text(webhook(address)?),
            NotifierSettings::Log { file } => Self::Lines(project.join(file)),
        })
    }

    async fn send(&self, notice: &Notice) -> Answer {
        match self {
            Self::Json(webhook) => webhook.post(notice.json().to_string().into(), None).await,
            Self::Text(webhook) => webhook.post(json!({ "text": notice.text() }).to_string().into(), None).await,
            Self::Lines(file) => match append(file, &notice.line()).await {
                Ok(()) => Answer::Taken,
                Err(error) => Answer::Later { why: format!("`{}`: {error}", file.display()), after: None },
            },
        }
    }
}

/// A line at the end of a file, which may have been moved away meanwhile.
async fn append(file: &Path, line: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(file).await?;
    file.write_all(line.as_bytes()).await?;
    file.sync_data().await
}

impl Lane {
    async fn deliver(self, mut notices: Receiver<Sending>) {
        while let Some((notice, on_its_way)) = notices.recv().await {
            if let Err(why) = self.send(&notice).await {
                on_its_way.0.fail();
                let Notice { pipeline, alert, count, .. } = notice.as_ref();
                (self.warn)(&format!(
                    "notifier `{}` was not told of alert `{alert}` of `{pipeline}`, {count} rows: {why}",
                    self.name
                ));
            }
        }
    }

    /// Sends a notice, again where that may help.
    async fn send(&self, notice: &Notice) -> std::result::Result<(), String> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let why = match self.way.send(notice).await {
                Answer::Taken => return Ok(()),
                Answer::Refused { status: Some(status), .. } => return Err(format!("it answered {status}")),
                Answer::Refused { status: None, said } => return Err(said),
                Answer::Later { why, .. } => why,
            };
            if attempt == TRIES {
                return Err(format!("{why}, {attempt} times"));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, StringArray};

    fn notice(rows: usize) -> Notice {
        let nim = StringArray::from_iter_values((0..rows).map(|row| format!("<{row}>")));
        let risk = Float64Array::from_iter_values((0..rows).map(|row| row as f64 / 4.0));
        let alert = StringArray::from_iter_values((0..rows).map(|_| "high"));
        let rows = RecordBatch::try_from_iter([
            ("nim", Arc::new(nim) as arrow::array::ArrayRef),
            ("risk", Arc::new(risk)),
            ("alert", Arc::new(alert)),
        ]);
        Notice::new("live", "high", &rows.unwrap(), 1_767_225_600_500_000).unwrap()
    }

    #[test]
    fn a_webhook_gets_the_rows_and_how_many_there_are() {
        let body = notice(2).json();
        assert_eq!((&body["pipeline"], &body["alert"], &body["count"]), (&json!("live"), &json!("high"), &json!(2)));
        assert_eq!(body["rows"][1], json!({ "nim": "<1>", "risk": 0.25, "alert": "high" }));
        let line = notice(1).line();
        assert!(
            line.starts_with("{\"at\":\"2026-01-01T00:00:00.500Z\",\"pipeline\":\"live\",") && line.ends_with("}\n"),
            "{line}"
        );
        let body = notice(250).json();
        assert_eq!((&body["count"], body["rows"].as_array().unwrap().len()), (&json!(250), ROWS));
    }

    #[test]
    fn a_delivery_has_succeeded_when_all_were_taken_and_none_was_given_up() {
        let delivery = Delivery::default();
        assert!(delivery.is_empty() && delivery.has_succeeded());
        let (first, second) = (delivery.begin(), delivery.begin());
        drop(first);
        delivery.wait(Duration::ZERO);
        assert!(!delivery.is_empty() && !delivery.has_succeeded());
        let later = std::thread::spawn(move || drop(second));
        delivery.wait(Duration::from_secs(60));
        assert!(delivery.has_succeeded());
        later.join().unwrap();
        delivery.begin().0.fail();
        assert!(!delivery.has_succeeded());
    }

    #[test]
    fn slack_gets_text_that_it_does_not_read_as_markup() {
        assert_eq!(notice(1).text(), "*high* of live: 1 row\n• nim &lt;0&gt;, risk 0.0");
        let text = notice(12).text();
        assert!(text.starts_with("*high* of live: 12 rows\n• ") && text.ends_with("\n… and 2 more"), "{text}");
    }
}
