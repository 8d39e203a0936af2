//! The filters of a scan, as the reader of each file gets them.
//!
//! A statement's filter comes twice, once with the scan and once from the
//! operator above: it is checked once. A filter that another operator makes
//! while it runs, the keys that a join has seen for example, only saves work
//! and drops nothing that would be needed: where nearly all rows of a file
//! pass, it is left out for the rest of the file.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::DynamicFilterPhysicalExpr;
use datafusion::physical_expr::{PhysicalExpr, conjunction, split_conjunction};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};

/// Rows that are checked before a filter can be left out.
const ENOUGH: usize = 16 * 1024;
/// A filter is left out when less than one in so many rows fails.
const ONE_IN: usize = 8;

/// Makes the adapters of a scan: what another makes of an expression, with
/// each filter once and while it pays.
#[derive(Debug)]
pub struct OnceEach(pub Arc<dyn PhysicalExprAdapterFactory>);

impl PhysicalExprAdapterFactory for OnceEach {
    fn create(&self, scan: SchemaRef, file: SchemaRef) -> DfResult<Arc<dyn PhysicalExprAdapter>> {
        Ok(Arc::new(Adapter(self.0.create(scan, file)?)))
    }
}

#[derive(Debug)]
struct Adapter(Arc<dyn PhysicalExprAdapter>);

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expression: Arc<dyn PhysicalExpr>) -> DfResult<Arc<dyn PhysicalExpr>> {
        let expression = self.0.rewrite(once_each(expression))?;
        let wrapped = |node: Arc<dyn PhysicalExpr>| match node.as_any().is::<DynamicFilterPhysicalExpr>() {
            true => Ok(Transformed::yes(Arc::new(WhileItPays::new(node)) as Arc<dyn PhysicalExpr>)),
            false => Ok(Transformed::no(node)),
        };
        expression.transform_up(wrapped).data()
    }
}

/// A conjunction with each of its parts once.
fn once_each(expression: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    let parts = split_conjunction(&expression);
    let mut once: Vec<&Arc<dyn PhysicalExpr>> = Vec::with_capacity(parts.len());
    for part in &parts {
        if !once.contains(part) {
            once.push(part);
        }
    }
    if once.len() == parts.len() { expression.clone() } else { conjunction(once.into_iter().cloned()) }
}

/// A filter that holds for every row as soon as it has held for nearly all of
/// those that it was asked for. One that has changed is asked again.
#[derive(Debug)]
struct WhileItPays {
    filter: Arc<dyn PhysicalExpr>,
    seen: Arc<Mutex<Seen>>,
}

/// What a filter has said, as long as it was the same one.
#[derive(Debug, Default)]
struct Seen {
    generation: u64,
    rows: usize,
    failed: usize,
}

impl WhileItPays {
    fn new(filter: Arc<dyn PhysicalExpr>) -> Self {
        Self { filter, seen: Arc::default() }
    }

    /// Notes what it said of some rows; answers whether it is worth asking again.
    fn pays(&self, rows: usize, failed: usize) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.filter.snapshot_generation();
        if seen.generation != generation {
            *seen = Seen { generation, ..Seen::default() };
        }
        seen.rows += rows;
        seen.failed += failed;
        seen.rows < ENOUGH || seen.failed * ONE_IN >= seen.rows
    }
}

impl fmt::Display for WhileItPays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.filter, f)
    }
}

impl PartialEq for WhileItPays {
    fn eq(&self, other: &Self) -> bool {
        self.filter.eq(&other.filter)
    }
}

impl Eq for WhileItPays {}

impl Hash for WhileItPays {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.filter.hash(state);
    }
}

impl PhysicalExpr for WhileItPays {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn data_type(&self, input: &Schema) -> DfResult<DataType> {
        self.filter.data_type(input)
    }

    fn nullable(&self, input: &Schema) -> DfResult<bool> {
        self.filter.nullable(input)
    }

    fn evaluate(&self, batch: &RecordBatch) -> DfResult<ColumnarValue> {
        if !self.pays(0, 0) {
            return Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))));
        }
        let answer = self.filter.evaluate(batch)?;
        let kept = match &answer {
            ColumnarValue::Array(rows) => rows.as_boolean_opt().map_or(0, BooleanArray::true_count),
            ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))) => batch.num_rows(),
            ColumnarValue::Scalar(_) => 0,
        };
        self.pays(batch.num_rows(), batch.num_rows() - kept);
        Ok(answer)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.filter]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> DfResult<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { filter: children[0].clone(), seen: self.seen.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.filter.fmt_sql(f)
    }

    /// Who prunes looks at the filter itself.
    fn snapshot(&self) -> DfResult<Option<Arc<dyn PhysicalExpr>>> {
        Ok(Some(self.filter.snapshot()?.unwrap_or_else(|| self.filter.clone())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};

    use super::*;

    fn less(than: i64) -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(Arc::new(Column::new("v", 0)), Operator::Lt, lit(than)))
    }

    fn rows(count: i64) -> RecordBatch {
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
        RecordBatch::try_from_iter([("v", values)]).unwrap()
    }

    #[test]
    fn a_filter_that_comes_twice_is_asked_once() {
        let all = conjunction([less(5), less(7), less(5), less(5)]);
        let once = once_each(all);
        assert_eq!(split_conjunction(&once), [&less(5), &less(7)]);
        assert_eq!(&once_each(less(5)), &less(5));
    }

    #[test]
    fn a_filter_is_left_out_where_nearly_all_rows_pass_until_it_changes() {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new("v", 0));
        let dynamic = Arc::new(DynamicFilterPhysicalExpr::new(vec![column], less(i64::MAX)));
        let filter = WhileItPays::new(dynamic.clone());
        let (batch, kept) = (rows(1 << 15), |answer: ColumnarValue| match answer {
            ColumnarValue::Scalar(value) => format!("{value}"),
            ColumnarValue::Array(rows) => rows.as_boolean().true_count().to_string(),
        });
        assert_eq!(kept(filter.evaluate(&batch).unwrap()), (1 << 15).to_string());
        assert_eq!(kept(filter.evaluate(&batch).unwrap()), "true");
        dynamic.update(less(100)).unwrap();
        for _ in 0..3 {
            assert_eq!(kept(filter.evaluate(&batch).unwrap()), "100");
        }
    }

    #[test]
    fn a_filter_that_drops_rows_is_always_asked() {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new("v", 0));
        let filter = WhileItPays::new(Arc::new(DynamicFilterPhysicalExpr::new(vec![column], less(20_000))));
        for _ in 0..3 {
            let ColumnarValue::Array(answer) = filter.evaluate(&rows(1 << 15)).unwrap() else { panic!("left out") };
            assert_eq!(answer.as_boolean().true_count(), 20_000);
        }
    }
}
