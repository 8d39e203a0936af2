//! The operator.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result as DfResult, plan_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::CastExpr;
use datafusion::physical_expr::{Distribution, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{StreamExt, TryStreamExt};
use insightera_entities::as_of::{Compare, Moments, RightIndex, key_hashes};

type Column = Arc<dyn PhysicalExpr>;

/// One comparison of a match condition.
#[derive(Debug, Clone)]
pub(super) struct MatchOn {
    pub left: Column,
    pub compare: Compare,
    pub right: Column,
}

/// Reads its right side whole, its left side batch by batch.
#[derive(Debug)]
pub(super) struct AsOfJoinExec {
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
    on: Vec<(Column, Column)>,
    conditions: Vec<MatchOn>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl AsOfJoinExec {
    /// # Errors
    /// When a comparison is of values that are neither times nor numbers.
    pub fn new(
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
        on: Vec<(Column, Column)>,
        conditions: Vec<MatchOn>,
    ) -> DfResult<Self> {
        // Both sides of a comparison have one type, else their bytes or
        // numbers would mean different things.
        let same = |l: Column, r: Column| -> DfResult<(Column, Column)> {
            let (from, to) = (r.data_type(&right.schema())?, l.data_type(&left.schema())?);
            Ok(if from == to { (l, r) } else { (l, Arc::new(CastExpr::new(r, to, None)) as Column) })
        };
        let on = on.into_iter().map(|(l, r)| same(l, r)).collect::<DfResult<Vec<_>>>()?;
        let conditions = conditions
            .into_iter()
            .map(|c| {
                check_type(&c.left.data_type(&left.schema())?)?;
                let (l, r) = same(c.left, c.right)?;
                Ok(MatchOn { left: l, compare: c.compare, right: r })
            })
            .collect::<DfResult<Vec<_>>>()?;
        let optional =
            right.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
        let fields = left.schema().fields().iter().map(|f| f.as_ref().clone()).chain(optional).collect::<Vec<_>>();
        let schema = Arc::new(Schema::new(fields));
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            // The left columns come first, so their partitioning holds as it is.
            left.output_partitioning().clone(),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(Self { left, right, on, conditions, schema, properties, metrics: ExecutionPlanMetricsSet::new() })
    }
}

impl DisplayAs for AsOfJoinExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<String> = self.on.iter().map(|(l, r)| format!("{l} = {r}")).collect();
        let conditions: Vec<String> =
            self.conditions.iter().map(|c| format!("{} {} {}", c.left, c.compare.as_str(), c.right)).collect();
        write!(f, "AsOfJoinExec: on=[{}], match=[{}]", on.join(", "), conditions.join(", "))
    }
}

impl ExecutionPlan for AsOfJoinExec {
    fn name(&self) -> &'static str {
        "AsOfJoinExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        if self.on.is_empty() {
            return vec![Distribution::SinglePartition; 2];
        }
        let (left, right) = self.on.iter().cloned().unzip();
        vec![Distribution::HashPartitioned(left), Distribution::HashPartitioned(right)]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.left, &self.right]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let [left, right] = children.as_slice() else {
            return Err(DataFusionError::Internal("an as-of join has two inputs".into()));
        };
        Ok(Arc::new(Self::new(left.clone(), right.clone(), self.on.clone(), self.conditions.clone())?))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let right = self.right.execute(partition, context.clone())?;
        let left = self.left.execute(partition, context.clone())?;
        let memory = MemoryConsumer::new(format!("AsOfJoin[{partition}]")).register(context.memory_pool());
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let (on, conditions, schema) = (self.on.clone(), self.conditions.clone(), self.schema.clone());
        let stream = async move {
            let side = Arc::new(Side::read(right, &on, &conditions, memory).await?);
            Ok::<_, DataFusionError>(left.map(move |batch| {
                let timer = metrics.elapsed_compute().timer();
                let joined = side.join(&batch?, &on, &conditions, &schema)?;
                timer.done();
                metrics.record_output(joined.num_rows());
                Ok(joined)
            }))
        };
        let stream = futures::stream::once(stream).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream)))
    }
}

/// Types that have an order as numbers without loss.
fn check_type(data_type: &DataType) -> DfResult<()> {
    match data_type {
        DataType::Timestamp(..)
        | DataType::Date32
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::Float32
        | DataType::Float64 => Ok(()),
        other => plan_err!("a MATCH_CONDITION compares dates, times or numbers, not {other}: cast both sides"),
    }
}

/// The right side of one partition.
#[derive(Debug)]
struct Side {
    rows: RecordBatch,
    index: RightIndex,
    #[expect(dead_code, reason = "gives the memory back when the side is dropped")]
    memory: MemoryReservation,
}

impl Side {
    async fn read(
        mut input: SendableRecordBatchStream,
        on: &[(Column, Column)],
        conditions: &[MatchOn],
        memory: MemoryReservation,
    ) -> DfResult<Self> {
        let schema = input.schema();
        let mut batches = Vec::new();
        while let Some(batch) = input.try_next().await? {
            // Twice: as they came, and in one piece.
            memory.try_grow(2 * batch.get_array_memory_size())?;
            batches.push(batch);
        }
        let rows = concat_batches(&schema, &batches)?;
        drop(batches);
        if u32::try_from(rows.num_rows()).is_err() {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "one partition of the right side of an ASOF JOIN has {} rows, more than 4 billion",
                rows.num_rows()
            )));
        }
        let keys = on.iter().map(|(_, r)| evaluate(r, &rows)).collect::<DfResult<Vec<_>>>()?;
        let moments = conditions
            .iter()
            .map(|c| Ok(Moments::new(&evaluate(&c.right, &rows)?, c.compare)?))
            .collect::<DfResult<Vec<_>>>()?;
        let compare = conditions.iter().map(|c| c.compare).collect();
        let index = RightIndex::new(&rows, &keys, &moments, compare)?;
        memory.try_resize(rows.get_array_memory_size() + index.bytes())?;
        Ok(Self { rows, index, memory })
    }

    fn join(
        &self,
        batch: &RecordBatch,
        on: &[(Column, Column)],
        conditions: &[MatchOn],
        schema: &SchemaRef,
    ) -> DfResult<RecordBatch> {
        let keys = on.iter().map(|(l, _)| evaluate(l, batch)).collect::<DfResult<Vec<_>>>()?;
        let moments = conditions
            .iter()
            .map(|c| Ok(Moments::new(&evaluate(&c.left, batch)?, c.compare)?))
            .collect::<DfResult<Vec<_>>>()?;
        let matches = self.index.matches(&key_hashes(&keys, batch.num_rows())?, &moments);
        let mut columns = batch.columns().to_vec();
        for column in self.rows.columns() {
            columns.push(take(column, &matches, None)?);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
    }
}

fn evaluate(expression: &Column, batch: &RecordBatch) -> DfResult<ArrayRef> {
    expression.evaluate(batch)?.into_array(batch.num_rows())
}
