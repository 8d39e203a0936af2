//! Streams forget who was erased, also while they run, and everybody else's
//! rows are those of a stream that never forgot.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use insightera_core::{Clock, SystemClock};
use insightera_engine::erase::{self, Order, Report};
use insightera_engine::lake::commit::StreamState;
use insightera_engine::lake::erase::Entity;
use insightera_engine::stream::{self, StreamOptions, StreamSummary};
use insightera_engine::{Error, Workspace};

use crate::project::{TestProject, block_on};
use crate::streams::{LIVE, append, lines, prepare, text_rows, try_stream};

const STUDENT: &str = "202300103";

/// Events of students with long numbers, some of them of the one who is
/// erased and broken.
fn events(from: usize, count: usize) -> Vec<String> {
    let mut all: Vec<String> =
        lines(1, from, count).into_iter().map(|line| line.replace("\"nim\":\"10", "\"nim\":\"20230010")).collect();
    all.push(format!("{{\"nim\": \"{STUDENT}\", broken"));
    all.push(format!("{{\"nim\": \"{STUDENT}\", \"kind\": \"attendance\", \"at\": 1}}"));
    all
}

fn forget(workspace: &Workspace) -> Result<Report, Error> {
    let entity = Entity { columns: vec!["nim".into()], values: vec![STUDENT.into()] };
    let order = Order { entity, reason: "request 18".into(), tables: Vec::new() };
    block_on(erase::carry_out(workspace, &order, &|_| {}))
}

/// The rows of all tables of a stream, but the student's.
fn others(workspace: &Workspace) -> Vec<BTreeSet<String>> {
    let place = "source_partition, source_offset";
    [
        (
            "ml.live",
            format!("SELECT {place}, nim, events, rate, window_complete FROM ml.live WHERE nim <> '{STUDENT}'"),
        ),
        ("ml.alerts", format!("SELECT {place}, nim, events FROM ml.alerts WHERE nim <> '{STUDENT}'")),
        ("ml.late", format!("SELECT {place} FROM ml.late WHERE CAST(payload AS VARCHAR) NOT LIKE '%{STUDENT}%'")),
        ("ml.dead", format!("SELECT {place} FROM ml.dead WHERE CAST(payload AS VARCHAR) NOT LIKE '%{STUDENT}%'")),
    ]
    .into_iter()
    .map(|(table, query)| text_rows(workspace, table, &query))
    .collect()
}

fn students_rows(workspace: &Workspace) -> usize {
    [
        ("ml.live", format!("SELECT source_offset FROM ml.live WHERE nim = '{STUDENT}'")),
        ("ml.alerts", format!("SELECT source_offset FROM ml.alerts WHERE nim = '{STUDENT}'")),
        ("ml.late", format!("SELECT source_offset FROM ml.late WHERE CAST(payload AS VARCHAR) LIKE '%{STUDENT}%'")),
        ("ml.dead", format!("SELECT source_offset FROM ml.dead WHERE CAST(payload AS VARCHAR) LIKE '%{STUDENT}%'")),
    ]
    .into_iter()
    .map(|(table, query)| text_rows(workspace, table, &query).len())
    .sum()
}

fn project(folder: &Path, pipeline: &str) -> TestProject {
    let mut project = prepare(folder);
    std::fs::write(folder.join("pipelines/live.toml"), pipeline).unwrap();
    project.reopen();
    project
}

/// With an alert that is told once, so that there is memory of it.
fn remembering() -> String {
    LIVE.replace("when = \"events >= 5\"", "when = \"events >= 5\"\non_change = true")
}

