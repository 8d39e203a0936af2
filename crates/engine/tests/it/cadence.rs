//! A table that gets a commit every second for hours stays small and fast under
//! the default policy.

use std::path::Path;

use insightera_core::{Clock, SystemClock};
use insightera_engine::lake::maintain::orphans;
use insightera_engine::lake::maintain::policy::{self, Policy};
use insightera_engine::lake::storage::local_path;
use insightera_engine::lake::{NewTable, commit};
use insightera_engine::{Workspace, sql, stream};

use crate::project::{PIPELINE, TestProject, block_on, grades_columns, grades_rows, tell};
use crate::sequences::age;

/// Commits between two looks of a stream after its tables, one each second.
const LOOK: usize = 60;

fn bytes(folder: &Path, of: &dyn Fn(&str) -> bool) -> u64 {
    std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|entry| of(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.metadata().unwrap().len())
        .sum()
}

/// The time that a commit took where nobody else had the disk and the processor: other tests run beside this one.
fn undisturbed(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 10]
}

fn maintain(workspace: &Workspace, policy: &Policy) {
    let context = sql::session(workspace, "UTC").unwrap();
    let name = TestProject::name("gold.grades");
    block_on(policy::behind_stream(workspace.lake(), &context, &name, policy)).unwrap();
}

#[test]
fn a_commit_every_second_costs_the_same_after_hours_and_metadata_stays_small() {
    let long = std::env::var_os("INSIGHTERA_TEST_LONG").is_some();
    let (commits, window) = if long { (10_000, 100) } else { (600, 60) };
    // In a short run the policy's bound must be reached as well.
    let policy = Policy { most_snapshots: if long { 2000 } else { 200 }, ..Policy::default() };
    let project = TestProject::new(PIPELINE);
    // As a stream makes its tables.
    let (name, columns, properties) = (TestProject::name("gold.grades"), grades_columns(), stream::table_properties());
    let (partition_by, location) = Default::default();
    let new = NewTable { name, columns, partition_by, properties, location };
    project.workspace.lake().create_table(&new).unwrap();
    let mut times = Vec::with_capacity(commits);
    for number in 0..commits {
        project.clock.advance(1_000_000);
        let rows = grades_rows(number * 3..number * 3 + 3, 0.0);
        let clock = SystemClock::new();
        project.append("gold.grades", rows);
        times.push(clock.monotonic_seconds() * 1000.0);
        if number % LOOK == LOOK - 1 {
            maintain(&project.workspace, &policy);
        }
    }
    assert_eq!(project.count("SELECT count(*) FROM gold.grades"), 3 * commits as i64);
    let table = project.table("gold.grades");
    let folder = project.folder.join("warehouse/gold/grades/metadata");
    let current = std::fs::metadata(table.metadata_location().trim_start_matches("file://")).unwrap().len();
    let all = bytes(&folder, &|_| true);
    let snapshots = table.metadata().snapshots().count();
    let files = project.count("SELECT count(*) FROM gold.grades.files");
    let (first, last) = (undisturbed(&times[..window]), undisturbed(&times[commits - window..]));
    tell(format_args!(
        "{commits} commits: the first {window} took {first:.1} ms, the last {last:.1} ms (a tenth took less); {snapshots} snapshots, \
         {files} live data files, current metadata {:.2} MB, all metadata {:.1} MB",
        current as f64 / 1e6,
        all as f64 / 1e6
    ));
    assert!(last <= 1.5 * first + 20.0, "the first commits took {first} ms, the last {last} ms");
    assert!(snapshots <= policy.most_snapshots as usize + 2 * LOOK, "{snapshots} snapshots");
    assert!(current <= 2_000_000 && all <= 200_000_000, "metadata of {current} bytes, of {all} in all");
    assert!(files < 300, "{files} live data files");
}

#[test]
fn rewritten_files_are_alike_and_near_their_target() {
    const TARGET: i64 = 1 << 18;
    let project = TestProject::new(PIPELINE);
    project.create("gold.grades", grades_columns());
    for number in 0..24 {
        project.append("gold.grades", grades_rows(number * 4000..(number + 1) * 4000, 0.0));
    }
    project.shell(&[&format!(
        "CALL system.rewrite_data_files(table => 'gold.grades', options => map('target-file-size-bytes', '{TARGET}'))"
    )]);
    let sizes: Vec<i64> = project
        .texts("SELECT file_size_in_bytes FROM gold.grades.files")
        .iter()
        .map(|size| size.parse().unwrap())
        .collect();
    assert!(sizes.len() > 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size * 4 >= TARGET * 3 && *size * 5 <= TARGET * 9), "{sizes:?} for {TARGET}");
    assert_eq!(project.count("SELECT count(*) FROM gold.grades"), 24 * 4000);
}

/// The first metadata file of a table that never was in the catalog holds
/// nothing; a table that was dropped may be wanted back.
#[test]
fn a_table_that_was_never_made_is_an_orphan_and_one_that_was_dropped_is_not() {
    let mut project = TestProject::new(PIPELINE);
    let name = TestProject::name("gold.grades");
    let (lake, columns) = (project.workspace.lake(), grades_columns());
    let (partition_by, properties, location) = Default::default();
    let new = NewTable { name: name.clone(), columns, partition_by, properties, location };
    // As if its maker had ended before the catalog knew of it.
    let draft = commit::create(lake, &lake.draft_table(&new).unwrap()).unwrap();
    assert!(lake.catalog().drop_table(&name).unwrap());
    project.reopen();
    project.create("gold.grades", grades_columns());
    project.append("gold.grades", grades_rows(0..3, 0.0));
    age(&project.folder.join("warehouse"));
    let lake = project.workspace.lake();
    let search = orphans::default_search(lake.clock().now_millis());
    let found = orphans::find(lake, &name, search).unwrap();
    assert_eq!(found.files.len(), 1, "{:?}", found.files);
    assert_eq!(local_path(&found.files[0]), local_path(draft.metadata_location()));
    let away = policy::put_orphans_away(lake, &name, &Policy::default()).unwrap();
    assert_eq!(away, found);
    assert!(!local_path(draft.metadata_location()).exists());
    assert_eq!(policy::put_orphans_away(lake, &name, &Policy::default()).unwrap().files, Vec::<String>::new());
    assert_eq!(project.count("SELECT count(*) FROM gold.grades"), 3);

    assert!(lake.catalog().drop_table(&name).unwrap());
    project.reopen();
    project.create("gold.grades", grades_columns());
    age(&project.folder.join("warehouse"));
    let error = orphans::find(project.workspace.lake(), &name, search).unwrap_err().to_string();
    assert!(error.contains("belongs to a table with the uuid"), "{error}");
}
