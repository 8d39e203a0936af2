//! What a stream computed as its events came is computed once more from the
//! same events, snapshots and versions, and is the same to the bit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use insightera_core::{Clock, SystemClock};
use insightera_engine::config::Selector;
use insightera_engine::lake::commit::StreamState;
use insightera_engine::lake::maintain::expire::{Rules, expire};
use insightera_engine::registry::Registration;
use insightera_engine::stream::{self, Bound, LiveStatus, ReplayOptions, ReplayReport, StreamOptions};
use insightera_engine::{Result, Workspace, sql};
use insightera_infer::Artifact;

use crate::project::{TestProject, block_on, grades_rows};
use crate::streams::{LIVE, append, lines, prepare, try_stream};

/// The rule of the stream as a feature of a model, and what decides the rest.
fn scored() -> String {
    let changes = [
        ("[features.columns]", "refresh = \"1 second\"\n[features.columns]"),
        ("[output]\n", "[model]\nname = \"risk\"\n[output]\n"),
        ("risk = \"risk\"\n", "risk = \"risk\"\nscore = \"prediction\"\narrived = \"arrival_timestamp\"\n"),
        ("[stream]\n", "[stream]\nfreshness = \"100 ms\"\n"),
    ];
    changes.iter().fold(LIVE.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replacen(old, new, 1)
    })
}

/// One split of `rate` and one of `gpa`.
fn model(high: f64) -> Artifact {
    let tree = serde_json::json!({
        "left_children": [1, -1, 3, -1, -1], "right_children": [2, -1, 4, -1, -1],
        "split_indices": [0, 0, 1, 0, 0], "split_conditions": [0.5, 10.0, 2.0, 20.0, high],
        "default_left": [1, 0, 0, 0, 0], "split_type": [0, 0, 0, 0, 0],
        "tree_param": {"num_nodes": "5", "size_leaf_vector": "1"}
    });
    let document = serde_json::json!({"version": [3, 2, 0], "learner": {
        "attributes": {}, "feature_names": ["rate", "gpa"], "feature_types": [],
        "learner_model_param": {"base_score": "5E-1", "num_class": "0", "num_feature": "2", "num_target": "1"},
        "objective": {"name": "reg:squarederror"},
        "gradient_booster": {"name": "gbtree", "model": {
            "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": "1"}, "tree_info": [0], "trees": [tree]
        }}
    }});
    Artifact::from_files(BTreeMap::from([("model.json".to_owned(), document.to_string().into())])).unwrap()
}

fn open(folder: &Path) -> Workspace {
    Workspace::open(folder, Default::default(), Arc::new(SystemClock::new())).unwrap()
}

fn replay(workspace: &Workspace, options: ReplayOptions) -> Result<ReplayReport> {
    block_on(stream::replay(workspace, "live", &options))
}

fn count(workspace: &Workspace, query: &str) -> i64 {
    use arrow::array::AsArray;
    let batches = block_on(sql::query(workspace, query)).unwrap().batches;
    batches[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0)
}

fn shell(workspace: &Workspace, statement: &str) {
    block_on(sql::Shell::new(workspace).run(statement)).unwrap_or_else(|e| panic!("{statement}\n{e}"));
}

/// A stream that runs until it is dropped.
struct Running {
    stop: Arc<AtomicBool>,
    said: Arc<Mutex<Option<LiveStatus>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(folder: &Path) -> Self {
        let (stop, said) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let told = said.clone();
        let options = StreamOptions {
            stop: stop.clone(),
            on_status: Some(Arc::new(move |status: &LiveStatus| *told.lock().unwrap() = Some(status.clone()))),
            ..StreamOptions::default()
        };
        let workspace = open(folder);
        let run = move || block_on(stream::run(&workspace, "live", &options)).map(drop).unwrap();
        Self { stop, said, thread: Some(std::thread::spawn(run)) }
    }

