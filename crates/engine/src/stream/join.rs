//! Features from the lake, looked up by key: a query over pinned inputs, its
//! rows in memory, replaced as a whole when an input has a newer snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, new_empty_array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;

use crate::config::{JoinSettings, StreamPipeline};
use crate::key::{KeyHash, Keys, check_key_type};
use crate::lake::TableName;
use crate::score::{Consumed, Inputs, Reads, clock_functions, reads_of};
use crate::sql::{plan_error, session};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// A checked query.
#[derive(Debug, Clone)]
pub struct Join {
    settings: JoinSettings,
    what: String,
    reads: Reads,
    /// The columns that a look-up gives.
    pub fields: Vec<Field>,
}

/// The rows of the query at some moment.
#[derive(Debug)]
pub struct JoinTable {
    /// What it was made of.
    pub inputs: BTreeMap<String, Consumed>,
    /// When, microseconds UTC.
    pub loaded: i64,
    key: Vec<String>,
    columns: Vec<ArrayRef>,
    index: Index,
}

impl Join {
    /// Plans the query and checks its key against the event's columns.
    ///
    /// # Errors
    /// When the query is wrong, or its key is not the event's.
    pub async fn new(
        workspace: &Workspace,
        pipeline: &StreamPipeline,
        settings: &JoinSettings,
        event: &Schema,
    ) -> Result<Self> {
        let file = pipeline.file.display();
        let what = match &settings.sql_file {
            Some(file) => file.display().to_string(),
            None => format!("{file}: [join] sql"),
        };
        let reads = reads_of(workspace, &what, &settings.sql, &settings.time_zone)?;
        if let Some(view) = reads.views.first() {
            return Err(Error::invalid(format!(
                "{what}: it reads the feature view `{}`, whose rows depend on a time",
                view.name
            ))
            .hint(format!("read `{}` itself: a stream joins the newest features there are", view.table)));
        }
        let mut join = Self { settings: settings.clone(), what, reads, fields: Vec::new() };
        let (_, plan, _) = join.plan(workspace, None).await?;
        if let Some(name) = clock_functions(&plan).first() {
            return Err(Error::invalid(format!(
                "{}: it calls `{name}()`, which gives another answer every time",
                join.what
            ))
            .hint("features must be a function of the inputs"));
        }
        let schema = plan.schema().as_arrow().clone();
        for name in &settings.key {
            let Ok(field) = schema.field_with_name(name) else {
                return Err(Error::invalid(format!("{}: it yields no column `{name}`, which is its key", join.what))
                    .hint(format!("add `{name}` to the SELECT list")));
            };
            check_key_type(name, field.data_type())?;
            let of_event = event.field_with_name(name).map_err(|e| Error::internal(e.to_string()))?;
            if class(field.data_type()) != class(of_event.data_type()) {
                return Err(Error::invalid(format!(
                    "{}: its key `{name}` is {}, and {} in the event: they never meet",
                    join.what,
                    field.data_type(),
                    of_event.data_type()
                ))
                .hint("cast it in the SELECT list, or declare the field with the other type"));
            }
        }
        join.fields = schema
            .fields()
            .iter()
            .filter(|field| !settings.key.contains(field.name()))
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        Ok(join)
    }

    /// The query over the newest inputs, or those that were `consumed`.
    async fn plan(
        &self,
        workspace: &Workspace,
        consumed: Option<&BTreeMap<String, Consumed>>,
    ) -> Result<(SessionContext, LogicalPlan, Inputs)> {
        let failed = |e| plan_error(&self.what, &self.settings.sql, e);
        let mut inputs = Inputs::pin(workspace, self.reads.clone(), None)?;
        if let Some(consumed) = consumed {
            inputs.pin_again(consumed)?;
        }
        let context = session(workspace, &self.settings.time_zone)?;
        for (name, scan) in inputs.scans(&BTreeMap::new())? {
            crate::sql::put(&context, &TableName::parse(&name)?, Arc::new(scan) as Arc<dyn TableProvider>)?;
        }
        let plan = context.state().create_logical_plan(&self.settings.sql).await.map_err(failed)?;
        if matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_))
        {
            return Err(Error::invalid(format!("{}: it must be a SELECT", self.what)));
        }
        Ok((context, plan, inputs))
    }

    /// Whether an input has changed since `before`.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn is_stale(&self, workspace: &Workspace, before: &JoinTable) -> Result<bool> {
        Ok(!Inputs::pin(workspace, self.reads.clone(), None)?.same_as(&before.inputs))
    }

    /// Runs the query on the newest snapshots.
    ///
    /// # Errors
    /// When it fails, or gives two rows for a key.
    pub async fn load(&self, workspace: &Workspace) -> Result<JoinTable> {
        self.load_from(workspace, None).await
    }

    /// Runs the query on the inputs that were consumed before.
    ///
    /// # Errors
    /// As [`Join::load`], and when an input is not there any more as it was.
    pub async fn load_again(&self, workspace: &Workspace, consumed: &BTreeMap<String, Consumed>) -> Result<JoinTable> {
        self.load_from(workspace, Some(consumed)).await
    }

    /// The rows of the query, in one batch.
    async fn rows(
        &self,
        workspace: &Workspace,
        consumed: Option<&BTreeMap<String, Consumed>>,
        by_hashes: bool,
    ) -> std::result::Result<(Inputs, RecordBatch), NoRows> {
        let (context, plan, inputs) = self.plan(workspace, consumed).await?;
        context.state_ref().write().config_mut().options_mut().optimizer.prefer_hash_join = by_hashes;
        let frame = DataFrame::new(context.state(), plan);
        let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await.map_err(|e| match e.find_root() {
            DataFusionError::ResourcesExhausted(_) => NoRows::Memory(e),
            _ => NoRows::Other(plan_error(&self.what, &self.settings.sql, e)),
        })?;
        drop(context);
        let rows = in_one(&schema, batches)
            .map_err(|e| Error::internal(format!("{}: its rows do not fit together: {e}", self.what)).cause(e))?;
        Ok((inputs, rows))
    }

    async fn load_from(
        &self,
        workspace: &Workspace,
        consumed: Option<&BTreeMap<String, Consumed>>,
    ) -> Result<JoinTable> {
        let (inputs, rows) = match self.rows(workspace, consumed, true).await {
            // A join by hashes has one side in memory, one by sorting has not.
            Err(NoRows::Memory(_)) => self.rows(workspace, consumed, false).await,
            other => other,
        }
        .map_err(|e| match e {
            NoRows::Memory(e) => plan_error(&self.what, &self.settings.sql, e),
            NoRows::Other(e) => e,
        })?;
        let keys = Keys::new(&rows, &self.settings.key)?;
        let mut index = Index::new(keys.hashes());
        for row in (0..rows.num_rows()).filter(|row| !keys.is_null(*row)) {
            if !index.insert(row as u32) {
                return Err(Error::data(format!(
                    "{}: it yields two rows for the key `{}`",
                    self.what,
                    keys.display(row)
                ))
                .hint("make the query yield one row per key"));
            }
        }
        let columns = self.fields.iter().map(|field| {
            let column = rows.column_by_name(field.name()).cloned();
            column.ok_or_else(|| Error::internal(format!("{}: no column `{}`", self.what, field.name())))
        });
        let columns = columns.collect::<Result<_>>()?;
        drop(rows);
        crate::memory::give_back();
        Ok(JoinTable {
            inputs: inputs.consumed(&BTreeMap::new()),
            loaded: workspace.clock().now_micros(),
            key: self.settings.key.clone(),
            columns,
            index,
        })
    }
}

