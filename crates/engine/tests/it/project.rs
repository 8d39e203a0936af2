//! A small project in a temporary folder: two inputs, one rule.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use iceberg::spec::Operation;
use insightera_core::ManualClock;
use insightera_engine::config::Overrides;
use insightera_engine::lake::commit::{self, Change};
use insightera_engine::lake::{NewTable, Table, TableName, schema::Column, schema::timestamptz, upsert};
use insightera_engine::score::{self, Plan, Reporter, RunOptions, RunReport, VerifyReport};
use insightera_engine::{Result, Workspace, sql};

/// Microseconds of 2026-01-01T00:00:00Z.
pub const START: i64 = 1_767_225_600_000_000;

pub const PIPELINE: &str = r#"
kind = "batch"
[entity]
key = ["nim"]
[features]
sql = """
SELECT g.nim, g.gpa, a.rate, g.feature_timestamp
FROM gold.grades g JOIN gold.attendance a ON g.nim = a.nim
"""
feature_time = "feature_timestamp"
[output]
table = "ml.risk"
partition_by = ["days(prediction_date)"]
[output.columns]
nim = "nim"
risk = "CASE WHEN gpa < 2 OR rate < 0.5 THEN 1.0 ELSE 0.0 END"
feature_timestamp = "feature_timestamp"
"#;

/// Says how much a test has covered, to who reads its output with `--nocapture`.
#[cfg(feature = "faults")]
#[expect(clippy::print_stdout, reason = "it is read by people")]
pub fn tell(what: std::fmt::Arguments<'_>) {
    println!("{what}");
}

pub struct TestProject {
    pub folder: PathBuf,
    pub clock: Arc<ManualClock>,
    pub workspace: Workspace,
    _temp: Option<tempfile::TempDir>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub nim: String,
    pub reason: String,
    pub run_id: String,
    pub risk: Option<f64>,
}

impl TestProject {
    pub fn new(pipeline: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut project = Self::at(temp.path(), pipeline);
        project._temp = Some(temp);
        project
    }

    /// With a memory limit so small that inputs are cut into shards.
    pub fn with_little_memory(pipeline: &str) -> Self {
        let mut project = Self::new(pipeline);
        let settings = project.folder.join("insightera.toml");
        let text = std::fs::read_to_string(&settings).unwrap();
        std::fs::write(&settings, text.replace("[run]\n", "[run]\nmemory = \"1MB\"\n")).unwrap();
        project.reopen();
        project
    }

    /// The same project with memory enough for the test's own queries.
    pub fn roomy(&self) -> Self {
        let overrides = Overrides { memory_bytes: Some(1 << 30), ..Overrides::default() };
        let workspace = Workspace::open(&self.folder, overrides, self.clock.clone()).unwrap();
        Self { folder: self.folder.clone(), clock: self.clock.clone(), workspace, _temp: None }
    }

    pub fn at(folder: &Path, pipeline: &str) -> Self {
        std::fs::create_dir_all(folder.join("pipelines")).unwrap();
        std::fs::write(
            folder.join("insightera.toml"),
            "format = 1\n[run]\nthreads = 2\n[inputs.\"files.extra\"]\nparquet = \"gold/extra\"\n",
        )
        .unwrap();
        std::fs::write(folder.join("pipelines/risk.toml"), pipeline).unwrap();
        let clock = Arc::new(ManualClock::new(START));
        let workspace = Workspace::create(folder, Overrides::default(), clock.clone()).unwrap();
        Self { folder: folder.to_owned(), clock, workspace, _temp: None }
    }

    pub fn reopen(&mut self) {
        self.workspace = Workspace::open(&self.folder, Overrides::default(), self.clock.clone()).unwrap();
    }

    pub fn set_pipeline(&mut self, pipeline: &str) {
        std::fs::write(self.folder.join("pipelines/risk.toml"), pipeline).unwrap();
        self.reopen();
    }

    pub fn name(table: &str) -> TableName {
        TableName::parse(table).unwrap()
    }

    pub fn table(&self, table: &str) -> Table {
        self.workspace.lake().table(&Self::name(table)).unwrap()
    }

    /// `gold.grades` and `gold.attendance` with `count` students.
    pub fn seed(&self, count: usize) {
        let grades = self.create("gold.grades", grades_columns());
        let attendance = self.create("gold.attendance", attendance_columns());
        upsert::append(self.workspace.lake(), &grades, &[grades_rows(0..count, 0.0)], &["nim".into()]).unwrap();
        upsert::append(self.workspace.lake(), &attendance, &[attendance_rows(0..count)], &["nim".into()]).unwrap();
    }

    pub fn create(&self, table: &str, columns: Vec<Column>) -> Table {
        let (partition_by, properties) = Default::default();
        let new = NewTable { name: Self::name(table), columns, partition_by, properties, location: None };
        self.workspace.lake().create_table(&new).unwrap()
    }

    pub fn append(&self, table: &str, rows: RecordBatch) {
        upsert::append(self.workspace.lake(), &self.table(table), &[rows], &["nim".into()]).unwrap();
    }

    pub fn upsert(&self, table: &str, rows: RecordBatch) {
        upsert::upsert(self.workspace.lake(), &self.table(table), &rows, &["nim".into()]).unwrap();
    }

    /// Deletes the rows that have these values, by an equality delete file.
    pub fn delete_by_value(&self, table: &str, values: RecordBatch) {
        let table = self.table(table);
        let mut change = Change::append(&table, Vec::new());
        change.operation = Operation::Delete;
        change.deletes.push(upsert::equality_delete_file(&table, &values).unwrap());
        commit::commit(self.workspace.lake(), &change).unwrap();
    }

    fn tick(&self) {
        self.clock.advance(60_000_000);
    }

