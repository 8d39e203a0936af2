//! Which files can hold wanted rows, by the bounds of their columns.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::DataType;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use iceberg::spec::{Datum, PrimitiveLiteral, PrimitiveType};

use super::{Scan, Source};
use crate::lake::files::LiveFile;

/// Column bounds from manifests, one row a file.
pub struct FileBounds<'a> {
    /// The scan.
    pub scan: &'a Scan,
    /// The files.
    pub files: &'a [LiveFile],
}

impl FileBounds<'_> {
    fn bounds(&self, column: &Column, pick: impl Fn(&LiveFile, i32) -> Option<Datum>) -> Option<ArrayRef> {
        let Source::Table { schema, .. } = &self.scan.source else { return None };
        let field = self.scan.schema.field_with_name(column.name()).ok()?;
        let id = schema.field_id_by_name(column.name())?;
        let null = ScalarValue::try_from(field.data_type()).ok()?;
        let values = self.files.iter().map(|file| {
            pick(file, id).and_then(|datum| scalar(&datum, field.data_type())).unwrap_or_else(|| null.clone())
        });
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for FileBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |file, id| file.data_file().lower_bounds().get(&id).cloned())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |file, id| file.data_file().upper_bounds().get(&id).cloned())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let Source::Table { schema, .. } = &self.scan.source else { return None };
        let id = schema.field_id_by_name(column.name())?;
        let counts = self.files.iter().map(|f| f.data_file().null_value_counts().get(&id).copied());
        Some(Arc::new(UInt64Array::from_iter(counts)))
    }

    fn row_counts(&self, _: &Column) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from_iter(self.files.iter().map(|f| Some(f.data_file().record_count())))))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn scalar(datum: &Datum, data_type: &DataType) -> Option<ScalarValue> {
    let value = match (datum.literal(), datum.data_type()) {
        (PrimitiveLiteral::Boolean(v), _) => ScalarValue::Boolean(Some(*v)),
        (PrimitiveLiteral::Int(v), PrimitiveType::Date) => ScalarValue::Date32(Some(*v)),
        (PrimitiveLiteral::Int(v), _) => ScalarValue::Int32(Some(*v)),
        (PrimitiveLiteral::Long(v), PrimitiveType::Timestamp) => ScalarValue::TimestampMicrosecond(Some(*v), None),
        (PrimitiveLiteral::Long(v), PrimitiveType::Timestamptz) => {
            ScalarValue::TimestampMicrosecond(Some(*v), Some("UTC".into()))
        }
        (PrimitiveLiteral::Long(v), _) => ScalarValue::Int64(Some(*v)),
        (PrimitiveLiteral::Float(v), _) => ScalarValue::Float32(Some(v.0)),
        (PrimitiveLiteral::Double(v), _) => ScalarValue::Float64(Some(v.0)),
        (PrimitiveLiteral::String(v), _) => ScalarValue::Utf8View(Some(v.clone())),
        _ => return None,
    };
    value.cast_to(data_type).ok()
}
