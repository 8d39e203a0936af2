//! What a run promises.

use insightera_engine::score::{Maintained, RunOptions, RunStatus};

use crate::project::{PIPELINE, TestProject, attendance_columns, attendance_rows, grades_columns, grades_rows, nim};

#[test]
fn the_first_run_scores_everyone_and_the_second_commits_nothing() {
    let project = TestProject::new(PIPELINE);
    project.seed(1000);
    let plan = project.plan();
    assert_eq!((plan.entities, plan.to_score), (1000, 1000));
    let first = project.run();
    assert_eq!((first.status, first.scored, first.skipped), (RunStatus::Committed, 1000, 0));
    assert_eq!(first.reasons.0.get("first"), Some(&1000));
    let before = project.table("ml.risk").metadata_location().to_owned();
    let second = project.run();
    assert_eq!((second.status, second.snapshot_id, second.entities), (RunStatus::Unchanged, None, 1000));
    assert_eq!(project.table("ml.risk").metadata_location(), before);
    project.assert_verified();
}

#[test]
fn only_changed_new_and_removed_entities_are_written() {
    let project = TestProject::new(PIPELINE);
    project.seed(500);
    project.run();
    project.upsert("gold.grades", grades_rows([3, 7, 20].into_iter(), 0.5));
    project.append("gold.grades", grades_rows(500..503, 0.0));
    project.append("gold.attendance", attendance_rows(500..502));
    let plan = project.plan();
    assert_eq!(plan.strategy, "snapshot", "{:?}", plan.why_not_snapshot);
    let run = project.run();
    assert_eq!(run.strategy, "snapshot");
    assert_eq!(run.reasons.0.get("update"), Some(&3));
    assert_eq!(run.reasons.0.get("insert"), Some(&2));
    assert_eq!((run.scored, run.removed, run.entities, run.skipped), (5, 0, 502, 497));
    assert_eq!(plan.reasons, run.reasons);
    project.assert_verified();
}

#[test]
fn an_entity_that_leaves_gets_one_row_and_its_return_is_an_insert() {
    let filtered = PIPELINE.replace("ON g.nim = a.nim", "ON g.nim = a.nim WHERE a.events < 100");
    let project = TestProject::new(&filtered);
    project.seed(100);
    project.run();
    let gone = |events: i64| {
        let rows = attendance_rows([5, 9].into_iter());
        let events = std::sync::Arc::new(arrow::array::Int64Array::from(vec![events; 2]));
        arrow::array::RecordBatch::try_new(rows.schema(), vec![rows.column(0).clone(), rows.column(1).clone(), events])
            .unwrap()
    };
    project.upsert("gold.attendance", gone(1000));
    let run = project.run();
    assert_eq!((run.removed, run.scored, run.entities), (2, 0, 98));
    let rows = project.rows();
    let last: Vec<_> = rows.iter().filter(|r| r.reason == "removed").collect();
    assert_eq!(last.len(), 2);
    assert!(last.iter().all(|r| r.risk.is_none() && [nim(5), nim(9)].contains(&r.nim)));
    assert_eq!(project.count("SELECT count(*) FROM ml.risk_current"), 98);
    project.assert_verified();
    project.upsert("gold.attendance", gone(1));
    let run = project.run();
    assert_eq!((run.reasons.0.get("insert"), run.entities), (Some(&2), 100));
    project.assert_verified();
}

#[test]
fn a_changed_output_expression_scores_everyone_again() {
    let mut project = TestProject::new(PIPELINE);
    project.seed(50);
    project.run();
    project.set_pipeline(&PIPELINE.replace("gpa < 2", "gpa < 2.5"));
    assert!(!project.verify().ok);
    let run = project.run();
    assert_eq!(run.reasons.0.get("model"), Some(&50));
    project.assert_verified();
}

