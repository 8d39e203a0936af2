//! What was true and known at a time: feature views, current views of the
//! past, and runs as if it were then.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use insightera_core::Clock;
use insightera_engine::features::{self, LeakKind};
use insightera_engine::lake::TableName;
use insightera_engine::score::{AsOf, RunOptions, RunStatus};
use proptest::prelude::*;

use crate::project::{PIPELINE, START, TestProject, attendance_rows, block_on, grades_rows};

const DAY: i64 = 86_400_000_000;
const MINUTE: i64 = 60_000_000;

/// A moment in minutes after the start, as SQL.
fn at(minutes: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(START + minutes * MINUTE).unwrap();
    format!("TIMESTAMP '{}Z'", time.format("%Y-%m-%d %H:%M:%S%.f"))
}

fn text(minutes: i64) -> String {
    at(minutes).trim_start_matches("TIMESTAMP ").to_owned()
}

const GRADES: &str = "CREATE TABLE gold.history (nim STRING NOT NULL, gpa DOUBLE, sks INT, true_at TIMESTAMP, \
                      known_at TIMESTAMP) USING iceberg";
const LABELS: &str = "CREATE TABLE gold.labels (nim STRING, seen TIMESTAMP, gone INT) USING iceberg";

fn known_view(ttl: &str) -> String {
    format!(
        "table = \"gold.history\"\nkey = [\"nim\"]\ncolumns = [\"gpa\"]\nfeature_time = \"true_at\"\n\
         known_time = \"known_at\"\n{ttl}"
    )
}

/// Key, feature time, known time, value.
type Feature = (u8, i64, i64, i64);

/// The newest feature that was true and known at `time`.
fn newest(features: &[Feature], key: u8, time: i64) -> Option<&Feature> {
    features.iter().filter(|f| f.0 == key && f.1 <= time && f.2 <= time).max_by_key(|f| (f.1, f.2, f.3))
}

