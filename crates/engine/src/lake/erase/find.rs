//! Which rows of a file are the entity's.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::DataType;
use iceberg::spec::{DataFile, Datum, PrimitiveType};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};

use super::{Entity, Erasure, Rule};
use crate::key::{KeySet, Keys};
use crate::lake::scan::KeyFilter;
use crate::lake::schema::arrow_schema;
use crate::lake::storage::Storage;
use crate::lake::table::Table;
use crate::lake::{deletes, keyed};
use crate::{Error, Result};

/// Finds the rows of one entity in the files of one table.
#[derive(Debug)]
pub(super) enum Finder {
    /// By the key columns.
    Key { columns: Vec<KeyColumn>, keys: Arc<KeySet> },
    /// By what rows mention.
    Mention(Mentioned),
    /// A value is none of its column's type: no row can have it.
    Nowhere,
}

/// A key column: what it was called and numbered in the table's history.
#[derive(Debug)]
pub(super) struct KeyColumn {
    name: String,
    ids: Vec<i32>,
    value: Option<Datum>,
}

/// Words that a row mentions.
#[derive(Debug, Clone)]
pub struct Mentioned(Vec<Vec<u8>>);

impl Mentioned {
    /// The parts of an entity's key.
    pub fn new(entity: &Entity) -> Self {
        Self(entity.values.iter().map(|value| value.as_bytes().to_vec()).collect())
    }

    /// Whether the texts, taken together, mention all words.
    pub fn by(&self, texts: &[&[u8]]) -> bool {
        self.0.iter().all(|word| texts.iter().any(|text| mentions(text, word)))
    }
}

/// Whether a text has the word, with no letter or digit right before or after.
fn mentions(text: &[u8], word: &[u8]) -> bool {
    let Some(first) = word.first() else { return false };
    let edge = |byte: Option<&u8>| byte.is_none_or(|byte| !byte.is_ascii_alphanumeric());
    let mut from = 0;
    while let Some(found) = text[from..].iter().position(|byte| byte == first) {
        let (start, end) = (from + found, from + found + word.len());
        let before = start.checked_sub(1).and_then(|at| text.get(at));
        if text.get(start..end) == Some(word) && edge(before) && edge(text.get(end)) {
            return true;
        }
        from = start + 1;
    }
    false
}

impl Finder {
    /// A finder for `table`, whatever its columns were called before.
    ///
    /// # Errors
    /// When it never had the key columns, or their type is not a key's.
    pub fn new(table: &Table, erasure: &Erasure<'_>) -> Result<Self> {
        let entity = erasure.entity;
        if erasure.rule == Rule::Mention {
            return Ok(Self::Mention(Mentioned::new(entity)));
        }
        let metadata = table.metadata();
        let schemas = || std::iter::once(table.schema()).chain(metadata.schemas_iter());
        let (mut columns, mut arrays) = (Vec::new(), Vec::<(&str, ArrayRef)>::new());
        for (name, value) in entity.columns.iter().zip(&entity.values) {
            let Some(schema) = schemas().find(|schema| schema.field_by_name(name).is_some()) else {
                let columns = table.schema().as_struct().fields();
                let error = Error::not_found(format!("table `{}` has no column `{name}`", table.name()));
                return Err(match insightera_core::closest(name, columns.iter().map(|field| field.name.as_str())) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error,
                });
            };
            let arrow = arrow_schema(schema)?;
            let field = arrow
                .field_with_name(name)
                .map_err(|e| Error::internal(format!("column `{name}` of table `{}`: {e}", table.name())))?;
            insightera_entities::key::check_key_type(name, field.data_type())?;
            let text: ArrayRef = Arc::new(StringArray::from(vec![value.as_str()]));
            let strict = CastOptions { safe: false, ..Default::default() };
            let Ok(array) = cast_with_options(&text, field.data_type(), &strict) else { return Ok(Self::Nowhere) };
            let mut ids: Vec<i32> = schemas().filter_map(|schema| schema.field_id_by_name(name)).collect();
            ids.sort_unstable();
            ids.dedup();
            let primitive = schema.field_by_name(name).and_then(|f| f.field_type.as_primitive_type());
            let datum = match primitive {
                Some(PrimitiveType::String) => Some(Datum::string(value)),
                Some(PrimitiveType::Int) => value.parse::<i32>().ok().map(Datum::int),
                Some(PrimitiveType::Long) => value.parse::<i64>().ok().map(Datum::long),
                _ => None,
            };
            columns.push(KeyColumn { name: name.clone(), ids, value: datum });
            arrays.push((name.as_str(), array));
        }
        let batch = RecordBatch::try_from_iter(arrays).map_err(|e| Error::internal(format!("a key: {e}")).cause(e))?;
        let keys: KeySet = Keys::new(&batch, &entity.columns)?.hashes().into_iter().collect();
        Ok(Self::Key { columns, keys: Arc::new(keys) })
    }

    /// The ids of all key columns.
    pub fn ids(&self) -> Vec<&[i32]> {
        match self {
            Self::Key { columns, .. } => columns.iter().map(|column| column.ids.as_slice()).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the file's bounds allow rows of the entity.
    pub fn may_hold(&self, file: &DataFile) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Mention(_) => true,
            Self::Key { columns, .. } => columns.iter().all(|column| {
                let Some(value) = &column.value else { return true };
                column.ids.iter().all(|id| {
                    let below = file.lower_bounds().get(id).is_some_and(|low| value < low);
                    let above = file.upper_bounds().get(id).is_some_and(|high| value > high);
                    !below && !above
                })
            }),
        }
    }

    /// Whether a bound of the file is the entity's own value.
    pub fn is_bound(&self, file: &DataFile) -> bool {
        let Self::Key { columns, .. } = self else { return false };
        let bounds = || [file.lower_bounds(), file.upper_bounds()];
        columns.iter().all(|column| match &column.value {
            None => bounds().iter().any(|bounds| column.ids.iter().any(|id| bounds.contains_key(id))),
            Some(value) => column.ids.iter().any(|id| bounds().iter().any(|b| b.get(id) == Some(value))),
        })
    }

    /// The entity's rows in a Parquet file, ascending.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn rows(&self, storage: &Storage, location: &str) -> Result<Vec<u64>> {
        match self {
            Self::Nowhere => Ok(Vec::new()),
            Self::Key { columns, keys } => {
                let (_, metadata) = deletes::open(storage, location)?;
                let names = columns.iter().map(|column| column.of(&metadata)).collect::<Option<Vec<String>>>();
                let Some(columns) = names else { return Ok(Vec::new()) };
                let filter = KeyFilter { columns, keys: keys.clone() };
                let found = keyed::matching_rows(storage, &[location.to_owned()], &filter, metadata.schema(), 1)?;
                Ok(found.into_iter().flatten().flat_map(|matched| matched.rows).collect())
            }
            Self::Mention(mentioned) => mentioning(storage, location, mentioned),
        }
    }
}

