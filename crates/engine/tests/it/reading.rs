//! What a table answers whatever its files went through: columns of every age,
//! rows deleted by value.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use iceberg::spec::{DataFileBuilder, Literal, Operation, Struct};
use insightera_engine::lake::commit::{self, Change};
use insightera_engine::lake::upsert;
use proptest::prelude::*;

use crate::project::{PIPELINE, TestProject};

#[test]
fn a_column_is_the_one_with_its_id_in_files_of_every_age() {
    let project = TestProject::new(PIPELINE);
    project.shell(&[
        "CREATE TABLE gold.t (id INT, a INT, b STRING) USING iceberg",
        "INSERT INTO gold.t (id, a, b) VALUES (1, 10, 'x')",
        "ALTER TABLE gold.t CREATE TAG first",
        // The names change places.
        "ALTER TABLE gold.t RENAME COLUMN a TO aside",
        "ALTER TABLE gold.t RENAME COLUMN b TO a",
        "ALTER TABLE gold.t RENAME COLUMN aside TO b",
        "INSERT INTO gold.t (id, a, b) VALUES (2, 'y', 20)",
    ]);
    assert_eq!(project.texts("SELECT id, a, b FROM gold.t"), ["1 x 10", "2 y 20"]);
    assert_eq!(project.texts("SELECT id FROM gold.t WHERE a = 'x'"), ["1"]);
    assert_eq!(project.texts("SELECT id FROM gold.t WHERE b = 20"), ["2"]);
    project.shell(&[
        "ALTER TABLE gold.t ALTER COLUMN b TYPE BIGINT",
        "ALTER TABLE gold.t DROP COLUMN a",
        "ALTER TABLE gold.t ADD COLUMN a INT",
        "INSERT INTO gold.t (id, a, b) VALUES (3, 7, 5000000000)",
    ]);
    assert_eq!(project.texts("SELECT id, a, b FROM gold.t"), ["1 - 10", "2 - 20", "3 7 5000000000"]);
    // Of files that are older than the column every row is null in it.
    assert_eq!(project.texts("SELECT id FROM gold.t WHERE a IS NULL"), ["1", "2"]);
    assert_eq!(project.texts("SELECT id FROM gold.t WHERE a IS NOT NULL"), ["3"]);
    assert_eq!(project.texts("SELECT id FROM gold.t WHERE a = 7"), ["3"]);
    assert_eq!(project.texts("SELECT id FROM gold.t WHERE a <> 7"), [""; 0]);
    assert_eq!(project.texts("SELECT id FROM gold.t WHERE coalesce(a, 1) = 1"), ["1", "2"]);
    assert_eq!(project.texts("SELECT id FROM gold.t WHERE b > 15"), ["2", "3"]);
    assert_eq!(project.count("SELECT count(*) FROM gold.t"), 3);
    assert_eq!(project.count("SELECT count(a) FROM gold.t"), 1);
    assert_eq!(project.texts("SELECT max(b) FROM gold.t"), ["5000000000"]);
    // Bounds and columns of a past snapshot are those of its own schema.
    assert_eq!(project.texts("SELECT id, a, b FROM gold.t VERSION AS OF 'first' WHERE a = 10"), ["1 10 x"]);
    assert_eq!(project.texts("SELECT id FROM gold.t VERSION AS OF 'first' WHERE b = 'x'"), ["1"]);
}

/// `k` and `v`.
type Pair = (Option<i32>, Option<i32>);

/// `k`, `v` and `n`.
type Row = (Option<i32>, Option<i32>, i32);

/// One thing that happens to a table of `k INT, v INT, n INT`.
#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Pair>),
    /// By `k`, by `v`, or by both.
    Delete(bool, bool, Vec<Pair>),
    Rename,
    /// `v` goes and another of its name comes.
    Replace,
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let value = || prop_oneof![1 => Just(None), 5 => (0..4).prop_map(Some)];
    let rows = || prop::collection::vec((value(), value()), 1..6);
    prop_oneof![
        5 => rows().prop_map(Step::Append),
        2 => rows().prop_map(|rows| Step::Delete(true, false, rows)),
        1 => rows().prop_map(|rows| Step::Delete(false, true, rows)),
        2 => rows().prop_map(|rows| Step::Delete(true, true, rows)),
        1 => Just(Step::Rename),
        1 => Just(Step::Replace),
        1 => Just(Step::Compact),
    ]
}

type Expected = Vec<Row>;

