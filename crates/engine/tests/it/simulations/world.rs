//! A project in memory: what is done to its stream and its tables.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::prelude::{SessionConfig, SessionContext};
use insightera_core::{ErrorKind, ManualClock};
use insightera_engine::config::Overrides;
use insightera_engine::lake::commit::StreamState;
use insightera_engine::lake::maintain::expire::{self, Rules};
use insightera_engine::lake::maintain::rewrite::{self, Options};
use insightera_engine::lake::maintain::{manifests, orphans};
use insightera_engine::lake::storage::Storage;
use insightera_engine::lake::{Lake, TableName};
use insightera_engine::stream::{self, StreamOptions, StreamSummary};
use insightera_engine::{Result, Workspace, sql};

use super::catalog::{Door, Late, Pointers};
use super::events::Rows;
use super::source::{Plan, Topic, feed};
use crate::project::START;

const PIPELINE: &str = r#"
kind = "stream"
[source]
topic = "events"
partition_key = ["nim"]
[source.kafka]
"bootstrap.servers" = "nobody.invalid:1"
[events]
time = "at"
filter = "kind <> 'noise'"
allowed_lateness = "1 day"
max_future = "2 hours"
[events.fields]
nim = "string"
kind = "string"
flag = { type = "double", path = "data.flag" }
at = { type = "timestamp", format = "microseconds" }
[events.columns]
weight = "1 / (length(kind) - length('unweighed'))"
[entity]
key = ["nim"]
[windows.week]
rolling = { tile = "1 day", tiles = 7 }
[windows.week.columns]
events = "count(*)"
rate = "avg(flag) FILTER (WHERE kind = 'attendance')"
[features.columns]
risk = "CASE WHEN kind = 'unrated' THEN 1 / (events - events) WHEN rate < 0.5 THEN 1.0 ELSE 0.0 END"
[output]
table = "ml.live"
[output.columns]
nim = "nim"
risk = "risk"
events = "events"
rate = "rate"
window_complete = "window_complete"
source_partition = "source_partition"
source_offset = "source_offset"
[alerts.many]
when = "events >= 3"
table = "ml.alerts"
[alerts.began]
when = "events >= 3"
on_change = true
table = "ml.began"
[stream]
max_rows = 12
freshness = "1 hour"
dead_letters = "ml.dead"
late_events = "ml.late"
"#;

/// The stream's tables, and what is compared of each.
pub const TABLES: [(&str, &str); 5] = [
    ("live", "nim, events, rate, window_complete, risk"),
    ("late", "payload"),
    ("dead", "payload"),
    ("alerts", "nim, events"),
    ("began", "nim, events"),
];

pub fn name(table: &str) -> TableName {
    TableName { namespace: "ml".into(), name: table.into() }
}

/// Which partitions a process reads.
#[derive(Debug, Clone)]
pub enum Share {
    All,
    Named(Vec<u32>),
    Group,
}