    fn wait(&self, what: &str, until: impl Fn(&LiveStatus) -> bool) {
        let clock = SystemClock::new();
        while !self.said.lock().unwrap().as_ref().is_some_and(&until) {
            assert!(clock.monotonic_seconds() < 60.0, "{what}: {:?}", self.said.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A stream with two runs to the end and one in which model and features
/// change while it scores.
fn eventful(folder: &Path) -> (TestProject, Workspace) {
    let project = prepare(folder);
    std::fs::write(folder.join("pipelines/live.toml"), scored()).unwrap();
    let workspace = open(folder);
    for high in [40.0, 80.0] {
        let alias = (high == 40.0).then(|| "production".to_owned());
        let new = Registration { alias, ..Registration::new("risk".to_owned(), model(high)) };
        workspace.registry().register(new).unwrap();
    }
    for file in 0..2 {
        append(folder, file, &lines(file, 0, 120));
    }
    try_stream(&workspace).unwrap();
    let running = Running::start(folder);
    append(folder, 0, &lines(0, 120, 50));
    running.wait("events", |status| status.events >= 50);
    workspace.registry().promote("risk", 2, "production").unwrap();
    running.wait("model", |status| status.model_version == "2");
    append(folder, 1, &lines(1, 120, 50));
    running.wait("events by version 2", |status| status.events >= 100);
    let loaded = running.said.lock().unwrap().as_ref().unwrap().features_loaded;
    let other = workspace.lake().table(&TestProject::name("gold.grades")).unwrap();
    let rows = grades_rows(0..20, 0.7);
    insightera_engine::lake::upsert::upsert(workspace.lake(), &other, &rows, &["nim".into()]).unwrap();
    running.wait("features", |status| status.features_loaded != loaded);
    append(folder, 0, &lines(0, 170, 60));
    running.wait("events by other features", |status| status.events >= 160);
    running.end();
    append(folder, 1, &lines(1, 170, 60));
    append(folder, 2, &lines(2, 0, 40));
    let workspace = open(folder);
    try_stream(&workspace).unwrap();
    (project, workspace)
}

fn equal(report: &ReplayReport) -> u64 {
    let found = report.compared.as_ref().unwrap();
    assert!(found.is_equal(), "{report:?}");
    assert_eq!(found.equal, report.counts.rows, "{report:?}");
    found.equal
}

#[test]
fn a_replay_is_what_the_stream_computed_row_for_row_and_a_planted_change_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let (_project, workspace) = eventful(temp.path());
    let rows = count(&workspace, "SELECT count(*) FROM ml.live") as u64;
    let before = workspace.lake().table(&TestProject::name("ml.live")).unwrap().current_snapshot_id();

    let all = replay(&workspace, ReplayOptions::default()).unwrap();
    assert_eq!(equal(&all), rows);
    assert!(all.stretches >= 3 && all.same_model && !all.definition_changed, "{all:?}");
    assert_eq!(all.versions, ["1".to_owned(), "2".to_owned()].into());
    assert_eq!(all.left_out, ["prediction_timestamp", "inference_type", "prediction_date"]);
    assert!(all.counts.late > 0 && all.counts.dead > 0 && all.counts.filtered > 0, "{all:?}");
    let late = count(&workspace, "SELECT count(*) FROM ml.late");
    let dead = count(&workspace, "SELECT count(*) FROM ml.dead");
    assert_eq!((all.counts.late as i64, all.counts.dead as i64), (late, dead));
    let after = workspace.lake().table(&TestProject::name("ml.live")).unwrap().current_snapshot_id();
    assert_eq!(before, after, "a comparison writes nothing");

    // A part of it, with windows from a checkpoint or, without one, from the events.
    let middle: BTreeMap<u32, i64> = all.ranges.iter().map(|(p, (lo, hi))| (*p, lo + (hi - lo) / 2)).collect();
    let part = ReplayOptions { from: Some(Bound::Offsets(middle.clone())), ..ReplayOptions::default() };
    let some = equal(&replay(&workspace, part.clone()).unwrap());
    assert!(some > 50 && some < rows, "{some} of {rows}");
    let states = insightera_engine::lake::storage::local_path(workspace.lake().warehouse()).join("_streams");
    std::fs::rename(&states, temp.path().join("aside")).unwrap();
    assert_eq!(equal(&replay(&workspace, part.clone()).unwrap()), some, "without window state");
    std::fs::rename(temp.path().join("aside"), &states).unwrap();
    let head = ReplayOptions { to: Some(Bound::Offsets(middle.clone())), ..ReplayOptions::default() };
    assert_eq!(equal(&replay(&workspace, head).unwrap()), rows - some, "the two parts are the whole");

    // What is changed in the table is found, and named.
    let (partition, offset) = middle.first_key_value().unwrap();
    let place = |workspace: &Workspace, least: i64| {
        let of = format!("FROM ml.live WHERE source_partition = {partition} AND source_offset >= {least}");
        count(workspace, &format!("SELECT min(source_offset) {of}"))
    };
    let changed = place(&workspace, *offset);
    let removed = place(&workspace, changed + 1);
    let at = format!("WHERE source_partition = {partition} AND source_offset");
    shell(&workspace, &format!("UPDATE ml.live SET score = score + 1e-12 {at} = {changed}"));
    shell(&workspace, &format!("DELETE FROM ml.live {at} = {removed}"));
    let found = replay(&workspace, ReplayOptions::default()).unwrap();
    let compared = found.compared.as_ref().unwrap();
    assert_eq!((compared.different, compared.extra, compared.missing), (1, 1, 0), "{found:?}");
    assert_eq!(compared.equal, rows - 2);
    assert_eq!(compared.by_column, BTreeMap::from([("score".to_owned(), 1)]));
    let mut named: Vec<_> = compared.named.iter().map(|named| (named.offset, named.column.as_deref())).collect();
    named.sort_unstable();
    assert_eq!(named, [(changed, Some("score")), (removed, None)]);
    assert!(!found.ok());
}

#[test]
fn another_version_is_an_answer_and_its_rows_never_count_as_current() {
    let temp = tempfile::tempdir().unwrap();
    let (_project, workspace) = eventful(temp.path());
    let rows = count(&workspace, "SELECT count(*) FROM ml.live");
    let options = ReplayOptions {
        as_model: Some(Selector::Version(1)),
        into: Some(TestProject::name("ml.what_if")),
        ..ReplayOptions::default()
    };
    let report = replay(&workspace, options).unwrap();
    assert!(!report.same_model && report.snapshot_id.is_some(), "{report:?}");
    let compared = report.compared.as_ref().unwrap();
    assert!(compared.different > 0 && compared.missing + compared.extra == 0, "{report:?}");
    assert_eq!(compared.by_column.keys().collect::<Vec<_>>(), ["score"], "only what the model says differs");
    let same = "n.nim = o.nim AND n.source_partition = o.source_partition AND n.source_offset = o.source_offset";
    let both = format!("FROM ml.what_if n JOIN ml.live o ON {same}");
    assert_eq!(count(&workspace, &format!("SELECT count(*) {both}")), rows);
    let differ = count(&workspace, &format!("SELECT count(*) {both} WHERE n.score IS DISTINCT FROM o.score"));
    assert_eq!(differ as u64, compared.different);
    let kinds = "SELECT count(*) FROM ml.what_if WHERE inference_type = 'as_of' AND score_reason = 'replay' \
                 AND model_version = '1'";
    assert_eq!(count(&workspace, kinds), rows);
    assert_eq!(count(&workspace, "SELECT count(*) FROM ml.what_if_current"), 0);
    let state = StreamState::read(&workspace.lake().table(&TestProject::name("ml.what_if")).unwrap(), "live").unwrap();
    assert!(state.snapshot_id.is_none(), "it is no progress of the stream");

    // With the versions of then, into the stream's own table: the stream goes on, and a replay sees its rows only.
    let current = count(&workspace, "SELECT count(*) FROM ml.live_current");
    let own = ReplayOptions { into: Some(TestProject::name("ml.live")), ..ReplayOptions::default() };
    equal(&replay(&workspace, own).unwrap());
    assert_eq!(count(&workspace, "SELECT count(*) FROM ml.live"), 2 * rows);
    assert_eq!(count(&workspace, "SELECT count(*) FROM ml.live_current"), current);
    append(temp.path(), 0, &lines(0, 230, 30));
    let more = try_stream(&workspace).unwrap().counts.rows;
    assert_eq!(equal(&replay(&workspace, ReplayOptions::default()).unwrap()), rows as u64 + more);
}

#[test]
fn what_is_not_there_any_more_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let (_project, workspace) = eventful(temp.path());
    let rows = count(&workspace, "SELECT count(*) FROM ml.live") as u64;
    let says = |options: ReplayOptions| {
        let error = replay(&workspace, options).unwrap_err();
        format!("{error}; {}", error.get_hint().unwrap_or_default())
    };
    let nothing = ReplayOptions { from: Some(Bound::Time(i64::MAX / 2)), ..ReplayOptions::default() };
    assert!(says(nothing).contains("no commit there"));
    let alias = ReplayOptions { as_model: Some(Selector::Alias("other".into())), ..ReplayOptions::default() };
    assert!(says(alias).contains("`other`"));

    // Earlier commits of the table have expired: the rest is replayed, with its windows from the state at that commit.
    let everything = Rules { older_than_ms: Some(i64::MAX), retain_last: Some(3), ..Rules::default() };
    expire(workspace.lake(), &TestProject::name("ml.live"), &everything).unwrap();
    let rest = replay(&workspace, ReplayOptions::default()).unwrap();
    assert!(equal(&rest) > 0 && rest.counts.rows < rows, "{rest:?}");

    // A snapshot that was joined has expired, then the events are others.
    let newest = Rules { retain_last: Some(1), ..everything };
    shell(&workspace, "DELETE FROM gold.grades WHERE nim = 'nobody'");
    let rows = grades_rows(0..1, 0.9);
    let grades = workspace.lake().table(&TestProject::name("gold.grades")).unwrap();
    insightera_engine::lake::upsert::upsert(workspace.lake(), &grades, &rows, &["nim".into()]).unwrap();
    expire(workspace.lake(), &TestProject::name("gold.grades"), &newest).unwrap();
    let text = says(ReplayOptions::default());
    assert!(text.contains("of table `gold.grades`, which was read then, has been expired"), "{text}");
    std::fs::remove_file(temp.path().join("events/0.ndjson")).unwrap();
    append(temp.path(), 0, &lines(9, 0, 300));
    let text = says(ReplayOptions::default());
    assert!(text.contains("is another file now") || text.contains("has been expired"), "{text}");
}

#[test]
fn a_changed_definition_is_told_and_arrivals_that_nobody_knows_are_not_compared() {
    let temp = tempfile::tempdir().unwrap();
    let _project = prepare(temp.path());
    let workspace = open(temp.path());
    append(temp.path(), 0, &lines(0, 0, 150));
    let path = temp.path().join("pipelines/live.toml");
    let waited = "waited = \"arrival_timestamp > event_timestamp\"\nnim = \"nim\"\n";
    std::fs::write(&path, LIVE.replacen("nim = \"nim\"\nrisk", &format!("{waited}risk"), 1)).unwrap();
    try_stream(&open(temp.path())).unwrap();
    let report = replay(&open(temp.path()), ReplayOptions::default()).unwrap();
    equal(&report);
    assert!(report.left_out.contains(&"waited".to_owned()), "{report:?}");

    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("rate < 0.5 OR gpa", "rate < 0.75 OR gpa")).unwrap();
    let warned = Arc::new(Mutex::new(Vec::new()));
    let told = warned.clone();
    let on_warning: Option<insightera_engine::notify::Warn> =
        Some(Arc::new(move |text: &str| told.lock().unwrap().push(text.to_owned())));
    let report = replay(&open(temp.path()), ReplayOptions { on_warning, ..ReplayOptions::default() }).unwrap();
    assert!(report.definition_changed && !report.ok(), "{report:?}");
    let by_column = &report.compared.as_ref().unwrap().by_column;
    assert!(by_column.contains_key("risk") && !by_column.contains_key("rate"), "{report:?}");
    assert!(warned.lock().unwrap()[0].contains("are not those of the recorded rows"), "{warned:?}");

    // A table whose rows do not say where they come from.
    std::fs::write(&path, text.replace("source_offset = \"source_offset\"\n", "").replace("ml.live", "ml.blind"))
        .unwrap();
    drop(workspace);
    let workspace = open(temp.path());
    try_stream(&workspace).unwrap();
    let error = replay(&workspace, ReplayOptions::default()).unwrap_err();
    assert!(error.to_string().contains("`source_offset`"), "{error}");
    let into = ReplayOptions { into: Some(TestProject::name("ml.again")), ..ReplayOptions::default() };
    let report = replay(&workspace, into).unwrap();
    assert_eq!(report.counts.rows as i64, count(&workspace, "SELECT count(*) FROM ml.again"));
    assert!(report.compared.is_none() && report.counts.rows > 50, "{report:?}");
}
