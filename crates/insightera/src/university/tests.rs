//! Laws of the university.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};

use super::*;

const SMALL: University = University { students: 6_000, units: 80, researchers: 700, transactions: 4_000, seed: 7 };

fn whole(university: &University, table: &str) -> RecordBatch {
    university.batch(table, 0, university.rows(table) as usize)
}

fn keys(batch: &RecordBatch, key: &[&str]) -> Vec<String> {
    let columns: Vec<_> = key.iter().map(|name| batch[*name].as_string::<i32>()).collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| column.value(row)).collect::<Vec<_>>().join("|"))
        .collect()
}

fn times(batch: &RecordBatch) -> Vec<i64> {
    batch["feature_timestamp"].as_primitive::<TimestampMicrosecondType>().values().to_vec()
}

fn upserts<'a>(day: &'a NextDay, table: &str) -> &'a RecordBatch {
    &day.upserts.iter().find(|(name, _)| *name == table).expect("a table of the next day").1
}

#[test]
fn the_same_seed_gives_the_same_rows_and_another_seed_gives_others() {
    let other = University { seed: 8, ..SMALL };
    for table in SMALL.tables() {
        assert_eq!(whole(&SMALL, table.name), whole(&SMALL, table.name), "{}", table.name);
        assert_ne!(whole(&SMALL, table.name), whole(&other, table.name), "{}", table.name);
    }
}

#[test]
fn rows_do_not_depend_on_the_batch_size() {
    for table in SMALL.tables() {
        let rows = SMALL.rows(table.name);
        let parts: Vec<_> = (0..rows).step_by(61).map(|start| SMALL.batch(table.name, start, 61)).collect();
        let glued = concat_batches(&SMALL.schema(table.name), &parts).expect("one schema");
        assert_eq!(glued, whole(&SMALL, table.name), "{}", table.name);
    }
}

#[test]
fn a_batch_ends_with_the_table() {
    assert_eq!(SMALL.batch(ACADEMIC, 5_990, 100).num_rows(), 10);
    assert_eq!(SMALL.batch(ACADEMIC, 6_000, 100).num_rows(), 0);
    assert_eq!(SMALL.batch(STATISTICS, u64::MAX, 1).num_rows(), 0);
}

#[test]
fn batches_follow_the_schema_and_are_sorted_by_a_unique_key() {
    for size in [1, 3, 400, 6_000] {
        let university = University::with_students(size, 5);
        for table in university.tables() {
            let batch = whole(&university, table.name);
            assert_eq!(batch.schema(), university.schema(table.name), "{}", table.name);
            assert_eq!(batch.num_rows() as u64, university.rows(table.name), "{}", table.name);
            let keys = keys(&batch, table.key);
            assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "{} of {size} students", table.name);
        }
    }
}

#[test]
fn student_numbers_have_ten_digits_and_are_not_consecutive() {
    let numbers: Vec<u64> = keys(&whole(&SMALL, STUDENT), &["nim"])
        .iter()
        .inspect(|nim| assert_eq!(nim.len(), 10))
        .map(|nim| nim.parse().expect("digits"))
        .collect();
    let neighbours = numbers.windows(2).filter(|pair| pair[1] - pair[0] == 1).count();
    assert!(neighbours < 10, "{neighbours}");
}

#[test]
fn nine_of_ten_students_are_active_and_big_programmes_are_much_bigger() {
    let students = whole(&SMALL, STUDENT);
    let mut statuses: HashMap<&str, usize> = HashMap::new();
    let mut programmes: HashMap<&str, usize> = HashMap::new();
    for row in 0..students.num_rows() {
        *statuses.entry(students["status_mahasiswa"].as_string::<i32>().value(row)).or_default() += 1;
        *programmes.entry(students["prodi_nama"].as_string::<i32>().value(row)).or_default() += 1;
    }
    assert!((5_300..5_500).contains(&statuses["active"]), "{statuses:?}");
    assert!(programmes["Manajemen"] > 10 * programmes["Filsafat"], "{programmes:?}");
}

#[test]
fn features_miss_one_to_eight_percent_of_the_values_that_can_be_missing() {
    let complete = ["semester", "repeat_courses", "sks_load", "entry_path", "event_count_7d", "late_count"];
    for table in [ACADEMIC, ATTENDANCE] {
        let batch = whole(&SMALL, table);
        for (column, field) in batch.columns().iter().zip(batch.schema().fields()) {
            let share = column.null_count() as f64 / batch.num_rows() as f64;
            if !field.is_nullable() || complete.contains(&field.name().as_str()) {
                assert_eq!(column.null_count(), 0, "{}", field.name());
            } else {
                assert!((0.006..0.095).contains(&share), "{} {share}", field.name());
            }
        }
    }
}