#[test]
fn a_stream_goes_on_without_who_was_erased() {
    for pipeline in [LIVE.to_owned(), remembering()] {
        let (temp, wanted) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (project, reference) = (project(temp.path(), &pipeline), self::project(wanted.path(), &pipeline));
        for folder in [temp.path(), wanted.path()] {
            append(folder, 1, &events(0, 90));
        }
        try_stream(&project.workspace).unwrap();
        try_stream(&reference.workspace).unwrap();
        assert!(students_rows(&project.workspace) > 4);
        let report = forget(&project.workspace).unwrap();
        assert!(report.is_complete(), "{:?}", report.proof);
        let tables: BTreeSet<&str> = report.tables.iter().map(|table| table.table.as_str()).collect();
        assert!(tables.is_superset(&BTreeSet::from(["ml.live", "ml.alerts", "ml.dead"])), "{tables:?}");
        assert_eq!(students_rows(&project.workspace), 0);
        assert_eq!(others(&project.workspace), others(&reference.workspace));
        let state = StreamState::read(&project.table("ml.live"), "live").unwrap();
        assert_eq!(state.checkpoints.values().map(Vec::len).collect::<Vec<_>>(), [1], "one base without the student");

        let more = events(90, 60);
        for folder in [temp.path(), wanted.path()] {
            append(folder, 1, &more);
        }
        let summary = try_stream(&project.workspace).unwrap();
        try_stream(&reference.workspace).unwrap();
        assert_eq!(summary.counts.events, more.len() as u64, "windows came back from the file");
        assert!(summary.counts.suppressed > 2, "{summary:?}");
        assert_eq!(students_rows(&project.workspace), 0);
        assert_eq!(others(&project.workspace), others(&reference.workspace));
        let again = forget(&project.workspace).unwrap();
        assert!(again.is_complete() && again.tables.is_empty(), "{again:?}");
    }
}

#[test]
fn windows_that_are_built_again_from_the_source_do_not_have_who_was_erased() {
    let temp = tempfile::tempdir().unwrap();
    let project = project(temp.path(), LIVE);
    append(temp.path(), 1, &events(0, 60));
    try_stream(&project.workspace).unwrap();
    forget(&project.workspace).unwrap();
    std::fs::remove_dir_all(
        insightera_engine::lake::storage::local_path(project.workspace.lake().warehouse()).join("_streams"),
    )
    .unwrap();
    append(temp.path(), 1, &events(60, 30));
    try_stream(&project.workspace).unwrap();
    assert_eq!(students_rows(&project.workspace), 0);
    let again = forget(&project.workspace).unwrap();
    assert!(again.is_complete() && again.tables.is_empty(), "{again:?}");
}

fn run_until(folder: &Path, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Result<StreamSummary, Error>> {
    let workspace = open(folder);
    std::thread::spawn(move || {
        let options = StreamOptions { stop, ..StreamOptions::default() };
        block_on(stream::run(&workspace, "live", &options))
    })
}

fn open(folder: &Path) -> Workspace {
    Workspace::open(folder, Default::default(), Arc::new(SystemClock::new())).unwrap()
}

#[test]
fn a_stream_that_runs_meanwhile_is_not_broken_and_does_not_bring_the_entity_back() {
    let pipeline = LIVE.replace("max_rows = 40", "max_rows = 40\nfreshness = \"1 second\"");
    let (temp, wanted) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, reference) = (project(temp.path(), &pipeline), project(wanted.path(), &pipeline));
    let workspace = open(temp.path());
    let stop = Arc::new(AtomicBool::new(false));
    append(temp.path(), 1, &events(0, 100));
    let running = run_until(temp.path(), stop.clone());
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let clock = SystemClock::new();
        while !done() {
            assert!(clock.monotonic_seconds() < 60.0, "waited for {what}");
            assert!(!running.is_finished(), "the stream ended while the test waited for {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let there = || workspace.lake().find(&TestProject::name("ml.live")).unwrap().is_some();
    wait("the first rows", &|| there() && students_rows(&workspace) > 4);
    // Events that are read, and in windows, and not committed yet.
    append(temp.path(), 1, &events(100, 10));
    std::thread::sleep(Duration::from_millis(100));
    let report = forget(&workspace).unwrap();
    assert_eq!(report.pipelines, ["live", "risk"]);
    append(temp.path(), 1, &events(110, 40));
    for (from, count) in [(0, 100), (100, 10), (110, 40)] {
        append(wanted.path(), 1, &events(from, count));
    }
    try_stream(&reference.workspace).unwrap();
    let wanted = others(&reference.workspace);
    wait("all rows", &|| others(&workspace)[0].len() >= wanted[0].len());
    stop.store(true, Ordering::SeqCst);
    running.join().unwrap().unwrap();
    assert_eq!(students_rows(&workspace), 0);
    assert_eq!(others(&workspace), wanted);
    let again = forget(&workspace).unwrap();
    assert!(again.is_complete(), "{:?} {:?}", again.tables, again.proof);
}
