//! The demo university: gold-layer tables made from a seed.
//!
//! Words: a *university* is its size and a seed; a *gold table* is one of its
//! tables; *day one* is the state at 2026-09-01 02:00 UTC, the *next day* is
//! what changed until 24 hours later; a *training set* is history with what
//! came of it.
//!
//! Roles: `draw` turns (seed, stream, row, name) into random values, `students`,
//! `budgets`, `researchers`, `transactions` and `courses` turn rows into facts
//! and facts into columns, `next_day` picks who changes, `training` exports the
//! labels, `events` says what happens live.
//!
//! Flow: a row index becomes hidden causes (aptitude, engagement, means, the
//! level of a unit, the rate of a researcher); these become the observed
//! columns, with noise, missing values and late arrivals; labels follow from
//! the causes and from what was observed, so that models can learn something
//! but not everything.
//!
//! Guarantees: every row is a pure function of the university, the table and
//! the row index (and of the revision on the next day), whatever the batch
//! size and the order. Rows of a table are sorted by its key; keys are unique.
//! Nothing here reads a clock, a file or the environment.

mod budgets;
mod calendar;
mod column;
mod courses;
mod draw;
mod events;
mod names;
mod next_day;
mod researchers;
mod students;
mod training;
mod transactions;

#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

pub use events::{Events, attendance};
pub use next_day::{NextDay, NextDaySummary};

/// The size of the university and the seed of everything in it.
///
/// Student numbers hold six digits per year and programme, which is enough for
/// about twenty million students.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct University {
    /// Students known on day one, of whom about 90% are active.
    pub students: u64,
    /// Organisational units with a budget.
    pub units: u64,
    /// Researchers.
    pub researchers: u64,
    /// Financial transactions of the last twelve months.
    pub transactions: u64,
    /// The same seed gives the same bytes.
    pub seed: u64,
}

impl Default for University {
    fn default() -> Self {
        Self { students: 100_000, units: 400, researchers: 20_000, transactions: 500_000, seed: 42 }
    }
}

/// Where the demo puts a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// An Iceberg table in the project's catalog.
    Iceberg,
    /// A folder of Parquet files.
    ParquetFolder,
}

/// One table of the university.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoldTable {
    /// `namespace.table`.
    pub name: &'static str,
    /// Where the demo puts it.
    pub storage: Storage,
    /// The columns that are unique together, by which the rows are sorted.
    pub key: &'static [&'static str],
    /// For a Parquet folder: the string column whose value belongs into the
    /// directory name (`column=value/`) rather than into the files.
    pub partition_column: Option<&'static str>,
}

const ACADEMIC: &str = "student_features.academic_performance_features";
const ATTENDANCE: &str = "student_features.attendance_features";
const STUDENT: &str = "gold_akademik.dim_mahasiswa_current";
const BUDGET: &str = "financial_features.budget_utilization_features";
const UNIT: &str = "gold_keuangan.dim_unit_kerja_current";
const PUBLICATION: &str = "researcher_features.publication_features";
const RESEARCHER: &str = "gold_sdm.dim_peneliti_current";
const TRANSACTION: &str = "gold_keuangan.transactions";
const STATISTICS: &str = "gold_keuangan.transaction_statistics";
const COURSE: &str = "gold_akademik.course_grade_statistics";

const TABLES: &[GoldTable] = &[
    iceberg(ACADEMIC, &["nim"]),
    iceberg(ATTENDANCE, &["nim"]),
    iceberg(STUDENT, &["nim"]),
    folder(BUDGET, &["unit_kerja_sk"], None),
    iceberg(UNIT, &["unit_kerja_sk"]),
    folder(PUBLICATION, &["peneliti_sk"], Some("jabatan")),
    iceberg(RESEARCHER, &["peneliti_sk"]),
    iceberg(TRANSACTION, &["transaksi_id"]),
    iceberg(STATISTICS, &["unit_kerja_sk"]),
    iceberg(COURSE, &["course_id", "semester"]),
];

const fn iceberg(name: &'static str, key: &'static [&'static str]) -> GoldTable {
    GoldTable { name, storage: Storage::Iceberg, key, partition_column: None }
}

const fn folder(name: &'static str, key: &'static [&'static str], partition_column: Option<&'static str>) -> GoldTable {
    GoldTable { name, storage: Storage::ParquetFolder, key, partition_column }
}

impl University {
    /// A university with `students` students; the rest follows in the
    /// proportions of the default, with a few of everything at least.
    pub fn with_students(students: u64, seed: u64) -> Self {
        Self {
            students,
            units: (students / 250).max(40),
            researchers: (students / 5).max(50),
            transactions: (students * 5).max(200),
            seed,
        }
    }

    /// All tables.
    pub fn tables(&self) -> Vec<GoldTable> {
        TABLES.to_vec()
    }

    /// The columns of a table: strings as `Utf8`, times as microseconds in UTC.
    ///
    /// # Panics
    /// When there is no such table, as the other functions that take a name.
    pub fn schema(&self, table: &str) -> SchemaRef {
        match table {
            ACADEMIC => students::academic_schema(),
            ATTENDANCE => students::attendance_schema(),
            STUDENT => students::identity_schema(),
            BUDGET => budgets::feature_schema(),
            UNIT => budgets::unit_schema(),
            PUBLICATION => researchers::feature_schema(),
            RESEARCHER => researchers::identity_schema(),
            TRANSACTION => transactions::schema(),
            STATISTICS => transactions::statistics_schema(),
            COURSE => courses::schema(),
            other => unknown_table(other),
        }
    }

    /// How many rows a table has on day one.
    pub fn rows(&self, table: &str) -> u64 {
        match table {
            ACADEMIC | ATTENDANCE | STUDENT => self.students,
            BUDGET | UNIT => self.units,
            PUBLICATION | RESEARCHER => self.researchers,
            TRANSACTION => self.transactions,
            STATISTICS => transactions::statistics_units(self).len() as u64,
            COURSE => courses::rows(self),
            other => unknown_table(other),
        }
    }

    /// The rows `start..start + len` of day one (fewer at the end), sorted by
    /// the key like the whole table.
    pub fn batch(&self, table: &str, start: u64, len: usize) -> RecordBatch {
        let end = start.saturating_add(len as u64).min(self.rows(table));
        let rows = start.min(end)..end;
        match table {
            ACADEMIC => students::academic_batch(&students::day_one(self, rows, students::academic)),
            ATTENDANCE => students::attendance_batch(&students::day_one(self, rows, students::attendance)),
            STUDENT => students::identity_batch(&students::day_one(self, rows, students::identity)),
            BUDGET => budgets::feature_batch(self, rows),
            UNIT => budgets::unit_batch(self, rows),
            PUBLICATION => researchers::feature_batch(self, rows),
            RESEARCHER => researchers::identity_batch(self, rows),
            TRANSACTION => transactions::batch(self, rows),
            STATISTICS => transactions::statistics_batch(self, rows),
            COURSE => courses::batch(self, rows),
            other => unknown_table(other),
        }
    }

    /// What changes until the next day: the same every time.
    pub fn next_day(&self) -> NextDay {
        next_day::next_day(self)
    }

    /// History with what came of it: `dropout`, `budget` or `publication`.
    ///
    /// The columns are the entity key, the feature time, the feature columns
    /// of the pipelines and the labels (`training` lists them).
    ///
    /// # Panics
    /// When there is no such set.
    pub fn training_set(&self, name: &str) -> RecordBatch {
        training::training_set(self, name)
    }
}

fn unknown_table(name: &str) -> ! {
    panic!("the university has no table `{name}`")
}
