//! A run in shards writes what a run at once writes.

use insightera_engine::score::RunOptions;

use crate::changed::{QUERIES, delete, with_query};
use crate::project::{TestProject, grades_rows};

const STUDENTS: usize = 6000;

fn rows(project: &TestProject) -> Vec<(String, String, Option<u64>)> {
    let mut rows: Vec<_> =
        project.roomy().rows().into_iter().map(|r| (r.nim, r.reason, r.risk.map(f64::to_bits))).collect();
    rows.sort();
    rows
}

fn shard_folders(project: &TestProject) -> usize {
    std::fs::read_dir(project.folder.join(".insightera/shards")).map_or(0, Iterator::count)
}

#[test]
fn every_query_gives_the_same_rows_in_shards() {
    for query in QUERIES {
        let (whole, small) =
            (TestProject::new(&with_query(query)), TestProject::with_little_memory(&with_query(query)));
        for project in [&whole, &small] {
            project.seed(STUDENTS);
            // Some have no attendance, some no grades.
            project.append("gold.grades", grades_rows(STUDENTS..STUDENTS + 50, 0.0));
        }
        for options in [RunOptions::default(), RunOptions { full: true, ..RunOptions::default() }] {
            let (a, b) = (whole.try_run(&options).unwrap(), small.try_run(&options).unwrap());
            assert_eq!((&a.reasons, a.entities), (&b.reasons, b.entities), "{query}");
            assert_eq!(a.dropped_by_joins, b.dropped_by_joins, "{query}");
            assert_eq!(rows(&whole), rows(&small), "{query}");
            let verified = small.roomy().verify();
            assert!(verified.ok, "{query}: {verified:?}");
        }
        assert_eq!(shard_folders(&small), 0, "temporary files stayed");
        assert_eq!(small.folder.join(".insightera/shards").exists(), !query.contains("OVER"), "{query}");
        for project in [&whole, &small] {
            delete(&project.roomy(), &(10..40).collect::<Vec<_>>());
            project.upsert("gold.grades", grades_rows(100..4000, 1.0));
        }
        let (a, b) = (whole.run(), small.run());
        assert_eq!((&a.reasons, a.removed), (&b.reasons, b.removed), "{query}");
        assert_eq!(rows(&whole), rows(&small), "{query}");
    }
}

#[test]
fn the_files_of_a_run_in_shards_hold_disjoint_ranges_of_sorted_keys() {
    let project = TestProject::with_little_memory(&with_query(QUERIES[0]));
    project.seed(STUDENTS);
    project.run();
    let table = project.table("ml.risk");
    let id = table.schema().field_id_by_name("nim").unwrap();
    let files = insightera_engine::lake::files::live_files(&table, table.current_snapshot_id()).unwrap();
    assert!(files.data.len() > 1, "one thread wrote everything");
    let mut ranges: Vec<(String, String)> = files
        .data
        .iter()
        .map(|file| {
            let bounds = |of: &std::collections::HashMap<i32, iceberg::spec::Datum>| of[&id].to_string();
            (bounds(file.data_file().lower_bounds()), bounds(file.data_file().upper_bounds()))
        })
        .collect();
    ranges.sort();
    for pair in ranges.windows(2) {
        assert!(pair[0].1 < pair[1].0, "{pair:?}");
    }
}

#[test]
fn a_key_that_comes_twice_is_named_in_shards_too() {
    let project = TestProject::with_little_memory(&with_query(QUERIES[0]));
    project.seed(STUDENTS);
    project.append("gold.grades", grades_rows(17..18, 0.0));
    let error = project.try_run(&RunOptions::default()).unwrap_err().to_string();
    assert!(error.contains("1 duplicate rows") && error.contains(&crate::project::nim(17)), "{error}");
}

#[test]
fn shards_that_a_killed_run_left_are_removed() {
    let project = TestProject::with_little_memory(&with_query(QUERIES[0]));
    project.seed(STUDENTS);
    let left = project.folder.join(".insightera/shards/left");
    std::fs::create_dir_all(left.join("0")).unwrap();
    std::fs::write(left.join("lock"), "").unwrap();
    std::fs::write(left.join("0/0.arrows"), "x").unwrap();
    let used = project.folder.join(".insightera/shards/used");
    std::fs::create_dir_all(&used).unwrap();
    let lock = std::fs::File::create(used.join("lock")).unwrap();
    lock.lock().unwrap();
    project.run();
    assert!(!left.exists() && used.exists());
}
