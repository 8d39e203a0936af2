//! Rows that were computed once more beside those of the table, event by
//! event: a value is equal when its bits are, and NaN equals NaN.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{cast, concat_batches, take};
use arrow::datatypes::{Int64Type, Schema, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::Serialize;

use super::flow::RowKind;
use super::program::Program;
use crate::lake::schema::timestamptz;
use crate::sql::query;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Differences that are named.
const NAMED: usize = 10;

/// A difference between the table and the replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The event's partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// The column; none when there is no row on one side.
    pub column: Option<String>,
    /// The value in the table, or whether there is a row.
    pub table: String,
    /// The value of the replay, or whether there is a row.
    pub replay: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Events whose rows are equal.
    pub equal: u64,
    /// Events whose rows differ.
    pub different: u64,
    /// Events with a row in the table only.
    pub missing: u64,
    /// Events with a row by the replay only.
    pub extra: u64,
    /// Rows of the table beyond the first of an event.
    pub repeated: u64,
    /// Rows that differ, by column.
    pub by_column: BTreeMap<String, u64>,
    /// The first differences.
    pub named: Vec<Difference>,
}

impl Compared {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.different + self.missing + self.extra + self.repeated == 0
    }

    fn name(&mut self, (partition, offset): (u32, i64), column: Option<String>, table: &str, replay: &str) {
        if self.named.len() < NAMED {
            let (table, replay) = (table.to_owned(), replay.to_owned());
            self.named.push(Difference { partition, offset, column, table, replay });
        }
    }
}

/// How the rows of a table are found by their events, and what of them is
/// compared.
#[derive(Debug)]
pub struct Comparison {
    table: String,
    partition: String,
    offset: String,
    arrival: Option<String>,
    inference_type: String,
    pipeline: String,
    columns: Vec<String>,
    /// Columns that no replay can have equal.
    pub left_out: Vec<String>,
    /// What was found so far.
    pub compared: Compared,
}

/// Rows of the table, and where each event's is.
#[derive(Debug)]
pub struct Online {
    rows: RecordBatch,
    places: HashMap<(u32, i64), u32>,
    repeated: u64,
}

impl Comparison {
    /// Compares the columns of the pipeline's table but those `left_out`, and
    /// those in which prediction times, runs and kinds of rows are.
    ///
    /// # Errors
    /// When the table's rows do not say of which event they are.
    pub fn new(program: &Program, left_out: Vec<String>) -> Result<Self> {
        let pipeline = &program.pipeline;
        let named = |wanted: &str| {
            let of = |(_, sql): &&(String, String)| sql.trim().trim_matches('"') == wanted;
            pipeline.output.columns.iter().find(of).map(|(name, _)| name.clone())
        };
        let place = |wanted: &str| {
            named(wanted).ok_or_else(|| {
                Error::invalid(format!(
                    "{}: no column of table `{}` is `{wanted}`, so nothing says which row is of which event",
                    pipeline.file.display(),
                    program.table()
                ))
                .hint(format!("add `{wanted} = \"{wanted}\"` to [output.columns]; `--into TABLE` needs it not"))
            })
        };
        let never = ["run_id", "score_reason", "variant", "propensity"];
        let fields = program.row_schema.fields().iter().map(|field| field.name().clone());
        let columns = fields.filter(|name| !never.contains(&name.as_str()) && !left_out.contains(name)).collect();
        let table = program.table();
        Ok(Self {
            table: format!("\"{}\".\"{}\"", table.namespace, table.name),
            partition: place("source_partition")?,
            offset: place("source_offset")?,
            arrival: named("arrival_timestamp"),
            inference_type: program.output.shape.inference_type.clone(),
            pipeline: pipeline.name.clone(),
            columns,
            left_out,
            compared: Compared::default(),
        })
    }

    /// Whether the table says when its events arrived.
    pub fn knows_arrivals(&self) -> bool {
        self.arrival.is_some()
    }

