//! Units and what they spend: a budget per year, a spending pattern over the
//! months, surprises that fade, and now and then a project.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, SchemaRef};

use super::University;
use super::calendar::{self, HOUR, LAST_MONTH, SECOND};
use super::column::{self, field, key, time};
use super::draw::{Draw, round};
use super::names::{self, UNIT_KINDS};

/// Spending by month of the year as a multiple of the average month: a slow
/// start and the rush before the books close.
const SEASON: [f64; 12] = [0.35, 0.60, 0.80, 0.95, 1.00, 1.10, 1.00, 0.95, 1.05, 1.15, 1.35, 1.70];

/// How much of last month's surprise is left, and how far back it counts.
const FADE: f64 = 0.72;
const MEMORY: i64 = 12;

/// One unit.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) key: String,
    pub(super) draw: Draw,
    number: u64,
    kind: usize,
    /// Average rupiah per month in the first year.
    level: f64,
    growth: f64,
    /// How strongly the unit follows the season.
    swing: f64,
}

impl Unit {
    pub(super) fn new(university: &University, number: u64) -> Self {
        let draw = Draw::new(university.seed, "unit", number);
        let kind = draw.pick("kind", &UNIT_KINDS.map(|(_, share)| share));
        let size = [0.8, 0.1, 0.0, -0.6][kind];
        Self {
            key: format!("UK{:05}", 10_000 + number),
            draw,
            number,
            kind,
            level: (20.3 + size + 0.9 * draw.normal("level")).exp(),
            growth: 0.05 + 0.04 * draw.normal("growth"),
            swing: [1.0, 1.15, 0.85, 0.7][kind] + 0.15 * draw.normal("swing"),
        }
    }

    /// The budget of a calendar year, in whole millions.
    fn budget(&self, year: i64) -> f64 {
        let years = (year - calendar::FIRST_YEAR) as f64;
        let plan = (0.06 * self.draw.at(year as u64).normal("budget")).exp();
        let amount = self.level * 12.0 * (1.0 + self.growth).powf(years) * plan * 1.06;
        (amount / 1e6).round().max(1.0) * 1e6
    }

    /// What was spent in a counted month.
    pub(super) fn spent(&self, month: i64) -> f64 {
        let season = SEASON[(calendar::month_of_year(month) - 1) as usize].powf(self.swing);
        let lasting: f64 =
            (0..MEMORY).map(|back| FADE.powi(back as i32) * self.month(month - back).normal("surprise")).sum();
        let own = self.month(month);
        let project = if own.chance("project", 0.02) { own.between("project size", 1.5, 2.4) } else { 1.0 };
        let noise = (0.11 * lasting + 0.07 * own.normal("noise")).exp();
        round(self.budget(calendar::year_of(month)) / 12.0 * season * noise * project, 2)
    }

    fn month(&self, month: i64) -> Draw {
        self.draw.at((1_000 + month) as u64)
    }
}

/// What is known about a unit when a month is closed.
#[derive(Debug, Clone)]
pub(super) struct Features {
    pub(super) key: String,
    pub(super) feature_timestamp: i64,
    jenis_unit: &'static str,
    pub(super) jenis_unit_kode: i32,
    pagu: f64,
    realisasi_1m: f64,
    pub(super) realisasi_3m_avg: f64,
    realisasi_6m_avg: f64,
    realisasi_12m_avg: Option<f64>,
    pub(super) utilization_rate: Option<f64>,
    pub(super) trend_3m: Option<f64>,
    pub(super) month_of_year: i32,
    sisa_pagu: Option<f64>,
    pub(super) rasio_1m_3m: f64,
    pub(super) rasio_6m_3m: f64,
    pub(super) rasio_12m_3m: Option<f64>,
    pub(super) rasio_sisa_3m: Option<f64>,
}

