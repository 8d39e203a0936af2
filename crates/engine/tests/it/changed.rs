//! "Changed" is right: random mutations of the inputs, one project that may
//! use snapshots, one that compares every hash; both must write the same.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use iceberg::spec::{Operation, SnapshotReference, SnapshotRetention};
use insightera_engine::lake::commit::{self, Change};
use insightera_engine::lake::writer::{TableWriter, WriteOptions};
use insightera_engine::lake::{files, upsert};
use proptest::prelude::*;

use crate::project::{PIPELINE, TestProject, attendance_rows, grades_columns, grades_rows, nims};

/// One thing that happens to an input.
#[derive(Debug, Clone)]
enum Mutation {
    Append(Vec<usize>),
    Upsert(Vec<usize>, u8),
    PositionDelete(Vec<usize>),
    EqualityDelete(Vec<usize>),
    CopyOnWrite(u8),
    Rollback,
    Replace(u8),
    Nothing,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let some = prop::collection::btree_set(0usize..90, 1..6).prop_map(|s| s.into_iter().collect::<Vec<_>>());
    prop_oneof![
        3 => prop::collection::btree_set(100usize..140, 1..4).prop_map(|s| Mutation::Append(s.into_iter().collect())),
        4 => (some.clone(), 0u8..4).prop_map(|(s, shift)| Mutation::Upsert(s, shift)),
        3 => some.clone().prop_map(Mutation::PositionDelete),
        2 => some.prop_map(Mutation::EqualityDelete),
        2 => (0u8..4).prop_map(Mutation::CopyOnWrite),
        1 => Just(Mutation::Rollback),
        1 => (0u8..4).prop_map(Mutation::Replace),
        1 => Just(Mutation::Nothing),
    ]
}

fn apply(project: &TestProject, mutation: &Mutation) {
    let lake = project.workspace.lake();
    let table = project.table("gold.grades");
    match mutation {
        Mutation::Nothing => {}
        Mutation::Append(students) => {
            // Only students that are not there: duplicates are another test.
            let known = current(project);
            let new: Vec<usize> =
                students.iter().copied().filter(|s| !known.contains_key(&crate::project::nim(*s))).collect();
            if !new.is_empty() {
                project.append("gold.grades", grades_rows(new.iter().copied(), 0.0));
                project.upsert("gold.attendance", attendance_rows(new.into_iter()));
            }
        }
        Mutation::Upsert(students, shift) => {
            project.upsert("gold.grades", grades_rows(students.iter().copied(), f64::from(*shift)));
        }
        Mutation::PositionDelete(students) => delete(project, students),
        Mutation::EqualityDelete(students) => {
            project.delete_by_value("gold.grades", nims(students));
        }
        Mutation::CopyOnWrite(shift) => {
            let rows = project.query("SELECT nim, gpa, feature_timestamp FROM gold.grades ORDER BY nim");
            let mut writer = TableWriter::new(&table, WriteOptions::default()).unwrap();
            for batch in &rows {
                let shifted: Vec<Option<f64>> = batch
                    .column(1)
                    .as_primitive::<arrow::datatypes::Float64Type>()
                    .iter()
                    .enumerate()
                    .map(|(i, v)| v.map(|v| if i % 17 == 0 { v + f64::from(*shift) } else { v }))
                    .collect();
                let gpa = std::sync::Arc::new(arrow::array::Float64Array::from(shifted));
                let columns = vec![batch.column(0).clone(), gpa as arrow::array::ArrayRef, batch.column(2).clone()];
                writer.write(&RecordBatch::try_new(batch.schema(), columns).unwrap()).unwrap();
            }
            let live = files::live_files(&table, table.current_snapshot_id()).unwrap();
            let mut change = Change::append(&table, writer.finish().unwrap());
            change.operation = Operation::Overwrite;
            change.removed = live.data.iter().map(|f| f.data_file().file_path().to_owned()).collect();
            if !change.removed.is_empty() || !change.added.is_empty() {
                commit::commit(lake, &change).unwrap();
            }
        }
        Mutation::Rollback => {
            let parent = table.metadata().current_snapshot().and_then(|s| s.parent_snapshot_id());
            if let Some(parent) = parent {
                commit::alter(lake, table.name(), |_| {
                    Ok(vec![iceberg::TableUpdate::SetSnapshotRef {
                        ref_name: "main".into(),
                        reference: SnapshotReference::new(parent, SnapshotRetention::branch(None, None, None)),
                    }])
                })
                .unwrap();
            }
        }
        Mutation::Replace(shift) => {
            lake.catalog().drop_table(table.name()).unwrap();
            let folder = table.metadata().location().trim_start_matches("file://").to_owned();
            std::fs::rename(&folder, format!("{folder}-{}", uuid::Uuid::new_v4())).unwrap();
            project.create("gold.grades", grades_columns());
            project.append("gold.grades", grades_rows(0..80, f64::from(*shift)));
        }
    }
}