#[test]
fn with_new_only_old_rows_stay_current() {
    let keep = PIPELINE.replace("[output]\n", "on_model_change = \"new_only\"\n[output]\n");
    let mut project = TestProject::new(&keep);
    project.seed(50);
    project.run();
    project.set_pipeline(&keep.replace("gpa < 2", "gpa < 2.5"));
    assert_eq!(project.run().scored, 0);
    project.assert_verified();
    project.append("gold.grades", grades_rows(50..51, 0.0));
    project.append("gold.attendance", attendance_rows(50..51));
    assert_eq!(project.run().scored, 1);
    project.assert_verified();
}

#[test]
fn full_scores_everyone_and_says_forced() {
    let project = TestProject::new(PIPELINE);
    project.seed(20);
    project.run();
    let run = project.try_run(&RunOptions { full: true, ..RunOptions::default() }).unwrap();
    assert_eq!(run.reasons.0.get("forced"), Some(&20));
    assert_eq!(project.count("SELECT count(*) FROM ml.risk"), 40);
    assert_eq!(project.count("SELECT count(*) FROM ml.risk_current"), 20);
    project.assert_verified();
}

#[test]
fn an_advanced_input_without_a_difference_commits_an_empty_snapshot() {
    let project = TestProject::new(PIPELINE);
    project.seed(30);
    project.run();
    project.upsert("gold.grades", grades_rows(4..6, 0.0));
    let run = project.run();
    assert_eq!((run.status, run.scored), (RunStatus::Unchanged, 0));
    assert!(run.snapshot_id.is_some());
    assert_eq!(project.run().snapshot_id, None);
    project.assert_verified();
}

#[test]
fn the_index_is_a_cache() {
    let project = TestProject::new(PIPELINE);
    project.seed(200);
    project.run();
    let folder = project.folder.join(".insightera/state/risk");
    for damage in 0..3 {
        project.upsert("gold.grades", grades_rows([damage + 1, damage + 50].into_iter(), 1.0 + damage as f64));
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            match damage {
                0 => std::fs::remove_file(entry.path()).unwrap(),
                1 => std::fs::write(entry.path(), b"garbage").unwrap(),
                _ => {
                    let bytes = std::fs::read(entry.path()).unwrap();
                    std::fs::write(entry.path(), &bytes[..bytes.len() / 2]).unwrap();
                }
            }
        }
        assert_eq!(project.run().scored, 2);
        project.assert_verified();
    }
}

#[test]
fn a_new_output_column_evolves_the_table_and_old_rows_read_null() {
    let mut project = TestProject::new(PIPELINE);
    project.seed(10);
    project.run();
    project.set_pipeline(&PIPELINE.replace(
        "feature_timestamp = \"feature_timestamp\"\n",
        "feature_timestamp = \"feature_timestamp\"\nnote = \"CAST(rate AS VARCHAR)\"\n",
    ));
    assert_eq!(project.plan().adds_columns, ["note"]);
    let run = project.run();
    assert_eq!(run.added_columns, ["note"]);
    assert_eq!(project.count("SELECT count(*) FROM ml.risk WHERE note IS NULL"), 10);
    assert_eq!(project.count("SELECT count(*) FROM ml.risk WHERE note IS NOT NULL"), 10);
    project.assert_verified();
}

#[test]
fn an_earlier_day_can_be_read_and_compared() {
    let project = TestProject::new(PIPELINE);
    project.seed(10);
    let first = project.run().snapshot_id.unwrap();
    project.upsert("gold.grades", grades_rows(1..4, 9.0));
    project.run();
    assert_eq!(project.count("SELECT count(*) FROM ml.risk"), 13);
    assert_eq!(project.count(&format!("SELECT count(*) FROM ml.risk VERSION AS OF {first}")), 10);
    let joined = format!(
        "SELECT count(*) FROM ml.risk AS now JOIN ml.risk VERSION AS OF {first} AS old ON now.nim = old.nim WHERE now.run_id <> old.run_id"
    );
    assert_eq!(project.count(&joined), 3);
    assert_eq!(project.count("SELECT count(*) FROM ml.risk TIMESTAMP AS OF '2099-01-01'"), 13);
    let early = project.query_error("SELECT count(*) FROM ml.risk TIMESTAMP AS OF '2001-01-01'");
    assert!(
        early.contains("no snapshot at or before '2001-01-01'") && early.contains("its first snapshot is"),
        "{early}"
    );
    assert!(project.query_error("SELECT * FROM ml.risk VERSION AS OF 12345").contains("no version 12345"));
}

