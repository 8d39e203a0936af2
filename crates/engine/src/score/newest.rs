//! `duplicates = "latest"`: the newest row of every entity, without a window.
//!
//! The query says it as `newest() OVER (PARTITION BY key ORDER BY time DESC) = 1`,
//! a window function that is SQL's `rank` by another name, which every part of
//! the planner understands. What runs is [`NewestExec`] in the window's place:
//! its input is sorted as the window needs it, so a row is passed on if it is
//! the first of its key, or as new as the first. Of rows with one time none
//! wins: all are passed, and the run says that there are several.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{FieldRef, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::functions_window::rank::rank_udwf;
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{PartitionEvaluator, Signature, WindowUDF, WindowUDFImpl};
use datafusion::physical_expr::{Distribution, OrderingRequirements, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::BoundedWindowAggExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties};
use futures::StreamExt;

/// The column that says which rows are the newest, and the function.
pub const NEWEST: &str = "__newest";

/// The rank of rows by time; only the name tells it from a `rank` in the user's
/// query.
pub fn newest_udwf() -> WindowUDF {
    WindowUDF::new_from_impl(Newest(rank_udwf()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Newest(Arc<WindowUDF>);

impl WindowUDFImpl for Newest {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        NEWEST
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs<'_>) -> DfResult<Box<dyn PartitionEvaluator>> {
        self.0.partition_evaluator_factory(args)
    }

    fn field(&self, args: WindowUDFFieldArgs<'_>) -> DfResult<FieldRef> {
        self.0.field(args)
    }
}

/// Puts [`NewestExec`] in the place of the window that ranks rows by time.
pub fn streamed(plan: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
    let replace = |plan: Arc<dyn ExecutionPlan>| {
        let newest = plan.as_any().downcast_ref::<BoundedWindowAggExec>().and_then(NewestExec::in_place_of);
        Ok(match newest {
            Some(newest) => Transformed::yes(Arc::new(newest) as Arc<dyn ExecutionPlan>),
            None => Transformed::no(plan),
        })
    };
    plan.transform_up(replace).data()
}

/// The newest rows of every key; the last column is 1.
#[derive(Debug)]
struct NewestExec {
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    times: Vec<Arc<dyn PhysicalExpr>>,
    distribution: Vec<Distribution>,
    ordering: Vec<Option<OrderingRequirements>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl NewestExec {
    /// If the window is the ranking of rows by time alone.
    fn in_place_of(window: &BoundedWindowAggExec) -> Option<Self> {
        let [ranks] = window.window_expr() else { return None };
        if !ranks.name().starts_with(NEWEST) || window.input_order_mode != InputOrderMode::Sorted {
            return None;
        }
        Some(Self {
            input: window.input().clone(),
            keys: ranks.partition_by().to_vec(),
            times: ranks.order_by().iter().map(|order| order.expr.clone()).collect(),
            distribution: window.required_input_distribution(),
            ordering: window.required_input_ordering(),
            schema: window.schema(),
            properties: window.properties().clone(),
        })
    }
}

impl DisplayAs for NewestExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewestExec: keys={:?}, times={:?}", self.keys, self.times)
    }
}

impl ExecutionPlan for NewestExec {
    fn name(&self) -> &'static str {
        "NewestExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.distribution.clone()
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        self.ordering.clone()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self {
            input: children.swap_remove(0),
            keys: self.keys.clone(),
            times: self.times.clone(),
            distribution: self.distribution.clone(),
            ordering: self.ordering.clone(),
            schema: self.schema.clone(),
            properties: self.properties.clone(),
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let mut keys = Column::new(&self.keys, &self.input.schema())?;
        let mut times = Column::new(&self.times, &self.input.schema())?;
        let schema = self.schema.clone();
        let rows = input.map(move |batch| newest(&mut keys, &mut times, &schema, &batch?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows)))
    }
}

fn newest(keys: &mut Column, times: &mut Column, schema: &SchemaRef, batch: &RecordBatch) -> DfResult<RecordBatch> {
    let (these_keys, these_times) = (keys.rows(batch)?, times.rows(batch)?);
    let mut passed = Vec::with_capacity(batch.num_rows());
    for (key, time) in these_keys.iter().zip(these_times.iter()) {
        let known = keys.last.as_ref().is_some_and(|last| last.row() == key);
        if !known {
            (keys.last, times.last) = (Some(key.owned()), Some(time.owned()));
        }
        passed.push(!known || times.last.as_ref().is_some_and(|last| last.row() == time));
    }
    let rows = filter_record_batch(batch, &BooleanArray::from(passed))?;
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(UInt64Array::from_value(1, rows.num_rows())) as ArrayRef);
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// Expressions in a form that compares as a whole, and that of the first row of
/// the current key.
struct Column {
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    converter: RowConverter,
    last: Option<OwnedRow>,
}