#[test]
fn some_rows_are_late_and_none_is_younger_than_the_cut_off() {
    let times = times(&whole(&SMALL, ATTENDANCE));
    let late = times.iter().filter(|time| **time < calendar::CUTOFF - calendar::DAY).count();
    assert!((200..400).contains(&late), "{late}");
    assert!(times.iter().all(|time| *time <= calendar::CUTOFF));
}

#[test]
fn the_next_day_has_exact_numbers_in_disjoint_sets() {
    for (students, moved) in [(10, 1), (400, 2), (6_000, 30)] {
        let university = University::with_students(students, 11);
        let before = whole(&university, STUDENT);
        let known: HashMap<String, String> =
            keys(&before, &["nim"]).into_iter().zip(keys(&before, &["status_mahasiswa"])).collect();
        let active = known.values().filter(|status| *status == "active").count() as f64;
        let day = university.next_day();
        let expected = NextDaySummary { changed: (active / 10.0).round() as u64, added: moved, withdrawn: moved };
        assert_eq!(day.summary, expected);

        let dimension = upserts(&day, STUDENT);
        let (mut withdrawn, mut added) = (HashSet::new(), HashSet::new());
        for (nim, status) in keys(dimension, &["nim"]).into_iter().zip(keys(dimension, &["status_mahasiswa"])) {
            match known.get(&nim) {
                Some(before) => {
                    assert_eq!((before.as_str(), status.as_str()), ("active", "withdrawn"));
                    withdrawn.insert(nim);
                }
                None => {
                    assert_eq!(status, "active");
                    added.insert(nim);
                }
            }
        }
        assert_eq!((withdrawn.len() as u64, added.len() as u64), (moved, moved));

        let mut changed = HashSet::new();
        for table in [ACADEMIC, ATTENDANCE] {
            let rows: HashSet<String> = keys(upserts(&day, table), &["nim"]).into_iter().collect();
            assert_eq!(rows.len(), upserts(&day, table).num_rows(), "a key occurs once in {table}");
            assert!(added.is_subset(&rows));
            changed.extend(rows.difference(&added).cloned());
        }
        assert_eq!(changed.len() as u64, day.summary.changed);
        assert!(changed.iter().all(|nim| known[nim] == "active" && !withdrawn.contains(nim)));
    }
}

#[test]
fn every_changed_row_has_a_new_feature_and_a_later_time_and_some_are_late() {
    let day = SMALL.next_day();
    let mut late = 0;
    for table in [ACADEMIC, ATTENDANCE] {
        let (before, after) = (whole(&SMALL, table), upserts(&day, table));
        let rows: HashMap<String, usize> = keys(&before, &["nim"]).into_iter().zip(0..).collect();
        let newest = times(&before).into_iter().max().expect("rows");
        for (row, nim) in keys(after, &["nim"]).iter().enumerate() {
            let time = times(after)[row];
            let Some(old) = rows.get(nim) else { continue };
            assert!(time > times(&before)[*old]);
            late += usize::from(time < newest);
            let differs = (2..before.num_columns())
                .any(|column| before.column(column).slice(*old, 1) != after.column(column).slice(row, 1));
            assert!(differs, "{nim} in {table}");
        }
        assert!(keys(after, &["nim"]).windows(2).all(|pair| pair[0] < pair[1]), "sorted by key");
    }
    assert!((10..80).contains(&late), "{late}");
}

#[test]
fn the_next_day_is_the_same_every_time() {
    let (one, two) = (SMALL.next_day(), SMALL.next_day());
    assert_eq!(one.upserts, two.upserts);
}

#[test]
fn some_units_have_no_statistics_and_some_have_no_deviation() {
    let statistics = whole(&SMALL, STATISTICS);
    assert_eq!(statistics.num_rows(), 78);
    let deviations = statistics["stddev_amount"].as_primitive::<arrow::datatypes::Float64Type>();
    assert_eq!(deviations.values().iter().filter(|deviation| **deviation == 0.0).count(), 2);
}

#[test]
fn training_sets_have_the_feature_columns_of_the_tables_and_plausible_labels() {
    let dropout = SMALL.training_set("dropout");
    let names: HashSet<String> = dropout.schema().fields().iter().map(|field| field.name().clone()).collect();
    for table in [ACADEMIC, ATTENDANCE] {
        for field in SMALL.schema(table).fields() {
            assert!(names.contains(field.name()), "{}", field.name());
        }
    }
    let labels = dropout["dropout"].as_primitive::<Int32Type>();
    let rate = labels.values().iter().sum::<i32>() as f64 / labels.len() as f64;
    assert!((0.10..0.14).contains(&rate), "{rate}");

    let budget = SMALL.training_set("budget");
    assert_eq!(budget.num_rows(), 80 * 54);
    assert_eq!(budget["label_3m"].null_count(), 0);
    assert_eq!(budget["label_6m"].null_count(), 80 * 3);

    let publication = SMALL.training_set("publication");
    assert!(publication.num_rows() > 700 * 4 && publication.num_rows() <= 700 * 5);
}
