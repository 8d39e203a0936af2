//! Financial transactions and what is usual per unit: amounts are skewed,
//! busy units are much busier, and a few payments do not belong.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};

use super::University;
use super::budgets::Unit;
use super::calendar::{CUTOFF, DAY};
use super::column::{self, field, key, time};
use super::draw::{Draw, round};

/// The width of an ordinary payment around the unit's typical one, as the
/// standard deviation of the logarithm.
const SPREAD: f64 = 0.22;

/// One unit in so many has no statistics, another one pays a fixed amount.
const ODD_UNITS: u64 = 40;

/// Payments with something wrong with them.
const ANOMALIES: f64 = 0.003;

/// How a unit pays.
enum Habit {
    /// Log-normal around a typical amount.
    Varied,
    /// The same amount every time, so the deviation is zero.
    Fixed,
    /// Too new for statistics.
    New,
}

fn habit(university: &University, unit: u64) -> Habit {
    match (unit + university.seed) % ODD_UNITS {
        7 => Habit::New,
        23 => Habit::Fixed,
        _ => Habit::Varied,
    }
}

/// The typical payment of a unit in rupiah.
fn typical(unit: &Unit) -> f64 {
    round((15.2 + 0.8 * unit.draw.normal("typical payment")).exp(), 2)
}

/// One payment.
pub(super) struct Payment {
    pub(super) id: String,
    pub(super) unit: String,
    pub(super) amount: f64,
}

struct Transaction {
    payment: Payment,
    time: i64,
}

fn draw(university: &University, row: u64) -> Draw {
    Draw::new(university.seed, "transaction", row)
}

/// The payment of a row; those behind the table's rows are yet to come.
pub(super) fn payment(university: &University, row: u64) -> Payment {
    let draw = draw(university, row);
    // A squared uniform: the first units get most of the payments.
    let number = (draw.unit("unit").powi(2) * university.units as f64) as u64;
    let number = number.min(university.units - 1);
    let unit = Unit::new(university, number);
    let typical = typical(&unit);
    let ordinary = match habit(university, number) {
        Habit::Fixed => typical,
        _ => typical * (SPREAD * draw.normal("amount") - SPREAD * SPREAD / 2.0).exp(),
    };
    let amount = if !draw.chance("anomaly", ANOMALIES) {
        ordinary
    } else if draw.chance("slipped digit", 0.3) {
        ordinary * 10.0
    } else {
        typical * (1.0 + SPREAD * draw.between("excess", 3.6, 9.0))
    };
    let id = format!("TRX{:010}", 1_000_000_000 + row * 3 + draw.below("gap", 3));
    Payment { id, unit: unit.key, amount: round(amount, 2) }
}

fn transaction(university: &University, row: u64) -> Transaction {
    let year = 365.0 * DAY as f64;
    let age = (university.transactions - row) as f64 - draw(university, row).unit("time");
    Transaction {
        payment: payment(university, row),
        time: CUTOFF - (age / university.transactions as f64 * year) as i64,
    }
}

pub(super) fn schema() -> SchemaRef {
    column::schema(vec![
        key("transaksi_id"),
        field("unit_kerja_sk", DataType::Utf8),
        field("jumlah_transaksi", DataType::Float64),
        time("transaction_timestamp"),
    ])
}

pub(super) fn batch(university: &University, rows: Range<u64>) -> RecordBatch {
    let rows: Vec<Transaction> = rows.map(|row| transaction(university, row)).collect();
    let columns = vec![
        column::strings(&rows, |row| &row.payment.id),
        column::strings(&rows, |row| &row.payment.unit),
        column::doubles(&rows, |row| row.payment.amount),
        column::times(&rows, |row| row.time),
    ];
    column::batch(schema(), columns)
}

/// The units that have statistics.
pub(super) fn statistics_units(university: &University) -> Vec<u64> {
    (0..university.units).filter(|unit| !matches!(habit(university, *unit), Habit::New)).collect()
}

pub(super) fn statistics_schema() -> SchemaRef {
    column::schema(vec![
        key("unit_kerja_sk"),
        field("avg_amount", DataType::Float64),
        field("stddev_amount", DataType::Float64),
    ])
}

/// What was usual in the years before: the true mean and deviation with the
/// error of an estimate.
pub(super) fn statistics_batch(university: &University, rows: Range<u64>) -> RecordBatch {
    let units = statistics_units(university);
    let rows: Vec<(String, f64, f64)> = units[rows.start as usize..rows.end as usize]
        .iter()
        .map(|number| {
            let unit = Unit::new(university, *number);
            let typical = typical(&unit);
            if matches!(habit(university, *number), Habit::Fixed) {
                return (unit.key, typical, 0.0);
            }
            let average = typical * (1.0 + 0.01 * unit.draw.normal("average error"));
            let deviation = typical * ((SPREAD * SPREAD).exp() - 1.0).sqrt();
            let deviation = deviation * (1.0 + 0.03 * unit.draw.normal("deviation error"));
            (unit.key, round(average, 2), round(deviation, 2))
        })
        .collect();
    let columns = vec![
        column::strings(&rows, |row| &row.0),
        column::doubles(&rows, |row| row.1),
        column::doubles(&rows, |row| row.2),
    ];
    column::batch(statistics_schema(), columns)
}
