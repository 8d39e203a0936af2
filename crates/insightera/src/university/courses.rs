//! Courses: the mean grade of each semester next to the course's own history,
//! so that a shift stands out. A few semesters are marked much too kindly or
//! much too harshly.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};

use super::University;
use super::calendar::{self, HOUR, SECOND};
use super::column::{self, field, key, time};
use super::draw::{Draw, round};
use super::names::PROGRAMMES;

/// Semester codes (year and half) with the date on which grades are final.
const SEMESTERS: [(&str, i64, i64); 4] =
    [("20241", 2025, 2), ("20242", 2025, 8), ("20251", 2026, 2), ("20252", 2026, 8)];

const TOPICS: &[&str] = &[
    "Pengantar",
    "Metode Penelitian",
    "Statistika Terapan",
    "Seminar",
    "Praktikum",
    "Teori Dasar",
    "Etika Profesi",
    "Analisis Kasus",
    "Perancangan",
    "Kewirausahaan",
    "Komunikasi Ilmiah",
    "Kapita Selekta",
];

struct Row {
    course_id: String,
    semester: &'static str,
    course_nama: String,
    prodi_nama: &'static str,
    class_size: i32,
    mean_grade: Option<f64>,
    history_mean: Option<f64>,
    history_stddev: Option<f64>,
    history_semesters: i32,
    feature_timestamp: i64,
}

/// Four semesters of every course.
pub(super) fn rows(university: &University) -> u64 {
    (university.students / 100).max(25) * SEMESTERS.len() as u64
}

fn row(university: &University, index: u64) -> Row {
    let (course, term) = (index / SEMESTERS.len() as u64, (index % SEMESTERS.len() as u64) as usize);
    let draw = Draw::new(university.seed, "course", course);
    let own = draw.at(term as u64);
    let (semester, year, month) = SEMESTERS[term];
    let usual = 2.95 + 0.28 * draw.normal("usual");
    let width = draw.between("width", 0.06, 0.14);
    let shift = if own.chance("shift", 0.012) {
        own.between("shift size", 4.0, 8.0) * if own.chance("harsh", 0.4) { -1.0 } else { 1.0 }
    } else {
        own.normal("grade")
    };
    let (is_new, is_constant) = (draw.chance("new", 0.04), draw.chance("constant", 0.01));
    Row {
        course_id: format!("MK{:06}", 100_000 + course * 7 + draw.below("gap", 7)),
        semester,
        course_nama: format!("{} {}", draw.choose("topic", TOPICS), 1 + draw.below("part", 4)),
        prodi_nama: PROGRAMMES[draw.pick("programme", &[1.0; PROGRAMMES.len()])].0,
        class_size: 8 + own.poisson("class", draw.between("class", 10.0, 45.0)),
        mean_grade: own.missing("grade missing", 0.01, round((usual + width * shift).clamp(0.0, 4.0), 3)),
        history_mean: (!is_new).then(|| round(usual + 0.2 * width * draw.normal("mean error"), 3)),
        history_stddev: (!is_new)
            .then(|| if is_constant { 0.0 } else { round(width * (1.0 + 0.1 * draw.normal("width error")), 4) }),
        history_semesters: if is_new { term as i32 } else { 8 + draw.below("history", 12) as i32 + term as i32 },
        feature_timestamp: calendar::midnight(year, month, 15) + 9 * HOUR + own.below("final", 36_000) as i64 * SECOND,
    }
}

pub(super) fn schema() -> SchemaRef {
    column::schema(vec![
        key("course_id"),
        key("semester"),
        field("course_nama", DataType::Utf8),
        field("prodi_nama", DataType::Utf8),
        field("class_size", DataType::Int32),
        field("mean_grade", DataType::Float64),
        field("history_mean", DataType::Float64),
        field("history_stddev", DataType::Float64),
        field("history_semesters", DataType::Int32),
        time("feature_timestamp"),
    ])
}

pub(super) fn batch(university: &University, rows: Range<u64>) -> RecordBatch {
    let rows: Vec<Row> = rows.map(|index| row(university, index)).collect();
    let columns = vec![
        column::strings(&rows, |row| &row.course_id),
        column::strings(&rows, |row| row.semester),
        column::strings(&rows, |row| &row.course_nama),
        column::strings(&rows, |row| row.prodi_nama),
        column::ints(&rows, |row| row.class_size),
        column::optional_doubles(&rows, |row| row.mean_grade),
        column::optional_doubles(&rows, |row| row.history_mean),
        column::optional_doubles(&rows, |row| row.history_stddev),
        column::ints(&rows, |row| row.history_semesters),
        column::times(&rows, |row| row.feature_timestamp),
    ];
    column::batch(schema(), columns)
}