fn text(value: Option<i32>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn check(project: &TestProject, (k, v): (&str, &str), expected: &Expected) -> Result<(), TestCaseError> {
    let sorted = |rows: Vec<String>| -> Vec<String> {
        let mut rows = rows;
        rows.sort();
        rows
    };
    let rows = |keep: &dyn Fn(&Row) -> bool| -> Vec<String> {
        sorted(expected.iter().filter(|r| keep(r)).map(|(k, v, n)| format!("{} {} {n}", text(*k), text(*v))).collect())
    };
    prop_assert_eq!(project.texts(&format!("SELECT {k}, {v}, n FROM gold.t")), rows(&|_| true));
    prop_assert_eq!(project.texts(&format!("SELECT {k}, {v}, n FROM gold.t WHERE {v} = 2")), rows(&|r| r.1 == Some(2)));
    prop_assert_eq!(
        project.texts(&format!("SELECT {k}, {v}, n FROM gold.t WHERE {k} IS NULL")),
        rows(&|r| r.0.is_none())
    );
    // Columns that rows are deleted by need not be asked for.
    let numbers = sorted(expected.iter().map(|(_, _, n)| n.to_string()).collect());
    prop_assert_eq!(project.texts("SELECT n FROM gold.t"), numbers);
    prop_assert_eq!(project.count("SELECT count(*) FROM gold.t"), expected.len() as i64);
    let some = project.texts("SELECT n FROM gold.t LIMIT 3").len();
    prop_assert_eq!(some, expected.len().min(3));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_deleted_by_value_from_older_files_alone(steps in prop::collection::vec(step(), 4..14)) {
        let project = TestProject::new(PIPELINE);
        project.shell(&["CREATE TABLE gold.t (k INT, v INT, n INT) USING iceberg"]);
        let (mut expected, mut next, mut generation) = (Expected::new(), 0, 0);
        let mut names = ("k".to_owned(), "v".to_owned());
        for step in &steps {
            let (k, v) = (names.0.clone(), names.1.clone());
            match step {
                Step::Append(rows) => {
                    let null = |value: Option<i32>| value.map_or("NULL".to_owned(), |value| value.to_string());
                    let values = rows.iter().map(|(key, value)| {
                        next += 1;
                        expected.push((*key, *value, next));
                        format!("(CAST({} AS INT), CAST({} AS INT), {next})", null(*key), null(*value))
                    });
                    let values = values.collect::<Vec<_>>().join(", ");
                    project.shell(&[&format!("INSERT INTO gold.t ({k}, {v}, n) VALUES {values}")]);
                }
                Step::Delete(by_k, by_v, rows) => {
                    let column = |pick: fn(&Pair) -> Option<i32>| -> ArrayRef {
                        Arc::new(rows.iter().map(pick).collect::<Int32Array>())
                    };
                    let mut columns = Vec::new();
                    if *by_k {
                        columns.push((k.as_str(), column(|row| row.0), true));
                    }
                    if *by_v {
                        columns.push((v.as_str(), column(|row| row.1), true));
                    }
                    project.delete_by_value("gold.t", RecordBatch::try_from_iter_with_nullable(columns).unwrap());
                    expected.retain(|(key, value, _)| {
                        !rows.iter().any(|row| (!by_k || row.0 == *key) && (!by_v || row.1 == *value))
                    });
                }
                Step::Rename => {
                    generation += 1;
                    names.0 = format!("k{generation}");
                    project.shell(&[&format!("ALTER TABLE gold.t RENAME COLUMN {k} TO {}", names.0)]);
                }
                Step::Replace => {
                    project.shell(&[
                        &format!("ALTER TABLE gold.t DROP COLUMN {v}"),
                        &format!("ALTER TABLE gold.t ADD COLUMN {v} INT"),
                    ]);
                    expected.iter_mut().for_each(|row| row.1 = None);
                }
                Step::Compact => {
                    project.shell(&[
                        "CALL system.rewrite_data_files(table => 'gold.t', options => map('rewrite-all', 'true'))",
                    ]);
                }
            }
            check(&project, (&names.0, &names.1), &expected)?;
        }
    }
}

#[test]
fn rows_deleted_by_value_in_a_partition_stay_in_the_others() {
    let project = TestProject::new(PIPELINE);
    project.shell(&[
        "CREATE TABLE gold.t (k INT, p INT) USING iceberg PARTITIONED BY (p)",
        "INSERT INTO gold.t VALUES (1, 1), (2, 1), (1, 2), (2, 2)",
    ]);
    let table = project.table("gold.t");
    let keys: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let file = upsert::equality_delete_file(&table, &RecordBatch::try_from_iter([("k", keys)]).unwrap()).unwrap();
    let in_partition = DataFileBuilder::default()
        .content(file.content_type())
        .equality_ids(file.equality_ids())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(Struct::from_iter([Some(Literal::int(1))]))
        .partition_spec_id(table.metadata().default_partition_spec_id())
        .record_count(1)
        .file_size_in_bytes(file.file_size_in_bytes())
        .build()
        .unwrap();
    let mut change = Change::append(&table, Vec::new());
    change.operation = Operation::Delete;
    change.deletes.push(in_partition);
    commit::commit(project.workspace.lake(), &change).unwrap();
    assert_eq!(project.texts("SELECT k, p FROM gold.t"), ["1 2", "2 1", "2 2"]);
    // The row comes back in a file that is newer than the delete.
    project.shell(&["INSERT INTO gold.t VALUES (1, 1)"]);
    assert_eq!(project.texts("SELECT k, p FROM gold.t"), ["1 1", "1 2", "2 1", "2 2"]);
}