/// Takes students out of `gold.grades` by position deletes alone.
pub fn delete(project: &TestProject, students: &[usize]) {
    try_delete(project, students).unwrap();
}

/// As [`delete`], where something may go wrong.
pub fn try_delete(project: &TestProject, students: &[usize]) -> insightera_engine::Result<()> {
    let table = project.table("gold.grades");
    let wanted: Vec<String> = students.iter().map(|s| crate::project::nim(*s)).collect();
    let mut hits = BTreeMap::new();
    for file in files::live_files(&table, table.current_snapshot_id()).unwrap().data {
        let path = file.data_file().file_path().to_owned();
        let (input, metadata) = insightera_engine::lake::deletes::open(table.storage(), &path).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata);
        let mut at = 0i64;
        for batch in reader.build().unwrap() {
            let batch: RecordBatch = batch.unwrap();
            let nims = batch.column_by_name("nim").unwrap().as_string::<i32>().clone();
            for row in 0..nims.len() {
                if wanted.iter().any(|w| w == nims.value(row)) {
                    hits.entry(path.clone()).or_insert_with(Vec::new).push(at);
                }
                at += 1;
            }
        }
    }
    if !hits.is_empty() {
        let mut change = Change::append(&table, Vec::new());
        change.operation = Operation::Delete;
        change.deletes.push(upsert::position_delete_file(&table, &hits)?);
        commit::commit(project.workspace.lake(), &change)?;
    }
    Ok(())
}

fn current(project: &TestProject) -> BTreeMap<String, ()> {
    let mut found = BTreeMap::new();
    for batch in project.query("SELECT CAST(nim AS VARCHAR) AS nim FROM gold.grades") {
        let nims = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        nims.as_string::<i32>().iter().flatten().for_each(|n| {
            found.insert(n.to_owned(), ());
        });
    }
    found
}

/// Feature queries that may or may not be entity-local.
pub const QUERIES: [&str; 5] = [
    "SELECT g.nim, g.gpa, a.rate, g.feature_timestamp FROM gold.grades g JOIN gold.attendance a ON g.nim = a.nim",
    "SELECT g.nim, g.gpa, coalesce(a.rate, 1) AS rate, g.feature_timestamp FROM gold.grades g LEFT JOIN gold.attendance a ON a.nim = g.nim WHERE g.gpa > 1.5 OR g.gpa IS NULL",
    "WITH m AS (SELECT nim, max(gpa) AS gpa, max(feature_timestamp) AS feature_timestamp FROM gold.grades GROUP BY nim) SELECT m.nim, m.gpa, a.rate, m.feature_timestamp FROM m JOIN gold.attendance a USING (nim)",
    "SELECT g.nim, g.gpa - max(g.gpa) OVER () AS gpa, a.rate, g.feature_timestamp FROM gold.grades g JOIN gold.attendance a ON g.nim = a.nim",
    "SELECT a.nim, g.gpa, a.rate, g.feature_timestamp FROM gold.attendance a LEFT JOIN gold.grades g ON g.nim = a.nim",
];

/// The pipeline with another feature query.
pub fn with_query(query: &str) -> String {
    let from = PIPELINE.find("SELECT").unwrap();
    let to = PIPELINE.find("\"\"\"\nfeature_time").unwrap();
    format!("{}{query}\n{}", &PIPELINE[..from], &PIPELINE[to..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn snapshots_score_what_comparing_every_hash_would(
        query in 0usize..QUERIES.len(),
        rounds in prop::collection::vec(prop::collection::vec(mutation(), 1..4), 1..5),
    ) {
        let auto = with_query(QUERIES[query]);
        let hash = auto.replace("[output]\n", "strategy = \"hash\"\n[output]\n");
        let (fast, slow) = (TestProject::new(&auto), TestProject::new(&hash));
        fast.seed(90);
        slow.seed(90);
        fast.run();
        slow.run();
        for round in rounds {
            for mutation in &round {
                apply(&fast, mutation);
                apply(&slow, mutation);
            }
            let (a, b) = (fast.run(), slow.run());
            prop_assert_eq!(&a.reasons, &b.reasons, "strategy {}, {:?}", a.strategy, a.why_not_snapshot);
            prop_assert_eq!(a.entities, b.entities);
            let strip = |p: &TestProject| {
                let mut rows: Vec<_> = p.rows().into_iter().map(|r| (r.nim, r.reason, r.risk.map(f64::to_bits))).collect();
                rows.sort();
                rows
            };
            prop_assert_eq!(strip(&fast), strip(&slow));
            let verified = fast.verify();
            prop_assert!(verified.ok, "{:?}", verified);
        }
    }
}