    /// The rows of events in these ranges of offsets.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn online(&self, workspace: &Workspace, ranges: &BTreeMap<u32, (i64, i64)>) -> Result<Online> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let (partition, offset) = (quoted(&self.partition), quoted(&self.offset));
        let mut columns = vec![
            format!("CAST({partition} AS BIGINT) AS __partition"),
            format!("CAST({offset} AS BIGINT) AS __offset"),
        ];
        columns.extend(self.arrival.iter().map(|name| format!("{} AS __arrival", quoted(name))));
        columns.extend(self.columns.iter().map(|name| quoted(name)));
        let within = ranges
            .iter()
            .map(|(number, (lo, hi))| format!("({partition} = {number} AND {offset} >= {lo} AND {offset} < {hi})"));
        let sql = format!(
            "SELECT {} FROM {} WHERE pipeline = '{}' AND {} = '{}' AND score_reason = '{}' AND ({})",
            columns.join(", "),
            self.table,
            self.pipeline.replace('\'', "''"),
            quoted(&self.inference_type),
            RowKind::EVENT.inference_type,
            RowKind::EVENT.reason,
            within.collect::<Vec<_>>().join(" OR ")
        );
        let found = query(workspace, &sql).await?.batches;
        let schema = found.first().map_or_else(|| std::sync::Arc::new(Schema::empty()), RecordBatch::schema);
        let rows = concat_batches(&schema, &found).map_err(misfit)?;
        let mut online = Online { rows, places: HashMap::new(), repeated: 0 };
        if online.rows.num_rows() == 0 {
            return Ok(online);
        }
        let partitions = online.rows.column(0).as_primitive::<Int64Type>();
        let offsets = online.rows.column(1).as_primitive::<Int64Type>();
        online.places.reserve(online.rows.num_rows());
        for row in 0..online.rows.num_rows() {
            let place = (partitions.value(row) as u32, offsets.value(row));
            if online.places.insert(place, row as u32).is_some() {
                online.repeated += 1;
            }
        }
        Ok(online)
    }

    /// Compares rows with those of their events.
    ///
    /// # Errors
    /// When the columns of the table have other types by now.
    pub fn take(&mut self, rows: &[RecordBatch], places: &[(u32, i64)], online: &Online) -> Result<()> {
        self.compared.repeated += online.repeated;
        let mut unseen = online.places.clone();
        let (mut theirs, mut ours, mut paired) = (Vec::new(), Vec::new(), Vec::new());
        for (row, place) in places.iter().enumerate() {
            match unseen.remove(place) {
                Some(other) => {
                    theirs.push(other);
                    ours.push(row as u32);
                    paired.push(*place);
                }
                None => {
                    self.compared.extra += 1;
                    self.compared.name(*place, None, "no row", "a row");
                }
            }
        }
        let mut missing: Vec<_> = unseen.into_keys().collect();
        missing.sort_unstable();
        self.compared.missing += missing.len() as u64;
        missing.into_iter().take(NAMED).for_each(|place| self.compared.name(place, None, "a row", "no row"));
        if paired.is_empty() {
            return Ok(());
        }
        let Some(schema) = rows.first().map(RecordBatch::schema) else { return Ok(()) };
        let rows = concat_batches(&schema, rows).map_err(misfit)?;
        let (theirs, ours) = (UInt32Array::from(theirs), UInt32Array::from(ours));
        let mut equal = vec![true; paired.len()];
        for name in &self.columns {
            let (Some(table), Some(replay)) = (online.rows.column_by_name(name), rows.column_by_name(name)) else {
                return Err(Error::internal(format!("no column `{name}` to compare")));
            };
            let replay = take(replay, &ours, None).map_err(misfit)?;
            let table = take(table, &theirs, None).map_err(misfit)?;
            let table = cast(&table, replay.data_type()).map_err(|e| {
                Error::data(format!("column `{name}` of table {} has another type by now: {e}", self.table)).cause(e)
            })?;
            let same = same(&table, &replay)?;
            let differ = (0..same.len()).filter(|row| !same.value(*row));
            for (count, row) in differ.enumerate() {
                equal[row] = false;
                if count < NAMED {
                    let (table, replay) = (shown(&table, row)?, shown(&replay, row)?);
                    self.compared.name(paired[row], Some(name.clone()), &table, &replay);
                }
                *self.compared.by_column.entry(name.clone()).or_default() += 1;
            }
        }
        let equal = equal.into_iter().filter(|equal| *equal).count();
        self.compared.equal += equal as u64;
        self.compared.different += (paired.len() - equal) as u64;
        Ok(())
    }
}

