//! Researchers: a rate of publishing each, good and bad years, grants that
//! bear fruit the year after.
//!
//! A *year* here is the twelve months up to the end of August: year 2026 is
//! the last one known.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};

use super::University;
use super::calendar::{self, HOUR, SECOND};
use super::column::{self, field, key, time};
use super::draw::{Draw, round};
use super::names;

/// The last year whose publications are known.
pub(super) const LAST_YEAR: i64 = 2026;

/// Academic ranks; the position plus one is the code in the model.
const RANKS: [&str; 4] = ["asisten_ahli", "lektor", "lektor_kepala", "guru_besar"];

/// One researcher.
#[derive(Debug, Clone)]
pub(super) struct Researcher {
    pub(super) key: String,
    pub(super) draw: Draw,
    rank: usize,
    /// The year of the first appointment.
    start: i64,
    rate: f64,
}

impl Researcher {
    pub(super) fn new(university: &University, row: u64) -> Self {
        let draw = Draw::new(university.seed, "researcher", row);
        let talent = draw.normal("talent");
        let years = 1 + draw.below("years", 34) as i64;
        let standing = 0.09 * years as f64 + 0.6 * talent + 0.6 * draw.normal("rank");
        let rank = [0.9, 2.3, 3.3].iter().filter(|bound| standing > **bound).count();
        Self {
            key: format!("P{:07}", 1_000_000 + row * 4 + draw.below("gap", 4)),
            draw,
            rank,
            start: LAST_YEAR - years,
            rate: (-0.25 + 0.62 * talent + 0.22 * rank as f64).exp(),
        }
    }

    /// Whether the researcher was there for at least one full year.
    pub(super) fn known_in(&self, year: i64) -> bool {
        year > self.start
    }

    /// Publications of a year.
    pub(super) fn publications(&self, year: i64) -> i32 {
        if !self.known_in(year) {
            return 0;
        }
        let mood: f64 = (0..4).map(|back| 0.65f64.powi(back) * self.year(year - i64::from(back)).normal("mood")).sum();
        let funded = 1.0 + 0.18 * f64::from(self.grants(year - 1));
        let growth = 1.03f64.powf((year - LAST_YEAR) as f64);
        self.year(year).poisson("publications", self.rate * (0.22 * mood).exp() * funded * growth)
    }

    /// Grants running at the end of a year.
    fn grants(&self, year: i64) -> i32 {
        self.year(year).poisson("grants", 0.35 * self.rate.sqrt()).min(6)
    }

    fn year(&self, year: i64) -> Draw {
        self.draw.at(year as u64)
    }
}

/// What is known about a researcher at the end of a year.
#[derive(Debug, Clone)]
pub(super) struct Features {
    pub(super) key: String,
    pub(super) feature_timestamp: i64,
    jabatan: &'static str,
    pub(super) jabatan_kode: i32,
    pub(super) pub_y1: i32,
    pub(super) pub_y2: i32,
    pub(super) pub_y3: i32,
    pub(super) pub_total_5y: i32,
    pub(super) citations: Option<i32>,
    pub(super) h_index: Option<i32>,
    pub(super) grants_active: i32,
    pub(super) years_active: Option<i32>,
    pub(super) sinta_score: Option<f64>,
}

/// The features of a researcher at the end of a year.
pub(super) fn features(researcher: &Researcher, year: i64) -> Features {
    let recent: [i32; 5] = std::array::from_fn(|back| researcher.publications(year - back as i64));
    let total: i32 = recent.iter().sum();
    let own = researcher.year(year);
    let years = (year - researcher.start) as i32;
    let impact = (1.3 + 0.5 * researcher.draw.normal("impact")).exp();
    let citations = own.poisson("citations", f64::from(total) * impact);
    let life_work = f64::from(total) * f64::from(years.min(20)) / 5.0;
    let age = own.below("age", 20 * 3_600) as i64 * SECOND;
    Features {
        key: researcher.key.clone(),
        feature_timestamp: calendar::midnight(year, 9, 1) + HOUR - age,
        jabatan: RANKS[researcher.rank],
        jabatan_kode: researcher.rank as i32 + 1,
        pub_y1: recent[0],
        pub_y2: recent[1],
        pub_y3: recent[2],
        pub_total_5y: total,
        citations: own.missing("citations missing", 0.02, citations),
        h_index: own.missing("h-index missing", 0.04, (life_work * impact / 3.0).sqrt() as i32),
        grants_active: researcher.grants(year),
        years_active: researcher.draw.missing("years missing", 0.02, years),
        sinta_score: own.missing(
            "sinta missing",
            0.06,
            round(40.0 * f64::from(total) + 1.5 * f64::from(citations) + 60.0 * own.unit("sinta"), 1),
        ),
    }
}

pub(super) fn feature_schema() -> SchemaRef {
    column::schema(vec![
        key("peneliti_sk"),
        time("feature_timestamp"),
        field("jabatan", DataType::Utf8),
        field("pub_y1", DataType::Int32),
        field("pub_y2", DataType::Int32),
        field("pub_y3", DataType::Int32),
        field("pub_total_5y", DataType::Int32),
        field("citations", DataType::Int32),
        field("h_index", DataType::Int32),
        field("grants_active", DataType::Int32),
        field("years_active", DataType::Int32),
        field("sinta_score", DataType::Float64),
    ])
}

pub(super) fn feature_batch(university: &University, rows: Range<u64>) -> RecordBatch {
    let rows: Vec<Features> = rows.map(|row| features(&Researcher::new(university, row), LAST_YEAR)).collect();
    let columns = vec![
        column::strings(&rows, |row| &row.key),
        column::times(&rows, |row| row.feature_timestamp),
        column::strings(&rows, |row| row.jabatan),
        column::ints(&rows, |row| row.pub_y1),
        column::ints(&rows, |row| row.pub_y2),
        column::ints(&rows, |row| row.pub_y3),
        column::ints(&rows, |row| row.pub_total_5y),
        column::optional_ints(&rows, |row| row.citations),
        column::optional_ints(&rows, |row| row.h_index),
        column::ints(&rows, |row| row.grants_active),
        column::optional_ints(&rows, |row| row.years_active),
        column::optional_doubles(&rows, |row| row.sinta_score),
    ];
    column::batch(feature_schema(), columns)
}

pub(super) fn identity_schema() -> SchemaRef {
    column::schema(vec![key("peneliti_sk"), field("peneliti_nama", DataType::Utf8)])
}

pub(super) fn identity_batch(university: &University, rows: Range<u64>) -> RecordBatch {
    let rows: Vec<(String, String)> = rows
        .map(|row| Researcher::new(university, row))
        .map(|researcher| {
            let title = ["", "Dr. ", "Dr. ", "Prof. Dr. "][researcher.rank];
            (researcher.key.clone(), format!("{title}{}", names::person(researcher.draw)))
        })
        .collect();
    column::batch(identity_schema(), vec![column::strings(&rows, |row| &row.0), column::strings(&rows, |row| &row.1)])
}