/// Rows by the hashes of their keys. Places hold a row's number plus 1, or 0: a
/// row takes 22 to 28 bytes.
#[derive(Debug)]
struct Index {
    hashes: Vec<KeyHash>,
    places: Vec<u32>,
}

impl Index {
    fn new(hashes: Vec<KeyHash>) -> Self {
        // At least a third of the places are free.
        let places = (hashes.len() * 3 / 2 + 1).next_power_of_two();
        Self { places: vec![0; places], hashes }
    }

    /// The place of a hash, or the free one where it would be.
    fn place(&self, hash: KeyHash) -> usize {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        while let Some(row) = self.places[at].checked_sub(1) {
            if self.hashes[row as usize] == hash {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    fn find(&self, hash: KeyHash) -> Option<u32> {
        self.places[self.place(hash)].checked_sub(1)
    }

    /// Enters a row; false where another one has its key.
    fn insert(&mut self, row: u32) -> bool {
        let at = self.place(self.hashes[row as usize]);
        let free = self.places[at] == 0;
        if free {
            self.places[at] = row + 1;
        }
        free
    }
}

/// Why a query gave no rows.
enum NoRows {
    /// It took more memory than it may.
    Memory(DataFusionError),
    Other(Error),
}

impl From<Error> for NoRows {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// One batch of all rows, made column by column: what a column was made of goes
/// before the next one is made.
fn in_one(schema: &SchemaRef, batches: Vec<RecordBatch>) -> std::result::Result<RecordBatch, ArrowError> {
    let count = batches.iter().map(RecordBatch::num_rows).sum();
    let mut parts: Vec<Vec<ArrayRef>> = schema.fields().iter().map(|_| Vec::with_capacity(batches.len())).collect();
    for batch in batches {
        let (_, columns, _) = batch.into_parts();
        parts.iter_mut().zip(columns).for_each(|(parts, column)| parts.push(column));
    }
    let columns = parts.into_iter().zip(schema.fields()).map(|(parts, field)| {
        if parts.is_empty() {
            return Ok(new_empty_array(field.data_type()));
        }
        let column = concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?;
        // Strings that were read with others hold on to all of them.
        Ok::<ArrayRef, ArrowError>(match field.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => column,
        })
    });
    let columns = columns.collect::<std::result::Result<_, _>>()?;
    RecordBatch::try_new_with_options(schema.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(count)))
}

impl JoinTable {
    /// The features of every row of a batch; null where there are none.
    ///
    /// # Errors
    /// Never for batches of the checked event.
    pub fn look_up(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let hashes = Keys::new(batch, &self.key)?.hashes();
        let rows: UInt32Array = hashes.iter().map(|hash| self.index.find(*hash)).collect();
        let taken = self.columns.iter().map(|column| take(column, &rows, None));
        taken.collect::<Result<_, _>>().map_err(|e| Error::internal(format!("features by key: {e}")).cause(e))
    }
}

/// Types of one class have one encoding.
fn class(data_type: &DataType) -> u8 {
    match data_type {
        DataType::Dictionary(_, value) => class(value),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => 1,
        DataType::Date32 => 2,
        DataType::Boolean => 3,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => 4,
        other if other.is_integer() => 5,
        _ => 0,
    }
}