/// A process of a step.
#[derive(Debug, Clone)]
pub enum Job {
    Stream {
        share: Share,
        plan: Plan,
    },
    Compact(&'static str),
    /// Compaction, and expiry of all but so many snapshots right after it.
    Maintain(&'static str, usize),
    Manifests(&'static str),
    Expire(&'static str, usize),
    Orphans(&'static str),
}

/// What happens to one process.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    Dies(usize),
    Late(Late),
}

/// What a process did.
pub struct Ended {
    pub result: Result<Option<StreamSummary>>,
    pub died: bool,
    /// Whether its fate has come.
    pub happened: bool,
    pub questions: usize,
}

pub struct World {
    pub folder: PathBuf,
    pub clock: Arc<ManualClock>,
    pub pointers: Arc<Pointers>,
    workspace: Workspace,
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl World {
    pub fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join("pipelines")).unwrap();
        let settings = "format = 1\n[run]\nthreads = 1\n[maintenance]\nstreams = false\n";
        std::fs::write(folder.join("insightera.toml"), settings).unwrap();
        std::fs::write(folder.join("pipelines/live.toml"), PIPELINE).unwrap();
        let clock = Arc::new(ManualClock::new(START));
        let workspace = Workspace::create(folder, Overrides::default(), clock.clone()).unwrap();
        let pointers = Arc::new(Pointers::new(folder.to_owned()));
        Self { folder: folder.to_owned(), clock, pointers, workspace }
    }

    /// A process that knows nothing but what is in files and in the catalog.
    fn lake(&self, door: &Arc<Door>) -> Lake {
        let warehouse = format!("file://{}/warehouse", self.folder.display());
        Lake::new(door.clone(), Storage::default(), warehouse, self.clock.clone())
    }

    /// The files of the windows go: the topic has the events.
    pub fn lose_windows(&self) {
        let _ = std::fs::remove_dir_all(self.folder.join("warehouse/_streams"));
    }

    /// Runs processes side by side, one of them at a time.
    pub fn run(&self, jobs: &[Job], fate: Option<(usize, Fate)>, topic: &Topic, seed: u64) -> Vec<Ended> {
        let turns = &self.pointers.turns;
        turns.begin(jobs.len(), seed);
        let doors: Vec<(Arc<Door>, Arc<AtomicBool>)> = (0..jobs.len())
            .map(|who| {
                let stop = Arc::new(AtomicBool::new(false));
                (Arc::new(Door::new(&self.pointers, who, &stop)), stop)
            })
            .collect();
        match fate {
            Some((who, Fate::Dies(question))) => doors[who].0.dies_at(question),
            Some((who, Fate::Late(late))) => doors[who].0.delays(late),
            None => {}
        }
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (who, (job, (door, stop))) in jobs.iter().zip(&doors).enumerate() {
                threads.push(scope.spawn(move || {
                    turns.first(who);
                    // A panic must not keep the others waiting.
                    let work = std::panic::AssertUnwindSafe(|| self.act(job, door, stop, topic));
                    let result = std::panic::catch_unwind(work);
                    turns.end(who);
                    result
                }));
            }
            let results: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            let ended = |(result, (door, _)): (std::thread::Result<_>, &(Arc<Door>, _))| Ended {
                result: result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                died: door.died(),
                happened: door.happened(),
                questions: door.questions(),
            };
            results.into_iter().zip(&doors).map(ended).collect()
        })
    }

    fn act(&self, job: &Job, door: &Arc<Door>, stop: &Arc<AtomicBool>, topic: &Topic) -> Result<Option<StreamSummary>> {
        let lake = self.lake(door);
        match job {
            Job::Stream { share, plan } => {
                let fed = feed(topic, &self.clock, self.folder.clone(), plan.clone(), stop.clone());
                let options = StreamOptions {
                    until_end: !matches!(share, Share::Group),
                    partitions: if let Share::Named(own) = share { Some(own.clone()) } else { None },
                    stop: stop.clone(),
                    ..StreamOptions::default()
                };
                block_on(stream::run(&self.workspace.simulated(lake, fed), "live", &options)).map(Some)
            }
            Job::Compact(table) => compact(&lake, table).map(|()| None),
            Job::Maintain(table, keep) => {
                compact(&lake, table)?;
                expire(&lake, table, *keep).map(|()| None)
            }
            Job::Manifests(table) => manifests::rewrite(&lake, &name(table), None).map(|_| None),
            Job::Expire(table, keep) => expire(&lake, table, *keep).map(|()| None),
            Job::Orphans(table) => {
                let search = orphans::default_search(lake.clock().now_millis());
                let found = orphans::find(&lake, &name(table), search)?;
                orphans::quarantine(&lake, &name(table), &found).map(|_| None)
            }
        }
    }

    /// What nobody of a step looks through.
    fn observer(&self) -> Lake {
        self.lake(&Arc::new(Door::new(&self.pointers, usize::MAX, &Arc::default())))
    }

    /// Positions and epochs, by table.
    pub fn positions(&self) -> Result<String> {
        let (lake, mut text) = (self.observer(), String::new());
        for (table, _) in TABLES {
            let Some(found) = lake.find(&name(table))? else { continue };
            let state = StreamState::read(&found, "live")?.committed;
            let owners = state.owners.iter().map(|(partition, owner)| (partition, owner.epoch));
            let both: Vec<String> = owners
                .map(|(partition, epoch)| {
                    format!("{partition}@{}e{epoch}", state.positions.get(partition).unwrap_or(&-1))
                })
                .collect();
            text.push_str(&format!("{table}[{}] ", both.join(" ")));
        }
        Ok(text)
    }

    /// What is in the tables.
    pub fn rows(&self) -> Result<Rows> {
        let plan = Plan::to_the_end(0, false);
        let fed = feed(&Topic::default(), &self.clock, self.folder.clone(), plan, Arc::default());
        let workspace = self.workspace.simulated(self.observer(), fed);
        let mut all = Rows::new();
        for (table, columns) in TABLES {
            let rows = all.entry(table).or_default();
            if workspace.lake().find(&name(table))?.is_none() {
                continue;
            }
            let query = format!("SELECT source_partition, source_offset, {columns} FROM ml.{table}");
            for batch in block_on(sql::query(&workspace, &query))?.batches {
                for row in 0..batch.num_rows() {
                    let values: Vec<String> = batch.columns().iter().map(|column| text(column, row)).collect();
                    rows.push(values.join(" "));
                }
            }
            rows.sort();
        }
        Ok(all)
    }
}

fn compact(lake: &Lake, table: &str) -> Result<()> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let options = Options { rewrite_all: true, ..Options::default() };
    block_on(rewrite::rewrite(lake, &context, &name(table), &options, None)).map(drop)
}

fn expire(lake: &Lake, table: &str, keep: usize) -> Result<()> {
    let older_than_ms = Some(lake.clock().now_millis());
    let rules = Rules { older_than_ms, retain_last: Some(keep), ..Rules::default() };
    expire::expire(lake, &name(table), &rules).map(drop)
}

fn text(column: &dyn Array, row: usize) -> String {
    if column.is_null(row) {
        return "null".to_owned();
    }
    match column.as_primitive_opt::<Float64Type>() {
        Some(numbers) => format!("{:.9}", numbers.value(row)),
        None => cast(column, &DataType::Utf8).unwrap().as_string::<i32>().value(row).to_owned(),
    }
}

/// Whether a job may answer this though nothing happened to it: another was
/// faster, or there is no such table yet.
pub fn is_of_others(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Conflict | ErrorKind::NotFound)
}

/// What was done, over all simulations.
#[derive(Debug, Default)]
pub struct Done {
    pub steps: std::sync::atomic::AtomicU64,
    pub kinds: Mutex<std::collections::BTreeMap<&'static str, u64>>,
}

impl Done {
    pub fn note(&self, kind: &'static str) {
        self.add(kind, 1);
    }

    pub fn add(&self, kind: &'static str, count: u64) {
        *self.kinds.lock().unwrap().entry(kind).or_default() += count;
    }
}
