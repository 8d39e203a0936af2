//! The demo's events: written to files while the streams read them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insightera_engine::Workspace;
use insightera_engine::config::PipelineKind;
use insightera_engine::stream::{self, LiveStatus, StreamOptions, StreamSummary};

use super::assets::EVENTS;
use super::folder::failed;
use crate::commands::several::{self, Outcomes};
use crate::progress::Bars;
use crate::text;
use crate::university::{Events, University, attendance};

/// The file that the demo writes in each folder of events.
pub const FILE: &str = "demo.ndjson";

/// Events of students, and payments, a second.
const STUDENTS: u64 = 1_000;
const PAYMENTS: u64 = 200;

/// One line in so many is damaged: a system that is always right is nobody's.
const DAMAGED: u64 = 2_000;

/// Lectures that one student misses.
pub const ABSENCES: u64 = 10;

/// How often lines are written.
const TICK: Duration = Duration::from_millis(50);

/// How long the streams may take to read what is left at the end.
const PATIENCE: f64 = 10.0;

/// The summaries of the streams after `seconds` of events, in which `absent`
/// misses [`ABSENCES`] lectures.
pub async fn events(
    workspace: &Workspace,
    university: &University,
    dir: &Path,
    absent: &str,
    seconds: u64,
    bars: &Bars,
) -> anyhow::Result<Outcomes<StreamSummary>> {
    let mut writer = Writer::new(workspace, university, dir, absent, seconds)?;
    // The streams begin with files that are there.
    writer.write()?;
    let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(Read::default()));
    let writing = tokio::task::spawn_blocking({
        let (stop, read) = (stop.clone(), read.clone());
        move || {
            let written = writer.write_all(&stop);
            if written.is_ok() {
                read.wait_for(writer.lines, &stop);
            }
            stop.store(true, Ordering::SeqCst);
            written
        }
    });
    let names = workspace.project().names_of(PipelineKind::Stream).map(str::to_owned).collect();
    let bar = bars.bar("events");
    let outcomes = several::in_parallel(names, |name| {
        let (workspace, stop, read, bar) = (workspace.clone(), stop.clone(), read.clone(), bar.clone());
        async move {
            let tell = move |live: &LiveStatus| bar.stage(&read.note(live), None);
            let options = StreamOptions {
                until_end: false,
                partitions: None,
                stop: stop.clone(),
                on_alert: None,
                on_status: Some(Arc::new(tell)),
                on_warning: None,
            };
            let ended = stream::run(&workspace, &name, &options).await;
            if ended.is_err() {
                stop.store(true, Ordering::SeqCst);
            }
            Ok(ended?)
        }
    })
    .await;
    bar.finish();
    writing.await??;
    Ok(outcomes)
}

/// What the streams have said so far: events and alerts of each.
#[derive(Debug, Default)]
struct Read {
    streams: Mutex<BTreeMap<String, (u64, u64)>>,
}

impl Read {
    /// Takes in what a stream says; how it goes in one line.
    fn note(&self, live: &LiveStatus) -> String {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.insert(live.pipeline.clone(), (live.events, live.alerts));
        let (events, alerts) = streams.values().fold((0, 0), |(e, a), (events, alerts)| (e + events, a + alerts));
        format!("{} read, {} alerts", text::count(events), text::count(alerts))
    }

    fn all(&self) -> u64 {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).values().map(|(events, _)| events).sum()
    }

    fn wait_for(&self, lines: u64, stop: &AtomicBool) {
        let mut left = PATIENCE;
        while self.all() < lines && left > 0.0 && !stop.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
            left -= TICK.as_secs_f64();
        }
    }
}

/// Writes events as time goes by.
struct Writer {
    workspace: Workspace,
    events: Events,
    files: [(PathBuf, File); 2],
    absent: String,
    started: f64,
    seconds: f64,
    /// Events of students, payments and absences written so far.
    written: [u64; 3],
    lines: u64,
}

impl Writer {
    fn new(
        workspace: &Workspace,
        university: &University,
        dir: &Path,
        absent: &str,
        seconds: u64,
    ) -> anyhow::Result<Self> {
        let open = |folder: &str| -> anyhow::Result<(PathBuf, File)> {
            let path = dir.join(folder).join(FILE);
            let file = fs::OpenOptions::new().create(true).append(true).open(&path);
            Ok((path.clone(), file.map_err(|e| failed("write", &path, e))?))
        };
        Ok(Self {
            workspace: workspace.clone(),
            events: Events::new(*university, absent),
            files: [open(EVENTS[0])?, open(EVENTS[1])?],
            absent: absent.to_owned(),
            started: workspace.clock().monotonic_seconds(),
            seconds: seconds as f64,
            written: [0; 3],
            lines: 0,
        })
    }

    fn write_all(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        while self.workspace.clock().monotonic_seconds() - self.started < self.seconds && !stop.load(Ordering::SeqCst) {
            self.write()?;
            std::thread::sleep(TICK);
        }
        self.write()
    }

    /// What has happened until now; at least one line each.
    fn write(&mut self) -> anyhow::Result<()> {
        let past = (self.workspace.clock().monotonic_seconds() - self.started).min(self.seconds);
        let due = |rate: u64| ((rate as f64 * past) as u64).max(1);
        let absences = ((ABSENCES as f64 * (past / self.seconds)) as u64).max(1);
        let (mut students, mut payments) = (String::new(), String::new());
        for number in self.written[2]..absences {
            self.line(&mut students, number, |writer, now| attendance(&writer.absent, false, now));
        }
        let [from_students, from_payments, _] = self.written;
        self.written = [due(STUDENTS), due(PAYMENTS), absences];
        for number in from_students..self.written[0] {
            self.line(&mut students, number + 1, |writer, now| writer.events.of_student(number, now));
        }
        for number in from_payments..self.written[1] {
            self.line(&mut payments, number + 1, |writer, now| writer.events.of_payment(number, now));
        }
        for ((path, file), lines) in self.files.iter_mut().zip([students, payments]) {
            let written: io::Result<()> = file.write_all(lines.as_bytes());
            written.map_err(|e| failed("write", path, e))?;
        }
        Ok(())
    }

    fn line(&mut self, to: &mut String, number: u64, event: impl Fn(&Self, i64) -> String) {
        let line = event(self, self.workspace.clock().now_micros());
        let damaged = number > 0 && number.is_multiple_of(DAMAGED);
        to.push_str(if damaged { &line[..line.len() / 2] } else { &line });
        to.push('\n');
        self.lines += 1;
    }
}
