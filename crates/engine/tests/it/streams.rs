//! Streams from files: every event exactly once, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use insightera_engine::config::Overrides;
use insightera_engine::lake::commit::StreamState;
use insightera_engine::lake::maintain::expire::{Rules, expire};
use insightera_engine::notify::Warn;
use insightera_engine::stream::{self, StreamOptions, StreamSummary};
use insightera_engine::{Result, Workspace, sql};

use crate::project::{PIPELINE, START, TestProject, block_on};

const DAY: i64 = 86_400_000_000;
const LATENESS: i64 = DAY;

pub const LIVE: &str = r#"
kind = "stream"
[source]
files = "events"
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
[entity]
key = ["nim"]
[windows.week]
rolling = { tile = "1 day", tiles = 7 }
[windows.week.columns]
events = "count(*)"
rate = "avg(flag) FILTER (WHERE kind = 'attendance')"
[join]
key = ["nim"]
sql = "SELECT nim, gpa FROM gold.grades"
[features.columns]
risk = "CASE WHEN rate < 0.5 OR gpa < 2 THEN 1.0 ELSE 0.0 END"
[output]
table = "ml.live"
[output.columns]
nim = "nim"
risk = "risk"
events = "events"
rate = "rate"
gpa = "gpa"
window_complete = "window_complete"
event_timestamp = "event_timestamp"
source_partition = "source_partition"
source_offset = "source_offset"
[alerts.many]
when = "events >= 5"
table = "ml.alerts"
[stream]
max_rows = 40
dead_letters = "ml.dead"
late_events = "ml.late"
"#;

/// Numbers that are the same every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Lines of one file: events over some days, a few of them late, noise or no
/// events at all. Files have students of their own.
pub fn lines(file: usize, from: usize, count: usize) -> Vec<String> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ ((file as u64) << 32));
    let mut lines = Vec::new();
    for index in 0..from + count {
        let student = file as u64 * 100 + numbers.next(7);
        let mut at = START - 20 * DAY + index as i64 * DAY / 9 - numbers.next(5 * 3_600_000_000) as i64;
        let dice = numbers.next(40);
        if dice == 0 {
            at -= 3 * DAY;
        }
        let flag = numbers.next(2);
        let line = match dice {
            1 => "{\"nim\": \"broken".to_owned(),
            2 => format!("{{\"nim\":null,\"kind\":\"attendance\",\"at\":{at}}}"),
            3 => format!("{{\"nim\":\"{student}\",\"kind\":\"attendance\",\"at\":{}}}", START + 30_000 * DAY),
            4..=6 => format!("{{\"nim\":\"{student}\",\"kind\":\"noise\",\"at\":{at}}}"),
            7..=12 => format!("{{\"nim\":\"{student}\",\"kind\":\"grade\",\"at\":{at},\"data\":null}}"),
            13..=20 => {
                format!(
                    "{{\"at\":{at},\"data\":\"{{\\\"flag\\\":{flag}}}\",\"kind\":\"attendance\",\"nim\":\"{student}\"}}"
                )
            }
            _ => format!("{{\"nim\":\"{student}\",\"kind\":\"attendance\",\"at\":{at},\"data\":{{\"flag\":{flag}}}}}"),
        };
        if index >= from {
            lines.push(line);
        }
    }
    lines
}

pub fn append(folder: &Path, file: usize, lines: &[String]) {
    use std::io::Write;
    std::fs::create_dir_all(folder.join("events")).unwrap();
    let path = folder.join(format!("events/{file}.ndjson"));
    let mut out = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    for line in lines {
        writeln!(out, "{line}").unwrap();
    }
}

/// What must be in the tables, by the files alone: predictions as
/// `partition offset nim events rate complete`, late events and dead letters
/// as `partition offset`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub predictions: BTreeSet<String>,
    pub late: BTreeSet<String>,
    pub dead: BTreeSet<String>,
    pub alerts: BTreeSet<String>,
}