    pub fn try_run(&self, options: &RunOptions) -> Result<RunReport> {
        self.tick();
        block_on(score::run(&self.workspace, "risk", options, &Reporter::silent()))
    }

    pub fn run(&self) -> RunReport {
        self.try_run(&RunOptions::default()).unwrap()
    }

    pub fn plan(&self) -> Plan {
        block_on(score::plan(&self.workspace, "risk", &RunOptions::default())).unwrap()
    }

    pub fn verify(&self) -> VerifyReport {
        block_on(score::verify(&self.workspace, "risk")).unwrap()
    }

    pub fn assert_verified(&self) {
        let report = self.verify();
        assert!(report.ok, "{report:?}");
    }

    pub fn query(&self, text: &str) -> Vec<RecordBatch> {
        block_on(sql::query(&self.workspace, text)).unwrap().batches
    }

    /// Runs statements, also those that write; a minute passes before each.
    pub fn shell(&self, statements: &[&str]) {
        let mut shell = sql::Shell::new(&self.workspace);
        for statement in statements {
            self.tick();
            block_on(shell.run(statement)).unwrap_or_else(|e| panic!("{statement}\n{e}"));
        }
    }

    /// The values of a query as text, null as `-`, sorted.
    pub fn texts(&self, text: &str) -> Vec<String> {
        let mut rows = Vec::new();
        for batch in self.query(text) {
            let columns: Vec<_> = batch.columns().iter().map(|c| cast(c, &DataType::Utf8).unwrap()).collect();
            for row in 0..batch.num_rows() {
                let value = |c: &Arc<dyn Array>| match c.is_null(row) {
                    true => "-".to_owned(),
                    false => c.as_string::<i32>().value(row).to_owned(),
                };
                rows.push(columns.iter().map(value).collect::<Vec<_>>().join(" "));
            }
        }
        rows.sort();
        rows
    }

    /// Declares a feature view.
    pub fn feature_view(&mut self, name: &str, text: &str) {
        std::fs::create_dir_all(self.folder.join("feature_views")).unwrap();
        std::fs::write(self.folder.join(format!("feature_views/{name}.toml")), text).unwrap();
        self.reopen();
    }

    pub fn query_error(&self, text: &str) -> String {
        let error = block_on(sql::query(&self.workspace, text)).unwrap_err();
        format!("{error}\nhint: {}", error.get_hint().unwrap_or("-"))
    }

    pub fn count(&self, text: &str) -> i64 {
        let batches = self.query(text);
        let column = cast(batches[0].column(0), &DataType::Int64).unwrap();
        column.as_primitive::<arrow::datatypes::Int64Type>().value(0)
    }

    /// All rows of `ml.risk`, oldest run first, sorted by key within a run.
    pub fn rows(&self) -> Vec<Row> {
        let batches = self.query("SELECT nim, score_reason, run_id, risk FROM ml.risk ORDER BY run_id, nim");
        let mut rows = Vec::new();
        for batch in batches {
            let text = |i: usize| cast(batch.column(i), &DataType::Utf8).unwrap();
            let (nim, reason, run) = (text(0), text(1), text(2));
            let risk = batch.column(3).as_primitive::<arrow::datatypes::Float64Type>().clone();
            for row in 0..batch.num_rows() {
                rows.push(Row {
                    nim: nim.as_string::<i32>().value(row).to_owned(),
                    reason: reason.as_string::<i32>().value(row).to_owned(),
                    run_id: run.as_string::<i32>().value(row).to_owned(),
                    risk: (!risk.is_null(row)).then(|| risk.value(row)),
                });
            }
        }
        rows
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

pub fn nim(index: usize) -> String {
    format!("{:08}", (index * 7919) % 100_000_007)
}

/// Students as the values of one column.
pub fn nims(students: &[usize]) -> RecordBatch {
    let nims: ArrayRef = Arc::new(StringArray::from_iter_values(students.iter().map(|student| nim(*student))));
    RecordBatch::try_from_iter([("nim", nims)]).unwrap()
}

pub fn grades_columns() -> Vec<Column> {
    vec![
        Column::required("nim", DataType::Utf8),
        Column::nullable("gpa", DataType::Float64),
        Column::nullable("feature_timestamp", timestamptz()),
    ]
}

pub fn attendance_columns() -> Vec<Column> {
    vec![
        Column::required("nim", DataType::Utf8),
        Column::nullable("rate", DataType::Float64),
        Column::nullable("events", DataType::Int64),
    ]
}

pub fn grades_rows(students: impl Iterator<Item = usize> + Clone, shift: f64) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("nim", DataType::Utf8, false),
        Field::new("gpa", DataType::Float64, true),
        Field::new("feature_timestamp", timestamptz(), true),
    ]);
    let nims = StringArray::from_iter_values(students.clone().map(nim));
    let gpa: Float64Array =
        students.clone().map(|i| (i % 11 != 0).then(|| 1.0 + (i % 30) as f64 / 10.0 + shift)).collect();
    let times = TimestampMicrosecondArray::from_iter_values(students.map(|i| START - i as i64)).with_timezone("UTC");
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(nims), Arc::new(gpa), Arc::new(times)]).unwrap()
}

pub fn attendance_rows(students: impl Iterator<Item = usize> + Clone) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("nim", DataType::Utf8, false),
        Field::new("rate", DataType::Float64, true),
        Field::new("events", DataType::Int64, true),
    ]);
    let nims = StringArray::from_iter_values(students.clone().map(nim));
    let rate = Float64Array::from_iter_values(students.clone().map(|i| (i % 10) as f64 / 10.0));
    let events = Int64Array::from_iter_values(students.map(|i| (i % 5) as i64));
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(nims), Arc::new(rate), Arc::new(events)]).unwrap()
}