fn answer(found: Option<&Feature>, time: i64, ttl: i64) -> String {
    match found {
        Some(f) if time - f.1 <= ttl => format!("{}.0 fresh", f.3),
        Some(_) => "- expired".to_owned(),
        None => "- missing".to_owned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_feature_view_answers_what_was_true_and_known_at_each_time(
        features in prop::collection::vec((0u8..4, 0i64..40, 0i64..15, 0i64..9), 1..60),
        labels in prop::collection::vec((0u8..5, -2i64..60), 1..40),
        ttl in 5i64..40,
    ) {
        let features: Vec<Feature> = features.into_iter().map(|(k, t, late, v)| (k, t, t + late, v)).collect();
        let mut project = TestProject::new(PIPELINE);
        project.feature_view("grades", &known_view(&format!("ttl = \"{ttl} minutes\"")));
        let rows: Vec<String> = features
            .iter()
            .map(|(k, t, known, v)| format!("('n{k}', {v}.0, 1, {}, {})", at(*t), at(*known)))
            .collect();
        let wanted: Vec<String> =
            labels.iter().map(|(k, t)| format!("('n{k}', {}, 1)", at(*t))).collect();
        project.shell(&[
            GRADES,
            LABELS,
            &format!("INSERT INTO gold.history VALUES {}", rows.join(", ")),
            &format!("INSERT INTO gold.labels VALUES {}", wanted.join(", ")),
        ]);
        let joined = project.texts(
            "SELECT l.nim, f.gpa, f.feature_status FROM gold.labels l ASOF JOIN feature_views.grades f \
             MATCH_CONDITION (l.seen >= f.true_at) ON l.nim = f.nim",
        );
        let mut oracle: Vec<String> = labels
            .iter()
            .map(|(k, t)| format!("n{k} {}", answer(newest(&features, *k, *t), *t, ttl)))
            .collect();
        oracle.sort();
        prop_assert_eq!(joined, oracle);
        // One time for all: the view itself.
        let then = labels[0].1;
        let seen = project.texts(&format!(
            "SELECT nim, gpa, feature_status FROM feature_views.grades TIMESTAMP AS OF {}", text(then)
        ));
        let mut oracle: Vec<String> = (0..4u8)
            .filter_map(|k| Some(format!("n{k} {}", answer(Some(newest(&features, k, then)?), then, ttl))))
            .collect();
        oracle.sort();
        prop_assert_eq!(seen, oracle);
    }
}

#[test]
fn without_a_known_time_a_feature_is_known_when_it_was_committed() {
    let mut project = TestProject::new(PIPELINE);
    project.feature_view("grades", "table = \"gold.history\"\nkey = [\"nim\"]\nfeature_time = \"true_at\"\n");
    // A minute passes before each statement: this is minute 3, 4, ...
    project.shell(&[
        GRADES,
        LABELS,
        &format!("INSERT INTO gold.history VALUES ('a', 1, 1, {0}, NULL), ('b', 2, 1, {0}, NULL)", at(0)),
        &format!("INSERT INTO gold.history VALUES ('a', 3, 2, {}, NULL)", at(1)),
        &format!("UPDATE gold.history SET gpa = 4 WHERE nim = 'a' AND true_at = {}", at(1)),
        "DELETE FROM gold.history WHERE nim = 'b'",
        "CALL system.rewrite_data_files(table => 'gold.history', options => map('rewrite-all', 'true'))",
        &format!("INSERT INTO gold.history VALUES ('a', 5, 2, {}, NULL), ('b', 6, 1, {}, NULL)", at(2), at(20)),
    ]);
    let times: Vec<i64> = (0..12).collect();
    let labels: Vec<String> =
        times.iter().flat_map(|t| ["a", "b", "c"].map(|nim| format!("('{nim}', {}, 1)", at(*t)))).collect();
    project.shell(&[&format!("INSERT INTO gold.labels VALUES {}", labels.join(", "))]);
    let joined = project.texts(
        "SELECT date_part('minute', l.seen), l.nim, f.gpa, f.feature_status FROM gold.labels l \
         ASOF JOIN feature_views.grades f MATCH_CONDITION (l.seen >= f.true_at) ON l.nim = f.nim",
    );
    let mut oracle = Vec::new();
    for time in times {
        for nim in ["a", "b", "c"] {
            let found = if time < 3 {
                Vec::new()
            } else {
                project.texts(&format!(
                    "SELECT gpa FROM gold.history TIMESTAMP AS OF {} WHERE nim = '{nim}' AND true_at <= {} \
                     AND true_at = (SELECT max(true_at) FROM gold.history TIMESTAMP AS OF {} WHERE nim = '{nim}' AND true_at <= {})",
                    text(time), at(time), text(time), at(time)
                ))
            };
            let value = found.first().map_or("- missing".to_owned(), |gpa| format!("{gpa} fresh"));
            oracle.push(format!("{time} {nim} {value}"));
        }
    }
    oracle.sort();
    assert_eq!(joined, oracle);
    assert!(
        joined.contains(&"3 a 1.0 fresh".to_owned()) && joined.contains(&"11 a 5.0 fresh".to_owned()),
        "{joined:?}"
    );
    assert!(joined.contains(&"5 b 2.0 fresh".to_owned()) && joined.contains(&"7 b - missing".to_owned()), "{joined:?}");
}

#[test]
fn a_time_whose_snapshots_were_expired_is_told_and_has_no_features() {
    let mut project = TestProject::new(PIPELINE);
    project.feature_view("grades", "table = \"gold.history\"\nkey = [\"nim\"]\nfeature_time = \"true_at\"\n");
    project.shell(&[
        GRADES,
        LABELS,
        &format!("INSERT INTO gold.history VALUES ('a', 1, 1, {}, NULL)", at(0)),
        &format!("INSERT INTO gold.history VALUES ('a', 2, 1, {}, NULL)", at(1)),
        &format!("INSERT INTO gold.labels VALUES ('a', {}, 1), ('a', {}, 1)", at(3), at(5)),
        &format!("CALL system.expire_snapshots(table => 'gold.history', older_than => {}, retain_last => 1)", at(5)),
    ]);
    let joined = project.texts(
        "SELECT date_part('minute', l.seen), f.gpa, f.feature_status FROM gold.labels l \
         ASOF JOIN feature_views.grades f MATCH_CONDITION (l.seen >= f.true_at) USING (nim)",
    );
    assert_eq!(joined, ["3 - unavailable", "5 2.0 fresh"]);
}

#[test]
fn what_a_feature_view_cannot_answer_is_refused_with_the_reason() {
    let mut project = TestProject::new(PIPELINE);
    project.feature_view("grades", &known_view(""));
    project.feature_view("wrong", &known_view("").replace("known_at", "loaded_at"));
    project.shell(&[GRADES, LABELS]);
    let join = "SELECT * FROM gold.labels l ASOF JOIN feature_views.grades f MATCH_CONDITION";
    for (sql, part) in [
        (format!("{join} (l.seen >= f.known_at) ON l.nim = f.nim"), "`time >= f.true_at`"),
        (format!("{join} (l.seen <= f.true_at) ON l.nim = f.nim"), "`time >= f.true_at`"),
        (
            "SELECT * FROM gold.labels l ASOF JOIN feature_views.grades TIMESTAMP AS OF '2026-01-01' f \
             MATCH_CONDITION (l.seen >= f.true_at) USING (nim)"
                .to_owned(),
            "take AS OF behind `grades` out",
        ),
        (format!("{join} (l.seen >= f.true_at)"), "must compare its key `nim`"),
        ("SELECT * FROM feature_views.wrong".to_owned(), "has no column `loaded_at`"),
        ("SELECT * FROM feature_views.grade".to_owned(), "did you mean `grades`?"),
        ("SELECT * FROM feature_views.grades VERSION AS OF 1".to_owned(), "has times, not versions"),
        ("SELECT * FROM feature_views.grades.snapshots".to_owned(), "has times, not versions"),
    ] {
        let error = project.query_error(&sql);
        assert!(error.contains(part), "{sql}: {error}");
    }
}

const VIEWED: &str = r#"
kind = "batch"
[entity]
key = ["nim"]
[features]
sql = """
SELECT s.nim, f.gpa, f.feature_status, f.true_at
FROM gold.students s LEFT JOIN feature_views.grades f ON f.nim = s.nim
"""
feature_time = "true_at"
[output]
table = "ml.risk"
[output.columns]
nim = "nim"
risk = "CASE WHEN feature_status = 'fresh' AND gpa >= 2 THEN 0.0 ELSE 1.0 END"
"#;

#[test]
fn a_pipeline_notices_that_features_expire_although_no_input_changed() {
    let mut project = TestProject::new(VIEWED);
    project.feature_view("grades", &known_view("ttl = \"1 hour\""));
    project.shell(&[
        GRADES,
        "CREATE TABLE gold.students (nim STRING NOT NULL) USING iceberg",
        "INSERT INTO gold.students VALUES ('a'), ('b'), ('c')",
        &format!("INSERT INTO gold.history VALUES ('a', 3, 1, {0}, {0}), ('b', 3, 1, {1}, {1})", at(0), at(40)),
    ]);
    let first = project.run();
    assert_eq!((first.scored, first.strategy), (3, "hash"));
    project.assert_verified();
    // `b` becomes true in the future, `a` is fresh, `c` has no features.
    assert_eq!(project.texts("SELECT nim, risk FROM ml.risk_current"), ["a 0.0", "b 1.0", "c 1.0"]);
    let again = project.run();
    assert_eq!((again.status, again.snapshot_id), (RunStatus::Unchanged, None));
    project.clock.advance(40 * MINUTE);
    assert!(!project.verify().ok);
    assert_eq!(project.run().scored, 1);
    project.clock.advance(20 * MINUTE);
    assert_eq!(project.run().scored, 1);
    project.assert_verified();
    assert_eq!(project.texts("SELECT nim, risk FROM ml.risk_current"), ["a 1.0", "b 0.0", "c 1.0"]);
}

fn as_of(micros: i64, into: Option<&str>) -> RunOptions {
    let into = into.map(|table| TableName::parse(table).unwrap());
    RunOptions { as_of: Some(AsOf { micros, into }), ..RunOptions::default() }
}

#[test]
fn a_run_as_of_a_time_scores_as_the_run_of_that_time_did_and_changes_nothing_else() {
    let project = TestProject::new(PIPELINE);
    project.seed(60);
    let first = project.run();
    let then = project.clock.now_micros();
    let risks = |table: &str, run: &str| {
        project.texts(&format!("SELECT nim, risk, feature_hash FROM {table} WHERE run_id = '{run}'"))
    };
    let scored_first = risks("ml.risk", &first.run_id);
    project.clock.advance(MINUTE);
    project.upsert("gold.grades", grades_rows(0..30, 1.5));
    project.append("gold.grades", grades_rows(100..110, 0.0));
    project.append("gold.attendance", attendance_rows(100..110));
    let second = project.run();
    assert_eq!(second.scored, 30 + 10 - 3, "three of the thirty have no gpa");
    let current = project.texts("SELECT * FROM ml.risk_current");
    let before = project.texts("SELECT nim, risk FROM ml.risk");

    let replay = project.try_run(&as_of(then, Some("ml.replay"))).unwrap();
    assert_eq!((replay.scored, replay.table.as_str()), (60, "ml.replay"));
    assert_eq!(risks("ml.replay", &replay.run_id), scored_first);
    assert_eq!(project.texts("SELECT nim, risk FROM ml.risk"), before);

    let replay = project.try_run(&as_of(then, None)).unwrap();
    assert_eq!(risks("ml.risk", &replay.run_id), scored_first);
    let marked = "SELECT DISTINCT inference_type, score_reason, CAST(prediction_timestamp AS BIGINT) \
                  FROM ml.risk WHERE run_id = ";
    assert_eq!(project.texts(&format!("{marked}'{}'", replay.run_id)), [format!("as_of forced {then}")]);

    assert_eq!(project.texts("SELECT * FROM ml.risk_current"), current);
    project.assert_verified();
    assert_eq!(project.run().status, RunStatus::Unchanged);
    // Nor without the cache of states.
    std::fs::remove_dir_all(project.folder.join(".insightera")).unwrap();
    project.upsert("gold.grades", grades_rows(0..5, 2.0));
    assert_eq!(project.run().scored, 4);
    project.assert_verified();
    assert_eq!(project.texts("SELECT count(*) FROM ml.replay_current"), ["0"]);
}

#[test]
fn a_first_run_after_a_run_as_of_is_a_first_run() {
    let project = TestProject::new(PIPELINE);
    project.seed(20);
    let now = project.clock.now_micros();
    project.try_run(&as_of(now, None)).unwrap();
    assert!(!project.verify().ok);
    let first = project.run();
    assert_eq!(first.reasons.0.get("first"), Some(&20));
    project.assert_verified();
}

const FOLDER: &str = r#"
kind = "batch"
[entity]
key = ["nim"]
[features]
sql = "SELECT nim, gpa, true_at, loaded_at FROM files.extra"
feature_time = "true_at"
known_time = "loaded_at"
duplicates = "latest"
[output]
table = "ml.risk"
[output.columns]
nim = "nim"
risk = "gpa"
"#;

/// Writes `gold/extra`: key, value, feature time and known time in minutes.
fn write_folder(project: &TestProject, rows: &[(&str, f64, i64, i64)]) {
    let times = |of: fn(&(&str, f64, i64, i64)) -> i64| {
        let values = rows.iter().map(|r| START + of(r) * MINUTE);
        Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC")) as ArrayRef
    };
    let batch = RecordBatch::try_from_iter([
        ("nim", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0))) as ArrayRef),
        ("gpa", Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.1)))),
        ("true_at", times(|r| r.2)),
        ("loaded_at", times(|r| r.3)),
    ])
    .unwrap();
    std::fs::create_dir_all(project.folder.join("gold/extra")).unwrap();
    let file = std::fs::File::create(project.folder.join("gold/extra/a.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn a_folder_is_read_up_to_its_known_time_or_not_at_all() {
    let mut project = TestProject::new(FOLDER);
    write_folder(&project, &[("a", 1.0, 0, 0), ("a", 3.0, 10, 20), ("b", 2.0, 0, 30), ("c", 4.0, 5, 5)]);
    project.clock.advance(60 * MINUTE);
    project.run();
    assert_eq!(project.texts("SELECT nim, risk FROM ml.risk_current"), ["a 3.0", "b 2.0", "c 4.0"]);
    let mut then = |pipeline: &str| {
        project.set_pipeline(pipeline);
        let replay = project.try_run(&as_of(START + 15 * MINUTE, None))?;
        Ok::<_, insightera_engine::Error>(
            project.texts(&format!("SELECT nim, risk FROM ml.risk WHERE run_id = '{}'", replay.run_id)),
        )
    };
    assert_eq!(then(FOLDER).unwrap(), ["a 1.0", "c 4.0"]);
    let at_once = FOLDER.replace("known_time = \"loaded_at\"", "known_time = \"feature_time\"");
    assert_eq!(then(&at_once).unwrap(), ["a 3.0", "b 2.0", "c 4.0"]);
    let silent = FOLDER.replace("known_time = \"loaded_at\"\n", "");
    let error = then(&silent).unwrap_err();
    assert!(error.to_string().contains("nothing says when its rows became known"), "{error}");
}

#[test]
fn a_time_before_an_input_is_refused_with_what_there_is() {
    let project = TestProject::new(PIPELINE);
    project.seed(5);
    let error = project.try_run(&as_of(START - DAY, None)).unwrap_err();
    assert!(error.to_string().contains("has no snapshot at or before 2025-12-31 00:00:00 UTC"), "{error}");
}

#[test]
fn the_current_view_of_an_earlier_time_has_one_row_per_entity() {
    let project = TestProject::new(PIPELINE);
    project.seed(30);
    project.run();
    let first = project.clock.now_micros();
    let then = project.texts("SELECT nim, risk, run_id FROM ml.risk_current");
    for shift in [0.5, 1.0, 1.5] {
        project.upsert("gold.grades", grades_rows(0..20, shift));
        project.run();
    }
    let time = chrono::DateTime::from_timestamp_micros(first).unwrap().format("'%Y-%m-%d %H:%M:%S%.f'");
    let again = format!("SELECT nim, risk, run_id FROM ml.risk_current TIMESTAMP AS OF {time}");
    assert_eq!(project.texts(&again), then);
    let joined = format!(
        "SELECT count(*) FROM ml.risk_current n JOIN ml.risk_current TIMESTAMP AS OF {time} o ON n.nim = o.nim"
    );
    assert_eq!(project.count(&joined), 30);
    let error = project.query_error("SELECT * FROM ml.risk_current TIMESTAMP AS OF '2020-01-01'");
    assert!(error.contains("has no snapshot at or before"), "{error}");
}

fn export(project: &TestProject, change: impl FnOnce(&mut features::Export)) -> features::ExportReport {
    let mut wanted = features::Export {
        labels: "gold.labels".into(),
        time: "seen".into(),
        label: Some("gone".into()),
        views: vec!["grades".into()],
        output: project.folder.join("training.parquet"),
        trust_known_time: false,
    };
    change(&mut wanted);
    block_on(features::export(&project.workspace, &wanted)).unwrap()
}

/// Features of 100 students that are there in time, and labels at minute 100.
fn training_project(grade: impl Fn(usize) -> String, known: i64) -> TestProject {
    let mut project = TestProject::new(PIPELINE);
    project.feature_view("grades", &known_view("ttl = \"10 days\""));
    let features: Vec<String> =
        (0..100).map(|i| format!("('n{i}', {}, 1, {}, {})", grade(i), at(0), at(known))).collect();
    let labels: Vec<String> = (0..100).map(|i| format!("('n{i}', {}, {})", at(100), i % 2)).collect();
    project.shell(&[
        GRADES,
        LABELS,
        &format!("INSERT INTO gold.history VALUES {}", features.join(", ")),
        &format!("INSERT INTO gold.labels VALUES {}", labels.join(", ")),
    ]);
    project
}

#[test]
fn a_training_set_holds_the_features_of_each_label_and_no_helper_columns() {
    let project = training_project(|i| format!("{}.5", i % 7), 1);
    let report = export(&project, |_| {});
    assert!(report.leaks.is_empty(), "{:?}", report.leaks);
    assert_eq!(report.columns, ["nim", "seen", "gone", "gpa", "grades_status"]);
    assert_eq!(report.views[0].statuses, [("fresh".to_owned(), 100)].into());
    let file = std::fs::File::open(report.output.unwrap()).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 100);
    let csv = export(&project, |wanted| wanted.output = project.folder.join("training.csv"));
    let text = std::fs::read_to_string(csv.output.unwrap()).unwrap();
    assert_eq!((text.lines().count(), text.lines().next()), (101, Some("nim,seen,gone,gpa,grades_status")));
}