/// A fold over the lines as they are, without any of the engine's code.
pub fn oracle(folder: &Path) -> Ledger {
    let mut ledger = Ledger::default();
    let mut files: Vec<_> =
        std::fs::read_dir(folder.join("events")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for (partition, file) in files.iter().enumerate() {
        let text = std::fs::read_to_string(file).unwrap();
        let mut offset = 0;
        let mut newest = i64::MIN;
        let mut first = None;
        let mut seen: Vec<(String, i64, Option<f64>)> = Vec::new();
        for line in text.split_inclusive('\n') {
            let place = format!("{partition} {offset}");
            offset += line.len();
            if !line.ends_with('\n') {
                break;
            }
            let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
                ledger.dead.insert(place);
                continue;
            };
            let (Some(nim), Some(at)) = (event["nim"].as_str(), event["at"].as_i64()) else {
                ledger.dead.insert(place);
                continue;
            };
            if event["kind"] == "noise" {
                continue;
            }
            if at > START + 20_000 * DAY {
                ledger.dead.insert(place);
                continue;
            }
            if at < newest.saturating_sub(LATENESS) {
                ledger.late.insert(place);
                continue;
            }
            newest = newest.max(at);
            let began = *first.get_or_insert(at);
            let flag = match &event["data"] {
                serde_json::Value::String(text) => {
                    serde_json::from_str::<serde_json::Value>(text).unwrap()["flag"].as_f64()
                }
                other => other["flag"].as_f64(),
            };
            seen.push((nim.to_owned(), at, flag.filter(|_| event["kind"] == "attendance")));
            let day = at.div_euclid(DAY);
            let window: Vec<_> =
                seen.iter().filter(|(n, t, _)| n == nim && (day - 6..=day).contains(&t.div_euclid(DAY))).collect();
            let flags: Vec<f64> = window.iter().filter_map(|(_, _, flag)| *flag).collect();
            let rate = if flags.is_empty() { f64::NAN } else { flags.iter().sum::<f64>() / flags.len() as f64 };
            let complete = (day - 6) * DAY >= began;
            ledger.predictions.insert(format!("{place} {nim} {} {rate:.9} {complete}", window.len()));
            if window.len() >= 5 {
                ledger.alerts.insert(place);
            }
        }
    }
    ledger
}

pub fn text_rows(workspace: &Workspace, table: &str, query: &str) -> BTreeSet<String> {
    let name = TestProject::name(table);
    if workspace.lake().find(&name).unwrap().is_none() {
        return BTreeSet::new();
    }
    let batches = block_on(sql::query(workspace, query)).unwrap().batches;
    let mut rows = BTreeSet::new();
    for batch in batches {
        let columns: Vec<_> = batch.columns().iter().map(|column| cast(column, &DataType::Utf8).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let mut text = String::new();
            for column in &columns {
                let column = column.as_string::<i32>();
                let _ = write!(text, "{} ", if column.is_null(row) { "null" } else { column.value(row) });
            }
            let text = text.trim_end().to_owned();
            assert!(rows.insert(text.clone()), "`{text}` is in {table} twice");
        }
    }
    rows
}

/// What is in the tables; a row that is there twice fails.
pub fn ledger(workspace: &Workspace) -> Ledger {
    let mut predictions = BTreeSet::new();
    if workspace.lake().find(&TestProject::name("ml.live")).unwrap().is_some() {
        let query = "SELECT source_partition, source_offset, nim, events, rate, window_complete FROM ml.live";
        for batch in block_on(sql::query(workspace, query)).unwrap().batches {
            let long = |at: usize| cast(batch.column(at), &DataType::Int64).unwrap();
            let (partitions, offsets, events) = (long(0), long(1), long(3));
            let nims = cast(batch.column(2), &DataType::Utf8).unwrap();
            for row in 0..batch.num_rows() {
                let number = |column: &dyn Array| column.as_primitive::<Int64Type>().value(row);
                let rates = batch.column(4).as_primitive::<Float64Type>();
                let rate = if rates.is_null(row) { f64::NAN } else { rates.value(row) };
                let text = format!(
                    "{} {} {} {} {rate:.9} {}",
                    number(&partitions),
                    number(&offsets),
                    nims.as_string::<i32>().value(row),
                    number(&events),
                    batch.column(5).as_boolean().value(row)
                );
                assert!(predictions.insert(text.clone()), "`{text}` is predicted twice");
            }
        }
    }
    let places =
        |table: &str| text_rows(workspace, table, &format!("SELECT source_partition, source_offset FROM {table}"));
    Ledger { predictions, late: places("ml.late"), dead: places("ml.dead"), alerts: places("ml.alerts") }
}