impl KeyColumn {
    /// What the column is called in a file.
    fn of(&self, metadata: &ArrowReaderMetadata) -> Option<String> {
        let schema = metadata.metadata().file_metadata().schema_descr();
        let leaves = || schema.columns().iter().filter(|leaf| leaf.path().parts().len() == 1);
        let by_id = leaves().find(|leaf| {
            let info = leaf.self_type().get_basic_info();
            info.has_id() && self.ids.contains(&info.id())
        });
        let by_name = || leaves().find(|leaf| leaf.name() == self.name && !leaf.self_type().get_basic_info().has_id());
        by_id.or_else(by_name).map(|leaf| leaf.name().to_owned())
    }
}

/// The rows whose texts and bytes mention the words.
fn mentioning(storage: &Storage, location: &str, mentioned: &Mentioned) -> Result<Vec<u64>> {
    let (file, metadata) = deletes::open(storage, location)?;
    let damaged = |e: &dyn std::fmt::Display| {
        Error::data(format!("`{location}` is not a readable Parquet file: {e}"))
            .hint("restore the file from a backup, or write it again")
    };
    use DataType as T;
    let of_text = |data_type: &T| {
        matches!(data_type, T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView)
    };
    let fields = metadata.schema().fields();
    let roots = fields.iter().enumerate().filter(|(_, f)| of_text(f.data_type())).map(|(index, _)| index);
    let mask = ProjectionMask::roots(metadata.metadata().file_metadata().schema_descr(), roots);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
        .with_projection(mask)
        .with_batch_size(4096)
        .build()
        .map_err(|e| damaged(&e))?;
    let (mut rows, mut start) = (Vec::new(), 0);
    for batch in reader {
        let batch = batch.map_err(|e| damaged(&e))?;
        let columns = batch.columns().iter().map(|column| cast(column, &T::Binary));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(|e| damaged(&e))?;
        for row in 0..batch.num_rows() {
            let valid = columns
                .iter()
                .map(|column| column.as_binary::<i32>())
                .filter(|c| !arrow::array::Array::is_null(c, row));
            let texts: Vec<&[u8]> = valid.map(|column| column.value(row)).collect();
            if mentioned.by(&texts) {
                rows.push(start + row as u64);
            }
        }
        start += batch.num_rows() as u64;
    }
    Ok(rows)
}

/// Whether a Parquet file of the table holds rows of the entity, whoever wrote
/// it and whether or not a snapshot names it.
///
/// # Errors
/// When it cannot be read.
pub fn holds(table: &Table, erasure: &Erasure<'_>, location: &str) -> Result<bool> {
    Ok(!Finder::new(table, erasure)?.rows(table.storage(), location)?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_mentioned_only_as_a_whole() {
        for (text, found) in [
            ("{\"nim\":\"1919\"}", true),
            ("{\"nim\":1919}", true),
            ("1919", true),
            ("x 21919, 1919", true),
            ("19190 11919 a1919", false),
            ("", false),
        ] {
            assert_eq!(mentions(text.as_bytes(), b"1919"), found, "{text}");
        }
    }

    #[test]
    fn all_parts_of_a_key_must_be_mentioned() {
        let entity = Entity { columns: vec!["a".into(), "b".into()], values: vec!["x1".into(), "7".into()] };
        let mentioned = Mentioned::new(&entity);
        assert!(mentioned.by(&[b"x1", b"{\"n\": 7}"]));
        assert!(!mentioned.by(&[b"x1", b"77"]));
    }
}