/// The features of a unit at the close of a counted month (eleven months of
/// history have to exist).
pub(super) fn features(unit: &Unit, month: i64) -> Features {
    let average = |months: i64| (0..months).map(|back| unit.spent(month - back)).sum::<f64>() / months as f64;
    let (last, quarter) = (unit.spent(month), round(average(3), 2));
    let year = average(12);
    let budget = unit.budget(calendar::year_of(month));
    let so_far: f64 = (0..calendar::month_of_year(month)).map(|back| unit.spent(month - back)).sum();
    let own = unit.month(month);
    let long_known = !own.chance("year missing", 0.03);
    let left_known = !own.chance("rest missing", 0.02);
    Features {
        key: unit.key.clone(),
        // The books close in the first two hours of the next month.
        feature_timestamp: calendar::end_of_month(month)
            + own.below("closed", (2 * HOUR / SECOND) as u64) as i64 * SECOND,
        jenis_unit: UNIT_KINDS[unit.kind].0,
        jenis_unit_kode: unit.kind as i32,
        pagu: budget,
        realisasi_1m: last,
        realisasi_3m_avg: quarter,
        realisasi_6m_avg: round(average(6), 2),
        realisasi_12m_avg: long_known.then(|| round(year, 2)),
        utilization_rate: own.missing("utilization missing", 0.01, round(so_far / budget, 4)),
        trend_3m: own.missing("trend missing", 0.04, round(last / unit.spent(month - 3) - 1.0, 4)),
        month_of_year: calendar::month_of_year(month) as i32,
        sisa_pagu: left_known.then(|| round(budget - so_far, 2)),
        rasio_1m_3m: round(last / quarter, 4),
        rasio_6m_3m: round(average(6) / quarter, 4),
        rasio_12m_3m: long_known.then(|| round(year / quarter, 4)),
        rasio_sisa_3m: left_known.then(|| round((budget - so_far) / quarter, 4)),
    }
}

pub(super) fn feature_schema() -> SchemaRef {
    let mut fields = vec![key("unit_kerja_sk"), time("feature_timestamp")];
    fields.extend([
        field("jenis_unit", DataType::Utf8),
        money("pagu"),
        money("realisasi_1m"),
        money("realisasi_3m_avg"),
        money("realisasi_6m_avg"),
        money("realisasi_12m_avg"),
        field("utilization_rate", DataType::Float64),
        field("trend_3m", DataType::Float64),
        field("month_of_year", DataType::Int32),
        money("sisa_pagu"),
        field("rasio_1m_3m", DataType::Float64),
        field("rasio_6m_3m", DataType::Float64),
        field("rasio_12m_3m", DataType::Float64),
        field("rasio_sisa_3m", DataType::Float64),
    ]);
    column::schema(fields)
}

/// Rupiah.
fn money(name: &str) -> Field {
    field(name, DataType::Float64)
}

pub(super) fn feature_batch(university: &University, units: Range<u64>) -> RecordBatch {
    let rows: Vec<Features> = units.map(|number| features(&Unit::new(university, number), LAST_MONTH)).collect();
    let columns = vec![
        column::strings(&rows, |row| &row.key),
        column::times(&rows, |row| row.feature_timestamp),
        column::strings(&rows, |row| row.jenis_unit),
        column::doubles(&rows, |row| row.pagu),
        column::doubles(&rows, |row| row.realisasi_1m),
        column::doubles(&rows, |row| row.realisasi_3m_avg),
        column::doubles(&rows, |row| row.realisasi_6m_avg),
        column::optional_doubles(&rows, |row| row.realisasi_12m_avg),
        column::optional_doubles(&rows, |row| row.utilization_rate),
        column::optional_doubles(&rows, |row| row.trend_3m),
        column::ints(&rows, |row| row.month_of_year),
        column::optional_doubles(&rows, |row| row.sisa_pagu),
        column::doubles(&rows, |row| row.rasio_1m_3m),
        column::doubles(&rows, |row| row.rasio_6m_3m),
        column::optional_doubles(&rows, |row| row.rasio_12m_3m),
        column::optional_doubles(&rows, |row| row.rasio_sisa_3m),
    ];
    column::batch(feature_schema(), columns)
}

pub(super) fn unit_schema() -> SchemaRef {
    column::schema(vec![key("unit_kerja_sk"), field("unit_kerja_nama", DataType::Utf8)])
}

pub(super) fn unit_batch(university: &University, units: Range<u64>) -> RecordBatch {
    let rows: Vec<(String, String)> = units
        .map(|number| Unit::new(university, number))
        .map(|unit| (unit.key.clone(), names::unit(unit.draw, unit.kind, unit.number + 1)))
        .collect();
    column::batch(unit_schema(), vec![column::strings(&rows, |row| &row.0), column::strings(&rows, |row| &row.1)])
}