pub fn prepare(folder: &Path) -> TestProject {
    let mut project = TestProject::at(folder, PIPELINE);
    std::fs::write(folder.join("pipelines/live.toml"), LIVE).unwrap();
    std::fs::create_dir_all(folder.join("events")).unwrap();
    project.seed(20);
    project.reopen();
    project
}

pub fn try_stream(workspace: &Workspace) -> Result<StreamSummary> {
    let options = StreamOptions { until_end: true, ..StreamOptions::default() };
    block_on(stream::run(workspace, "live", &options))
}

fn run(project: &TestProject) -> StreamSummary {
    try_stream(&project.workspace).unwrap()
}

#[test]
fn every_event_is_once_in_one_table_and_its_windows_are_a_fold_over_its_file() {
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    for file in 0..3 {
        append(temp.path(), file, &lines(file, 0, 150));
    }
    let summary = run(&project);
    let (found, wanted) = (ledger(&project.workspace), oracle(temp.path()));
    assert_eq!(found, wanted);
    assert!(!wanted.late.is_empty() && !wanted.dead.is_empty() && !wanted.alerts.is_empty());
    let counts = summary.counts;
    assert_eq!(counts.events, counts.rows + counts.filtered + counts.late + counts.dead);
    assert_eq!((counts.events, counts.rows), (450, wanted.predictions.len() as u64));
    assert!(summary.commits > 1, "{summary:?}");
}

/// A process that was killed right after its commits has told nobody of them.
#[cfg(feature = "faults")]
#[test]
fn commits_that_nobody_told_of_are_found_in_the_tables_snapshots() {
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    let look = || block_on(stream::look_for_forgotten(&project.workspace, "live")).unwrap();
    let commits = "SELECT DISTINCT run_id, snapshot_id, batch_size, committed_at, predicted_until \
                   FROM ml_monitoring.inference_metrics WHERE stage = 'commit'";
    let mut told = Vec::new();
    for run in 0..2 {
        append(temp.path(), 0, &lines(0, 150 * run, 150));
        told.push(self::run(&project));
        project.clock.advance(1_000_000);
    }
    assert!(told.iter().all(|summary| summary.commits > 1), "{told:?}");
    let found = text_rows(&project.workspace, "ml_monitoring.inference_metrics", commits);
    let unseen = "SELECT count(*) FROM ml.live p WHERE NOT EXISTS (SELECT 1 FROM ml_monitoring.inference_metrics c \
                  WHERE c.run_id = p.run_id AND c.stage = 'commit' AND c.predicted_until >= p.prediction_timestamp)";
    assert_eq!((found.len() > 2, project.count(unseen)), (true, 0));
    project.shell(&["DELETE FROM ml_monitoring.inference_metrics WHERE stage = 'commit'"]);
    assert!(project.count(unseen) > 100);
    // Who lives may tell of them yet.
    assert_eq!(look(), 0);
    project.clock.advance(120_000_000);
    assert_eq!(look(), found.len());
    assert_eq!(text_rows(&project.workspace, "ml_monitoring.inference_metrics", commits), found);
    assert_eq!((look(), project.count(unseen)), (0, 0));
}

#[test]
fn a_row_does_not_depend_on_how_the_events_came() {
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    let mut numbers = Numbers(7);
    let mut done = [0usize; 2];
    while done[0] < 120 {
        for (file, done) in done.iter_mut().enumerate() {
            let count = 1 + numbers.next(30) as usize;
            append(temp.path(), file, &lines(file, *done, count));
            *done += count;
        }
        project.clock.advance(1_000_000);
        run(&project);
    }
    assert_eq!(ledger(&project.workspace), oracle(temp.path()));
}