#[test]
fn two_pipelines_share_a_table_without_sharing_progress() {
    let mut project = TestProject::new(PIPELINE);
    std::fs::write(project.folder.join("pipelines/other.toml"), PIPELINE.replace("gpa < 2", "gpa < 3")).unwrap();
    project.reopen();
    project.seed(25);
    assert_eq!(project.run().scored, 25);
    let other = crate::project::block_on(insightera_engine::score::run(
        &project.workspace,
        "other",
        &RunOptions::default(),
        &insightera_engine::score::Reporter::silent(),
    ))
    .unwrap();
    assert_eq!(other.reasons.0.get("first"), Some(&25));
    assert_eq!(project.run().snapshot_id, None);
    assert_eq!(project.count("SELECT count(*) FROM ml.risk_current"), 50);
    project.assert_verified();
}

#[test]
fn a_query_that_is_not_entity_local_is_compared_whole_and_says_why() {
    let ranked = PIPELINE.replace("g.gpa, a.rate", "rank() OVER (ORDER BY g.gpa) AS gpa, a.rate");
    let project = TestProject::new(&ranked);
    project.seed(40);
    project.run();
    project.upsert("gold.grades", grades_rows(1..2, 9.0));
    let run = project.run();
    assert_eq!(run.strategy, "hash");
    assert!(run.why_not_snapshot.unwrap().contains("window that is not partitioned by `nim`"));
    project.assert_verified();
}

#[test]
fn every_run_leaves_its_stages_in_the_metrics_table() {
    let project = TestProject::new(PIPELINE);
    project.seed(10);
    let run = project.run();
    let sql = format!(
        "SELECT count(*) FROM ml_monitoring.inference_metrics WHERE run_id = '{}' AND stage = 'total' AND batch_size = 10",
        run.run_id
    );
    assert_eq!(project.count(&sql), 1);
    assert!(project.count("SELECT count(*) FROM ml_monitoring.inference_metrics") >= 6);
}

#[test]
fn an_empty_input_is_no_error() {
    let project = TestProject::new(PIPELINE);
    project.create("gold.grades", grades_columns());
    project.create("gold.attendance", attendance_columns());
    let run = project.run();
    assert_eq!((run.scored, run.entities), (0, 0));
    project.append("gold.grades", grades_rows(0..3, 0.0));
    project.append("gold.attendance", attendance_rows(0..3));
    assert_eq!(project.run().scored, 3);
    project.assert_verified();
}

#[test]
fn a_run_maintains_its_table_where_the_project_wants_it() {
    let mut project = TestProject::new(PIPELINE);
    let settings = project.folder.join("insightera.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let maintenance = "[maintenance]\nauto = true\nmin_input_files = 3\nkeep_snapshots = 2\nexpire_after_days = 0\n";
    std::fs::write(&settings, format!("{text}{maintenance}")).unwrap();
    project.reopen();
    project.seed(40);
    let mut rewritten = 0;
    for shift in 1..8 {
        project.upsert("gold.grades", grades_rows(0..20, f64::from(shift) / 10.0));
        match project.run().maintenance {
            Some(Maintained::Done(report)) => rewritten += report.rewritten_files,
            Some(Maintained::Failed(why)) => panic!("{why}"),
            None => {}
        }
        project.assert_verified();
    }
    assert!(rewritten >= 6, "{rewritten}");
    let table = project.table("ml.risk");
    assert!(table.metadata().snapshots().count() <= 4, "{}", table.metadata().snapshots().count());
    assert_eq!(project.run().status, RunStatus::Unchanged);
    assert_eq!(project.count("SELECT count(*) FROM ml.risk"), 40 + 6 * 18);
}
