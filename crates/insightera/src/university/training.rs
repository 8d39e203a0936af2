//! Training sets: what the pipelines' feature SQL yields, with what came of
//! it. Each starts with the entity key and the feature time, by which the
//! holdout is cut; the feature columns have the names and types that the
//! models get when they score.
//!
//! - `dropout`: every student as of day one; `dropout` INT.
//! - `budget`: every unit at every month's close from December 2021 to May
//!   2026; `label_3m` and `label_6m` DOUBLE, the rupiah spent in the three and
//!   six months that followed (null where they are not over).
//! - `publication`: every researcher at the end of the years 2021 to 2025;
//!   `label` INT, the publications of the following year.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};

use super::budgets::{self, Unit};
use super::calendar::LAST_MONTH;
use super::column::{self, field, key, time};
use super::researchers::{self, LAST_YEAR, Researcher};
use super::students::{self, Enrolment, Student};
use super::{ACADEMIC, ATTENDANCE, University};

pub(super) fn training_set(university: &University, name: &str) -> RecordBatch {
    match name {
        "dropout" => dropout(university),
        "budget" => budget(university),
        "publication" => publication(university),
        other => panic!("the university has no training set `{other}`"),
    }
}

fn dropout(university: &University) -> RecordBatch {
    let all = university.students as usize;
    let grades = university.batch(ACADEMIC, 0, all);
    let attendance = university.batch(ATTENDANCE, 0, all);
    let enrolment = Enrolment::new(university.students);
    let labels: Vec<bool> = (0..university.students)
        .map(|row| students::drops_out(&Student::of_row(university, &enrolment, row)))
        .collect();

    let mut fields: Vec<Field> = grades.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut columns: Vec<ArrayRef> = grades.columns().to_vec();
    // The key and the time are there already.
    fields.extend(students::attendance_features());
    columns.extend(attendance.columns()[2..].iter().cloned());
    fields.push(field("dropout", DataType::Int32));
    columns.push(column::ints(&labels, |left| i32::from(*left)));
    column::batch(column::schema(fields), columns)
}

fn budget(university: &University) -> RecordBatch {
    struct Row {
        features: budgets::Features,
        next_three: f64,
        next_six: Option<f64>,
    }
    let mut rows = Vec::new();
    for unit in (0..university.units).map(|number| Unit::new(university, number)) {
        for month in 11..=LAST_MONTH - 3 {
            let next = |months: i64| (1..=months).map(|ahead| unit.spent(month + ahead)).sum::<f64>();
            rows.push(Row {
                features: budgets::features(&unit, month),
                next_three: next(3),
                next_six: (month + 6 <= LAST_MONTH).then(|| next(6)),
            });
        }
    }
    let schema = column::schema(vec![
        key("unit_kerja_sk"),
        time("feature_timestamp"),
        field("realisasi_3m_avg", DataType::Float64),
        field("jenis_unit_kode", DataType::Int32),
        field("month_of_year", DataType::Int32),
        field("utilization_rate", DataType::Float64),
        field("trend_3m", DataType::Float64),
        field("rasio_1m_3m", DataType::Float64),
        field("rasio_6m_3m", DataType::Float64),
        field("rasio_12m_3m", DataType::Float64),
        field("rasio_sisa_3m", DataType::Float64),
        field("label_3m", DataType::Float64),
        field("label_6m", DataType::Float64),
    ]);
    let columns = vec![
        column::strings(&rows, |row| &row.features.key),
        column::times(&rows, |row| row.features.feature_timestamp),
        column::doubles(&rows, |row| row.features.realisasi_3m_avg),
        column::ints(&rows, |row| row.features.jenis_unit_kode),
        column::ints(&rows, |row| row.features.month_of_year),
        column::optional_doubles(&rows, |row| row.features.utilization_rate),
        column::optional_doubles(&rows, |row| row.features.trend_3m),
        column::doubles(&rows, |row| row.features.rasio_1m_3m),
        column::doubles(&rows, |row| row.features.rasio_6m_3m),
        column::optional_doubles(&rows, |row| row.features.rasio_12m_3m),
        column::optional_doubles(&rows, |row| row.features.rasio_sisa_3m),
        column::doubles(&rows, |row| row.next_three),
        column::optional_doubles(&rows, |row| row.next_six),
    ];
    column::batch(schema, columns)
}

fn publication_schema() -> SchemaRef {
    column::schema(vec![
        key("peneliti_sk"),
        time("feature_timestamp"),
        field("jabatan_kode", DataType::Int32),
        field("pub_y1", DataType::Int32),
        field("pub_y2", DataType::Int32),
        field("pub_y3", DataType::Int32),
        field("pub_total_5y", DataType::Int32),
        field("citations", DataType::Int32),
        field("h_index", DataType::Int32),
        field("grants_active", DataType::Int32),
        field("years_active", DataType::Int32),
        field("sinta_score", DataType::Float64),
        field("label", DataType::Int32),
    ])
}

fn publication(university: &University) -> RecordBatch {
    let mut rows: Vec<(researchers::Features, i32)> = Vec::new();
    for researcher in (0..university.researchers).map(|row| Researcher::new(university, row)) {
        for year in (LAST_YEAR - 5..LAST_YEAR).filter(|year| researcher.known_in(*year)) {
            rows.push((researchers::features(&researcher, year), researcher.publications(year + 1)));
        }
    }
    let columns = vec![
        column::strings(&rows, |row| &row.0.key),
        column::times(&rows, |row| row.0.feature_timestamp),
        column::ints(&rows, |row| row.0.jabatan_kode),
        column::ints(&rows, |row| row.0.pub_y1),
        column::ints(&rows, |row| row.0.pub_y2),
        column::ints(&rows, |row| row.0.pub_y3),
        column::ints(&rows, |row| row.0.pub_total_5y),
        column::optional_ints(&rows, |row| row.0.citations),
        column::optional_ints(&rows, |row| row.0.h_index),
        column::ints(&rows, |row| row.0.grants_active),
        column::optional_ints(&rows, |row| row.0.years_active),
        column::optional_doubles(&rows, |row| row.0.sinta_score),
        column::ints(&rows, |row| row.1),
    ];
    column::batch(publication_schema(), columns)
}