#[test]
fn nothing_new_commits_nothing_but_the_takeover() {
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    append(temp.path(), 0, &lines(0, 0, 50));
    assert!(run(&project).commits > 0);
    let before = project.count("SELECT count(*) FROM ml.live");
    let again = run(&project);
    assert_eq!((again.commits, again.counts.events), (0, 0));
    assert_eq!(project.count("SELECT count(*) FROM ml.live"), before);
}

#[test]
fn windows_come_back_from_their_files_and_without_them_from_the_events() {
    for lose in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let project = prepare(temp.path());
        append(temp.path(), 0, &lines(0, 0, 80));
        run(&project);
        let states =
            insightera_engine::lake::storage::local_path(project.workspace.lake().warehouse()).join("_streams/live");
        assert!(std::fs::read_dir(&states).unwrap().count() > 0);
        if lose {
            std::fs::remove_dir_all(&states).unwrap();
        }
        append(temp.path(), 0, &lines(0, 80, 80));
        let told = Arc::new(Mutex::new(String::new()));
        let own = told.clone();
        let warn: Option<Warn> = Some(Arc::new(move |warning: &str| own.lock().unwrap().push_str(warning)));
        let options = StreamOptions { until_end: true, on_warning: warn, ..StreamOptions::default() };
        let again = block_on(stream::run(&project.workspace, "live", &options)).unwrap();
        assert_eq!(again.counts.events, 80, "what is only read again is no event of the run");
        assert_eq!(told.lock().unwrap().contains("its events are read again from offset 0"), lose, "lost: {lose}");
        assert_eq!(ledger(&project.workspace), oracle(temp.path()), "lost: {lose}");
    }
}

#[test]
fn windows_declared_otherwise_are_built_from_the_events_again() {
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    append(temp.path(), 0, &lines(0, 0, 80));
    run(&project);
    let changed = LIVE.replace("events = \"count(*)\"", "events = \"count(*)\"\nlast_kind = \"last_value(kind)\"");
    std::fs::write(temp.path().join("pipelines/live.toml"), changed).unwrap();
    append(temp.path(), 0, &lines(0, 80, 40));
    run(&project);
    assert_eq!(ledger(&project.workspace), oracle(temp.path()));
}

#[test]
fn a_file_that_is_another_one_now_stops_the_stream() {
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    append(temp.path(), 0, &lines(0, 0, 30));
    run(&project);
    let before = ledger(&project.workspace);
    std::fs::remove_file(temp.path().join("events/0.ndjson")).unwrap();
    append(temp.path(), 0, &lines(1, 0, 30));
    let error = try_stream(&project.workspace).unwrap_err();
    assert!(error.to_string().contains("is another file now"), "{error}");
    assert_eq!(ledger(&project.workspace), before);
}

#[test]
fn positions_of_another_source_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    append(temp.path(), 0, &lines(0, 0, 30));
    run(&project);
    std::fs::rename(temp.path().join("events"), temp.path().join("moved")).unwrap();
    let changed = LIVE.replace("files = \"events\"", "files = \"moved\"");
    std::fs::write(temp.path().join("pipelines/live.toml"), changed).unwrap();
    let error = try_stream(&project.workspace).unwrap_err();
    assert!(error.to_string().contains("source `files:moved` was read"), "{error}");
}

#[test]
fn features_are_those_of_the_newest_snapshot() {
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    let known = crate::project::nim(3);
    let event = |at: i64| vec![format!("{{\"nim\":\"{known}\",\"kind\":\"grade\",\"at\":{at}}}")];
    append(temp.path(), 0, &event(START));
    run(&project);
    project.upsert("gold.grades", crate::project::grades_rows([3].into_iter(), 0.5));
    append(temp.path(), 0, &event(START + 1));
    run(&project);
    let batches = project.query("SELECT gpa FROM ml.live ORDER BY source_offset");
    let gpas: Vec<f64> =
        batches.iter().flat_map(|b| b.column(0).as_primitive::<Float64Type>().values().to_vec()).collect();
    assert_eq!(gpas, [1.3, 1.8]);
}