#[test]
fn a_planted_leak_is_named_and_nothing_is_written() {
    let leaks = |report: &features::ExportReport| report.leaks.iter().map(|leak| leak.kind).collect::<Vec<_>>();
    // The grade is the label.
    let project = training_project(|i| format!("{}.0", i % 2), 1);
    let report = export(&project, |_| {});
    assert_eq!((leaks(&report), report.output), (vec![LeakKind::Label], None));
    assert!(!project.folder.join("training.parquet").exists());
    assert!(leaks(&export(&project, |wanted| wanted.label = None)).is_empty());

    // Known later: the join leaves it out.
    let project = training_project(|i| format!("{}.5", i % 7), 101);
    let report = export(&project, |_| {});
    assert_eq!(report.views[0].statuses, [("missing".to_owned(), 100)].into());

    // Known before it was true.
    let project = training_project(|i| format!("{}.5", i % 7), -1);
    assert_eq!(leaks(&export(&project, |_| {})), [LeakKind::KnownBeforeTrue]);

    // A value that was changed after the labels, with the known time of before.
    let project = training_project(|i| format!("{}.5", i % 7), 1);
    project.clock.advance(200 * MINUTE);
    project.shell(&["UPDATE gold.history SET gpa = 9 WHERE nim IN ('n3', 'n4')"]);
    let report = export(&project, |_| {});
    assert_eq!(leaks(&report), [LeakKind::CommittedLater]);
    assert_eq!(report.leaks[0].rows, 2);
    let trusted = export(&project, |wanted| wanted.trust_known_time = true);
    assert!(trusted.leaks.is_empty() && trusted.views[0].unchecked.is_some());
}

#[test]
fn an_export_that_cannot_be_is_refused_with_the_column() {
    let project = training_project(|i| format!("{}.5", i % 7), 1);
    let refused = |change: &dyn Fn(&mut features::Export)| {
        let mut wanted = features::Export {
            labels: "gold.labels".into(),
            time: "seen".into(),
            label: None,
            views: vec!["grades".into()],
            output: project.folder.join("training.parquet"),
            trust_known_time: false,
        };
        change(&mut wanted);
        block_on(features::export(&project.workspace, &wanted)).unwrap_err().to_string()
    };
    for (error, part) in [
        (refused(&|w| w.time = "sen".into()), "no column `sen` (--time)"),
        (refused(&|w| w.views = vec!["grade".into()]), "there is no feature view `grade`"),
        (refused(&|w| w.output = "training.txt".into()), "neither a .parquet nor a .csv file"),
        (refused(&|w| w.labels = "SELECT nim AS student, seen FROM gold.labels".into()), "no column `nim`"),
        (refused(&|w| w.labels = "SELECT *, 1 AS gpa FROM gold.labels".into()), "two columns of the training set"),
    ] {
        assert!(error.contains(part), "{error}");
    }
}