impl Online {
    /// When the events arrived, where the table says so.
    pub fn arrivals(&self) -> Result<Vec<((u32, i64), i64)>> {
        let Some(column) = self.rows.column_by_name("__arrival") else { return Ok(Vec::new()) };
        let column = cast(column, &timestamptz()).map_err(misfit)?;
        let column = column.as_primitive::<TimestampMicrosecondType>();
        let known = self.places.iter().filter(|(_, row)| column.is_valid(**row as usize));
        Ok(known.map(|(place, row)| (*place, column.value(*row as usize))).collect())
    }
}

/// Row by row, whether two columns of one type have the same value.
fn same(left: &ArrayRef, right: &ArrayRef) -> Result<BooleanArray> {
    if !left.data_type().is_nested() {
        return not_distinct(left, right).map_err(misfit);
    }
    let row = |array: &ArrayRef, row: usize| array.slice(row, 1).to_data();
    Ok((0..left.len()).map(|at| Some(row(left, at) == row(right, at))).collect())
}

fn shown(array: &ArrayRef, row: usize) -> Result<String> {
    let options = FormatOptions::default().with_null("null");
    let text = ArrayFormatter::try_new(array, &options).map_err(misfit)?.value(row).to_string();
    Ok(text)
}

fn misfit(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("rows that are compared do not fit: {error}")).cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, MapArray, StringArray};
    use arrow::datatypes::{DataType, Field};
    use std::sync::Arc;

    fn comparison(columns: &[&str]) -> Comparison {
        Comparison {
            table: "\"ml\".\"live\"".into(),
            partition: "p".into(),
            offset: "o".into(),
            arrival: None,
            inference_type: "inference_type".into(),
            pipeline: "live".into(),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            left_out: Vec::new(),
            compared: Compared::default(),
        }
    }

    fn online(x: Vec<Option<f64>>, offsets: &[i64]) -> Online {
        let columns: Vec<(&str, ArrayRef)> = vec![("x", Arc::new(Float64Array::from(x)))];
        let rows = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let places = offsets.iter().enumerate().map(|(row, offset)| ((0, *offset), row as u32)).collect();
        Online { rows, places, repeated: 0 }
    }

    fn rows(x: Vec<Option<f64>>) -> Vec<RecordBatch> {
        x.chunks(2)
            .map(|x| RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(x.to_vec())) as ArrayRef)]).unwrap())
            .collect()
    }

    #[test]
    fn rows_are_paired_by_event_and_compared_to_the_bit() {
        let mut comparison = comparison(&["x"]);
        let online =
            online(vec![Some(1.0), Some(f64::NAN), None, Some(0.0), Some(5.0), None], &[10, 11, 12, 13, 14, 16]);
        let ours = rows(vec![Some(0.0), None, Some(f64::NAN), Some(1.0 + f64::EPSILON), Some(-0.0), Some(7.0)]);
        comparison.take(&ours, &[(0, 99), (0, 12), (0, 11), (0, 10), (0, 13), (0, 16)], &online).unwrap();
        let found = &comparison.compared;
        assert_eq!((found.equal, found.different, found.missing, found.extra), (2, 3, 1, 1), "{found:?}");
        assert_eq!(found.by_column, BTreeMap::from([("x".to_owned(), 3)]));
        let named: Vec<_> = found.named.iter().map(|n| (n.offset, n.table.as_str(), n.replay.as_str())).collect();
        assert_eq!(
            named,
            [
                (99, "no row", "a row"),
                (14, "a row", "no row"),
                (10, "1.0", "1.0000000000000002"),
                (13, "0.0", "-0.0"),
                (16, "null", "7.0")
            ]
        );
        assert!(!found.is_equal());
    }

    #[test]
    fn nested_values_are_compared_whole() {
        let map = |value: f64| -> ArrayRef {
            let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
            let values: ArrayRef = Arc::new(Float64Array::from(vec![0.5, value]));
            let fields = vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Float64, true)];
            let entries = arrow::array::StructArray::new(fields.clone().into(), vec![keys, values], None);
            let field = Arc::new(Field::new("entries", DataType::Struct(fields.into()), false));
            let offsets = arrow::buffer::OffsetBuffer::from_lengths([1, 1]);
            Arc::new(MapArray::new(field, offsets, entries, None, false))
        };
        let found = same(&map(0.25), &map(0.75)).unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), [Some(true), Some(false)]);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        assert_eq!(same(&numbers, &numbers).unwrap().true_count(), 2);
    }
}