#[test]
fn a_join_that_has_no_memory_for_hashes_sorts_its_inputs() {
    const STUDENTS: usize = 400_000;
    const JOINED: &str = "SELECT g.nim, g.gpa + a.rate AS gpa FROM gold.grades g \
                          JOIN gold.attendance a ON a.nim = g.nim";
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    project.append("gold.grades", crate::project::grades_rows(20..STUDENTS, 0.0));
    project.append("gold.attendance", crate::project::attendance_rows(20..STUDENTS));
    let joined = LIVE.replace("SELECT nim, gpa FROM gold.grades", JOINED);
    std::fs::write(temp.path().join("pipelines/live.toml"), joined).unwrap();
    let students = (0..STUDENTS).step_by(7919);
    let event = |of: usize| format!("{{\"nim\":\"{}\",\"kind\":\"grade\",\"at\":{START}}}", crate::project::nim(of));
    append(temp.path(), 0, &students.clone().map(event).collect::<Vec<_>>());

    let overrides = Overrides { memory_bytes: Some(22_000_000), ..Overrides::default() };
    let tight = Workspace::open(temp.path(), overrides, project.clock.clone()).unwrap();
    // So little that hashes do not fit, which a question says.
    let hashed = block_on(sql::query(&tight, &format!("SELECT count(*) FROM ({JOINED}) WHERE gpa > -1")));
    let error = hashed.map(|answer| answer.batches).unwrap_err();
    assert!(error.to_string().contains("HashJoinInput"), "{error}");
    assert_eq!(try_stream(&tight).unwrap().counts.rows, students.clone().count() as u64);

    let found = text_rows(&project.workspace, "ml.live", "SELECT nim, round(gpa, 3) FROM ml.live");
    let wanted = text_rows(&project.workspace, "ml.live", &format!("SELECT nim, round(gpa, 3) FROM ({JOINED})"));
    assert_eq!(found.len(), students.count());
    assert!(found.is_subset(&wanted), "{found:?}");
}

#[test]
fn the_position_outlives_the_expiry_of_its_snapshot() {
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    append(temp.path(), 0, &lines(0, 0, 60));
    run(&project);
    let before = StreamState::read(&project.table("ml.live"), "live").unwrap();
    // Others commit to the same table, and what the stream committed expires.
    let row = project.query("SELECT * FROM ml.live LIMIT 1");
    for _ in 0..3 {
        project.clock.advance(40 * DAY);
        insightera_engine::lake::upsert::append(
            project.workspace.lake(),
            &project.table("ml.live"),
            &row,
            &["nim".into()],
        )
        .unwrap();
    }
    let rules = Rules { older_than_ms: Some(i64::MAX), retain_last: Some(1), ..Rules::default() };
    expire(project.workspace.lake(), &TestProject::name("ml.live"), &rules).unwrap();
    let table = project.table("ml.live");
    assert!(table.metadata().snapshots().all(|s| Some(s.snapshot_id()) != before.snapshot_id), "it is gone");
    let after = StreamState::read(&project.table("ml.live"), "live").unwrap();
    assert_eq!(after.committed.positions, before.committed.positions);
    assert_eq!(after.checkpoints, before.checkpoints);
}

#[test]
fn a_checkpoint_of_every_partition_goes_forward_in_every_commit() {
    let temp = tempfile::tempdir().unwrap();
    let project = prepare(temp.path());
    append(temp.path(), 0, &lines(0, 0, 30));
    run(&project);
    append(temp.path(), 1, &lines(1, 0, 30));
    run(&project);
    let state = StreamState::read(&project.table("ml.live"), "live").unwrap();
    let both = BTreeMap::from([(0, ()), (1, ())]);
    assert_eq!(state.checkpoints.keys().collect::<Vec<_>>(), both.keys().collect::<Vec<_>>());
    assert_eq!(state.committed.positions.keys().collect::<Vec<_>>(), both.keys().collect::<Vec<_>>());
    assert_eq!(state.committed.owners[&0].epoch, 2, "taken over by the second run");
}
