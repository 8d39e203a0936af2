//! Rows whose key is in a set.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::external;
use crate::key::{KeySet, Keys};

/// Only rows whose key is in the set.
#[derive(Debug, Clone)]
pub struct KeyFilter {
    /// The key columns, in the order of the entity key.
    pub columns: Vec<String>,
    /// The wanted keys.
    pub keys: Arc<KeySet>,
}

/// `key_in(column, …)`: whether the row's key is in a set.
#[derive(Debug)]
pub struct KeyIn {
    filter: KeyFilter,
    signature: Signature,
}

impl KeyIn {
    /// Whether it is in the filter's.
    pub fn new(filter: KeyFilter) -> Self {
        Self { filter, signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl PartialEq for KeyIn {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.filter.keys, &other.filter.keys) && self.filter.columns == other.filter.columns
    }
}

impl Eq for KeyIn {}

impl std::hash::Hash for KeyIn {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.filter.columns.hash(state);
        (Arc::as_ptr(&self.filter.keys) as usize).hash(state);
    }
}

impl ScalarUDFImpl for KeyIn {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        "key_in"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let columns: Vec<(String, ArrayRef)> =
            arrays.into_iter().enumerate().map(|(i, a)| (format!("k{i}"), a)).collect();
        let names: Vec<String> = columns.iter().map(|(n, _)| n.clone()).collect();
        let batch = RecordBatch::try_from_iter(columns)?;
        let hashes = Keys::new(&batch, &names).map_err(external)?.hashes();
        let mask: BooleanArray = hashes.iter().map(|h| Some(self.filter.keys.contains(h))).collect();
        Ok(ColumnarValue::Array(Arc::new(mask)))
    }
}
