//! Bad input: each message says what, where, and what to do.

use arrow::array::{ArrayRef, RecordBatch};
use insightera_engine::score::RunOptions;

use crate::project::{PIPELINE, TestProject, grades_rows};

fn run_error(project: &TestProject) -> String {
    let error = project.try_run(&RunOptions::default()).unwrap_err();
    format!("{error}\nhint: {}", error.get_hint().unwrap_or("-"))
}

fn error_of(pipeline: &str) -> String {
    let project = TestProject::new(pipeline);
    project.seed(10);
    run_error(&project)
}

#[test]
fn a_missing_table_offers_the_nearest() {
    let shown = error_of(&PIPELINE.replace("gold.attendance a", "gold.atendance a"));
    assert!(shown.contains("`gold.atendance`") && shown.contains("did you mean `gold.attendance`?"), "{shown}");
}

#[test]
fn a_missing_column_is_named_with_its_file() {
    let shown = error_of(&PIPELINE.replace("a.rate", "a.rat"));
    assert!(shown.contains("risk.toml") && shown.contains("a.rat"), "{shown}");
}

#[test]
fn a_syntax_error_shows_line_and_caret() {
    let shown = error_of(&PIPELINE.replace("FROM gold.grades", "FORM gold.grades"));
    assert!(shown.contains("risk.toml") && shown.contains("FORM gold.grades") && shown.contains('^'), "{shown}");
}

#[test]
fn a_wrong_expression_names_its_column() {
    let shown = error_of(&PIPELINE.replace("\"nim\"\nrisk", "\"nim\"\nbad = \"gppa + 1\"\nrisk"));
    assert!(shown.contains("[output.columns] bad") && shown.contains("gppa"), "{shown}");
}

#[test]
fn a_clock_in_the_features_is_refused() {
    let shown = error_of(&PIPELINE.replace("g.gpa,", "g.gpa, now() AS at,"));
    assert!(shown.contains("now()") && shown.contains("prediction_timestamp"), "{shown}");
}

#[test]
fn a_float_key_is_refused() {
    let shown =
        error_of(&PIPELINE.replace("key = [\"nim\"]", "key = [\"gpa\"]").replace("nim = \"nim\"", "gpa = \"gpa\""));
    assert!(shown.contains("`gpa`") && shown.contains("no identity"), "{shown}");
}

#[test]
fn duplicate_keys_are_counted_and_named() {
    let project = TestProject::new(PIPELINE);
    project.seed(10);
    project.append("gold.grades", grades_rows(3..5, 1.0));
    let shown = run_error(&project);
    assert!(shown.contains("2 duplicate rows") && shown.contains("duplicates = \"latest\""), "{shown}");
    assert!(
        project
            .workspace
            .lake()
            .find(&TestProject::name("ml.risk"))
            .unwrap()
            .is_none_or(|t| t.current_snapshot_id().is_none())
    );
}

#[test]
fn of_duplicates_the_latest_wins_when_the_pipeline_says_so() {
    let project = TestProject::new(&PIPELINE.replace("[output]\n", "duplicates = \"latest\"\n[output]\n"));
    project.seed(10);
    project.append("gold.grades", {
        let rows = grades_rows(3..5, -5.0);
        let later =
            arrow::array::TimestampMicrosecondArray::from(vec![crate::project::START + 5; 2]).with_timezone("UTC");
        RecordBatch::try_new(
            rows.schema(),
            vec![rows.column(0).clone(), rows.column(1).clone(), std::sync::Arc::new(later)],
        )
        .unwrap()
    });
    assert_eq!(project.run().scored, 10);
    assert_eq!(
        project.count("SELECT count(*) FROM ml.risk WHERE feature_timestamp > TIMESTAMP '2026-01-01 00:00:00Z'"),
        2
    );
    project.assert_verified();
}

#[test]
fn null_keys_are_counted_and_not_scored() {
    let project = TestProject::new(
        &PIPELINE.replace("SELECT g.nim,", "SELECT CASE WHEN g.gpa IS NULL THEN NULL ELSE g.nim END AS nim,"),
    );
    project.seed(22);
    let run = project.run();
    assert_eq!((run.null_keys, run.scored), (2, 20));
}

#[test]
fn a_damaged_parquet_file_is_named() {
    let project = TestProject::new(PIPELINE);
    project.seed(10);
    let data = project.folder.join("warehouse/gold/grades/data");
    let file = std::fs::read_dir(&data).unwrap().flatten().next().unwrap().path();
    std::fs::write(&file, b"PAR1 not really PAR1").unwrap();
    let shown = run_error(&project);
    assert!(shown.to_lowercase().contains("parquet"), "{shown}");
}

#[test]
fn a_warehouse_of_a_newer_format_is_refused_before_anything_is_written() {
    let project = TestProject::new(PIPELINE);
    project.seed(10);
    let database = rusqlite::Connection::open(project.folder.join("warehouse/catalog.db")).unwrap();
    database
        .execute(
            "UPDATE iceberg_namespace_properties SET property_value = '2' WHERE property_key = 'insightera.format'",
            [],
        )
        .unwrap();
    drop(database);
    let opened = insightera_engine::Workspace::open(&project.folder, Default::default(), project.clock.clone());
    let error = opened.unwrap_err();
    assert!(error.to_string().contains("format `2`") && error.get_hint().unwrap().contains("upgrade"), "{error}");
}

#[test]
fn a_table_column_of_another_type_is_refused() {
    let mut project = TestProject::new(PIPELINE);
    project.seed(5);
    project.run();
    project.set_pipeline(&PIPELINE.replace("THEN 1.0 ELSE 0.0 END", "THEN 'x' ELSE 'y' END"));
    let shown = run_error(&project);
    assert!(shown.contains("`risk`") && shown.contains("double") && shown.contains("string"), "{shown}");
}

#[test]
fn nan_and_infinity_are_values_like_others() {
    let project = TestProject::new(PIPELINE);
    project.seed(3);
    let odd = grades_rows(10..13, 0.0);
    let gpa: ArrayRef =
        std::sync::Arc::new(arrow::array::Float64Array::from(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]));
    let rows = RecordBatch::try_new(odd.schema(), vec![odd.column(0).clone(), gpa, odd.column(2).clone()]).unwrap();
    project.append("gold.grades", rows);
    project.append("gold.attendance", crate::project::attendance_rows(10..13));
    assert_eq!(project.run().scored, 6);
    assert_eq!(project.run().snapshot_id, None);
    project.assert_verified();
}

#[test]
fn a_statement_that_writes_is_refused_by_sql() {
    let project = TestProject::new(PIPELINE);
    project.seed(3);
    for writes in ["CREATE TABLE a.x (n INT) USING iceberg", "DELETE FROM gold.grades", "DROP TABLE gold.grades"] {
        let shown = project.query_error(writes);
        assert!(shown.contains("only reading is allowed"), "{shown}");
    }
    let unknown = project.query_error("SELECT * FROM gold.grade");
    assert!(unknown.contains("did you mean `gold.grades`?"), "{unknown}");
}