impl Column {
    fn new(expressions: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef) -> DfResult<Self> {
        let fields = expressions.iter().map(|e| e.data_type(schema).map(SortField::new)).collect::<DfResult<_>>()?;
        Ok(Self { expressions: expressions.to_vec(), converter: RowConverter::new(fields)?, last: None })
    }

    fn rows(&self, batch: &RecordBatch) -> DfResult<arrow::row::Rows> {
        let columns = self
            .expressions
            .iter()
            .map(|e| e.evaluate(batch)?.into_array(batch.num_rows()))
            .collect::<DfResult<Vec<ArrayRef>>>()?;
        self.converter.convert_columns(&columns).map_err(DataFusionError::from)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::datasource::MemTable;
    use datafusion::physical_plan::{collect, displayable};
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// Rows of few keys with equal, missing and different times, in small batches.
    fn rows(seed: u64, count: usize) -> Vec<RecordBatch> {
        let mut state = seed;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut batches = Vec::new();
        for start in (0..count).step_by(7) {
            let these = start..(start + 7).min(count);
            let keys: Vec<Option<String>> =
                these.clone().map(|_| (draw(20) > 0).then(|| format!("k{}", draw(count as u64 / 4)))).collect();
            let parts: Vec<i32> = these.clone().map(|_| draw(2) as i32).collect();
            let times: Vec<Option<i64>> = these.clone().map(|_| (draw(6) > 0).then(|| draw(5) as i64)).collect();
            let columns: [(&str, ArrayRef); 4] = [
                ("k", Arc::new(StringArray::from(keys))),
                ("p", Arc::new(Int32Array::from(parts))),
                ("t", Arc::new(TimestampMicrosecondArray::from(times))),
                ("n", Arc::new(Int64Array::from_iter_values(these.map(|n| n as i64)))),
            ];
            let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, c)| (name, c, name != "n")));
            batches.push(batch.unwrap());
        }
        batches
    }

    async fn answers(sql: &str, seed: u64, batch_size: usize) -> (String, String, String) {
        let context =
            SessionContext::new_with_config(SessionConfig::new().with_target_partitions(3).with_batch_size(batch_size));
        context.register_udwf(newest_udwf());
        let batches = rows(seed, 200);
        let table = MemTable::try_new(batches[0].schema(), vec![batches]).unwrap();
        context.register_table("rows", Arc::new(table)).unwrap();
        // A plan runs once.
        let plan = async || context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let (window, streamed) = (plan().await, streamed(plan().await).unwrap());
        let shown = displayable(streamed.as_ref()).indent(false).to_string();
        let answer = |plan| async {
            let rows = collect(plan, context.task_ctx()).await.unwrap();
            let mut lines: Vec<String> =
                pretty_format_batches(&rows).unwrap().to_string().lines().map(str::to_owned).collect();
            lines.sort();
            lines.join("\n")
        };
        (answer(window).await, answer(streamed).await, shown)
    }

    #[tokio::test]
    async fn the_stream_passes_the_rows_that_the_window_ranks_first() {
        let sql = format!(
            "SELECT k, p, t, n FROM (SELECT *, {NEWEST}() OVER (PARTITION BY k, p ORDER BY t DESC NULLS LAST) AS r \
             FROM rows) WHERE r = 1"
        );
        for seed in 0..20 {
            for batch_size in [2, 10, 8192] {
                let (window, stream, shown) = answers(&sql, seed, batch_size).await;
                assert!(shown.contains("NewestExec") && !shown.contains("BoundedWindowAggExec"), "{shown}");
                assert_eq!(window, stream, "seed {seed}, batches of {batch_size}");
            }
        }
    }

    #[tokio::test]
    async fn a_rank_of_the_users_own_stays_a_window() {
        let sql =
            "SELECT k, n FROM (SELECT *, rank() OVER (PARTITION BY k ORDER BY t DESC) AS r FROM rows) WHERE r = 2";
        let (window, stream, shown) = answers(sql, 1, 10).await;
        assert!(!shown.contains("NewestExec"), "{shown}");
        assert_eq!(window, stream);
    }
}
