//! Reads position deletes, and turns them into row selections.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, RowGroupAccess};
use iceberg::spec::DataFileFormat;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};

use super::files::LiveFile;
use super::storage::{Input, Storage};
use crate::{Error, Result};

/// Field id of `file_path` in a position delete file.
pub const FILE_PATH_ID: i32 = 2_147_483_546;
/// Field id of `pos` in a position delete file.
pub const POSITION_ID: i32 = 2_147_483_545;

/// Deleted row positions per data file, ascending.
pub type Positions = HashMap<String, Vec<u64>>;

/// Opens a Parquet file and reads its footer.
pub fn open(storage: &Storage, location: &str) -> Result<(Input, ArrowReaderMetadata)> {
    let file = storage.open(location)?;
    let metadata = ArrowReaderMetadata::load(&file, Default::default()).map_err(|e| {
        Error::data(format!("`{}` is not a readable Parquet file: {e}", shown(location)))
            .hint("restore the file from a backup, or write it again")
            .cause(e)
    })?;
    Ok((file, metadata))
}

/// Opens a local Parquet file and reads its footer.
pub fn open_file(path: &Path) -> Result<(Input, ArrowReaderMetadata)> {
    open(&Storage::default(), &path.display().to_string())
}

/// A location as people know it: local files by their path.
fn shown(location: &str) -> &str {
    location.strip_prefix("file://").unwrap_or(location)
}

/// Decodes a whole file, to tell whether it is damaged.
pub fn read_through(storage: &Storage, location: &str) -> Result<()> {
    let (file, metadata) = open(storage, location)?;
    let damaged = |e: &dyn std::fmt::Display| {
        Error::data(format!("`{}` is not a readable Parquet file: {e}", shown(location)))
            .hint("restore the file from a backup, or write it again")
    };
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata).build().map_err(|e| damaged(&e))?;
    for batch in reader {
        batch.map_err(|e| damaged(&e))?;
    }
    Ok(())
}

/// Reads position delete files, all rows.
pub fn positions<'a>(storage: &Storage, deletes: impl IntoIterator<Item = &'a LiveFile>) -> Result<Positions> {
    let mut found = Positions::new();
    for delete in deletes {
        let location = delete.data_file().file_path();
        if delete.data_file().file_format() != DataFileFormat::Parquet {
            return Err(Error::invalid(format!("`{location}` is not a Parquet delete file"))
                .hint("deletion vectors (format version 3) are not supported yet: rewrite the table's data files"));
        }
        let (file, metadata) = open(storage, location)?;
        let damaged =
            |e: &dyn std::fmt::Display| Error::data(format!("the delete file `{location}` cannot be read: {e}"));
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata).build().map_err(|e| damaged(&e))?;
        for batch in reader {
            let batch = batch.map_err(|e| damaged(&e))?;
            let column =
                |name: &str| batch.column_by_name(name).ok_or_else(|| damaged(&format!("it has no column `{name}`")));
            let paths = cast(column("file_path")?, &DataType::Utf8).map_err(|e| damaged(&e))?;
            let rows = cast(column("pos")?, &DataType::Int64).map_err(|e| damaged(&e))?;
            let (paths, rows) = (paths.as_string::<i32>(), rows.as_primitive::<Int64Type>());
            let mut last: Option<(&str, &mut Vec<u64>)> = None;
            for row in 0..batch.num_rows() {
                let path = paths.value(row);
                if last.as_ref().is_none_or(|(known, _)| *known != path) {
                    last = Some((path, found.entry(path.to_owned()).or_default()));
                }
                if let Some((_, list)) = &mut last {
                    list.push(rows.value(row).max(0) as u64);
                }
            }
        }
    }
    for list in found.values_mut() {
        list.sort_unstable();
        list.dedup();
    }
    Ok(found)
}

/// The rows of a file that are left when `deleted` are taken out, per row
/// group, or with `invert` exactly the deleted ones.
pub fn access_plan(metadata: &ArrowReaderMetadata, deleted: &[u64], invert: bool) -> Arc<ParquetAccessPlan> {
    let mut start = 0u64;
    let mut next = 0;
    let groups = metadata.metadata().row_groups();
    let mut plan = Vec::with_capacity(groups.len());
    for group in groups {
        let rows = group.num_rows().max(0) as u64;
        let from = next;
        while next < deleted.len() && deleted[next] < start + rows {
            next += 1;
        }
        let inside = &deleted[from..next];
        plan.push(match (inside.is_empty(), invert) {
            (true, true) => RowGroupAccess::Skip,
            (true, false) => RowGroupAccess::Scan,
            (false, _) => RowGroupAccess::Selection(selection(inside, start, rows, invert)),
        });
        start += rows;
    }
    Arc::new(ParquetAccessPlan::new(plan))
}

/// A selection over `rows` rows from `start`.
pub fn selection(marked: &[u64], start: u64, rows: u64, invert: bool) -> RowSelection {
    let mut selectors = Vec::with_capacity(marked.len() * 2 + 1);
    let mut at = start;
    let push = |count: u64, skip: bool, selectors: &mut Vec<RowSelector>| {
        if count > 0 {
            let count = count as usize;
            selectors.push(if skip { RowSelector::skip(count) } else { RowSelector::select(count) });
        }
    };
    for position in marked {
        push(position - at, invert, &mut selectors);
        push(1, !invert, &mut selectors);
        at = position + 1;
    }
    push(start + rows - at, invert, &mut selectors);
    RowSelection::from(selectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_keeps_what_is_not_deleted_and_its_inverse_the_rest() {
        let kept = selection(&[10, 11, 14], 10, 6, false);
        assert_eq!((kept.row_count(), kept.skipped_row_count()), (3, 3));
        let gone = selection(&[10, 11, 14], 10, 6, true);
        assert_eq!((gone.row_count(), gone.skipped_row_count()), (3, 3));
        assert_eq!(kept.intersection(&gone).row_count(), 0);
    }
}
