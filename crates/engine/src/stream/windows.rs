//! Windows as a pipeline declares them, over Arrow columns: aggregates in SQL
//! become arguments, filters and functions of [`insightera_core::stream`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimestampMicrosecondType};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function as SqlFunction, FunctionArg, FunctionArgExpr, FunctionArguments, NullTreatment,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use insightera_core::stream::{
    Aggregate, Batch, Bits, ClosedRows, Column, ColumnType, EventOutput, Function, Key, KeyType, Keys as CoreKeys,
    LatePolicy, OutColumn, OutValues, Plan, Settings, StreamError, Strings, Value, Values, WindowSet,
};
use xxhash_rust::xxh3::xxh3_64;

use super::expression::Expression;
use crate::config::{SourceSettings, StreamPipeline};
use crate::key::Keys;
use crate::{Error, Result};

/// The windows of a pipeline.
#[derive(Debug)]
pub struct Windows {
    /// The checked settings.
    pub plan: Arc<Plan>,
    /// The columns that come out.
    pub fields: Vec<Field>,
    keys: Vec<Vec<String>>,
    arguments: Vec<Argument>,
    source: SourceSettings,
}

#[derive(Debug)]
struct Argument {
    sql: String,
    expression: Expression,
    kind: ColumnType,
}

/// An aggregate as its text says.
#[derive(Debug, PartialEq)]
struct Parsed {
    function: Function,
    argument: Option<String>,
    filter: Option<String>,
}

impl Windows {
    /// Plans the windows over the columns of the event.
    ///
    /// # Errors
    /// When an aggregate is none, or the windows do not fit together.
    pub fn new(context: &SessionContext, pipeline: &StreamPipeline, schema: &Schema) -> Result<Option<Self>> {
        if pipeline.windows.is_empty() {
            return Ok(None);
        }
        let file = pipeline.file.display();
        let (mut keys, mut arguments, mut fields, mut sets) =
            (Vec::<Vec<String>>::new(), Vec::<Argument>::new(), Vec::new(), Vec::new());
        for window in &pipeline.windows {
            let key = keys.iter().position(|key| *key == window.key).unwrap_or_else(|| {
                keys.push(window.key.clone());
                keys.len() - 1
            });
            let mut aggregates = Vec::new();
            for (name, sql) in &window.columns {
                let what = format!("{file}: [windows.{}.columns] {name}", window.name);
                let parsed = parse(sql).map_err(|why| refusal(&what, sql, &why))?;
                let mut take = |sql: &Option<String>| -> Result<Option<usize>> {
                    sql.as_ref().map(|sql| argument(context, &what, sql, schema, &mut arguments)).transpose()
                };
                let (argument, filter) = (take(&parsed.argument)?, take(&parsed.filter)?);
                aggregates.push(Aggregate { name: name.clone(), function: parsed.function, argument, filter });
            }
            sets.push(WindowSet { name: window.name.clone(), key, window: window.window, aggregates });
        }
        let settings = Settings {
            keys: keys.iter().map(|_| KeyType::Bytes).collect(),
            columns: arguments.iter().map(|argument| argument.kind).collect(),
            sets,
            meaning: meaning(pipeline)?,
            allowed_lateness: pipeline.events.allowed_lateness,
            max_future: pipeline.events.max_future,
            late: match pipeline.events.late_grace {
                None => LatePolicy::SideOutput,
                Some(grace) => LatePolicy::IntoWindow { grace },
            },
            max_state_bytes: pipeline.stream.max_state_bytes,
        };
        let plan = Plan::new(settings).map_err(|e| refused(e, &file.to_string()))?;
        let empty = plan.event_output();
        for (window, set) in pipeline.windows.iter().zip(&empty.sets) {
            for ((name, _), column) in window.columns.iter().zip(&set.columns) {
                let data_type = match column.values {
                    OutValues::Double(_) => DataType::Float64,
                    OutValues::Long(_) => DataType::Int64,
                    OutValues::Boolean(_) => DataType::Boolean,
                    OutValues::Bytes(..) => DataType::Utf8,
                };
                fields.push(Field::new(name, data_type, true));
            }
        }
        Ok(Some(Self { plan, fields, keys, arguments, source: pipeline.source.clone() }))
    }

    /// The columns of the keys, by the number of a key's kind.
    pub fn keys(&self) -> &[Vec<String>] {
        &self.keys
    }

    /// What the windows count, of every event.
    ///
    /// # Errors
    /// `Data` when it cannot be computed of an event's values.
    pub fn arguments(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let argument = |argument: &Argument| {
            let values = argument.expression.evaluate(batch)?;
            let wanted = arrow_type(argument.kind);
            cast(&values, &wanted)
                .map_err(|e| Error::data(format!("`{}` of a window does not fit {wanted}: {e}", argument.sql)).cause(e))
        };
        self.arguments.iter().map(argument).collect()
    }

    /// Hands events to the windows of their partitions. `ranges` are the rows
    /// of each, `files` the names of those that are files.
    ///
    /// # Errors
    /// When the state may not grow, or a key comes from two partitions.
    pub fn process(
        &self,
        batch: &RecordBatch,
        arguments: &[ArrayRef],
        ranges: &[(u32, Range<usize>)],
        files: &BTreeMap<u32, String>,
        take: &mut dyn FnMut(&Batch<'_>) -> Result<(), StreamError>,
    ) -> Result<()> {
        let mut encoded = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            let keys = Keys::new(batch, key)?;
            let (mut ends, mut bytes) = (Vec::with_capacity(batch.num_rows() + 1), Vec::new());
            ends.push(0i32);
            for row in 0..batch.num_rows() {
                keys.encode(row, &mut bytes);
                ends.push(i32::try_from(bytes.len()).map_err(|_| Error::data("the keys of a poll exceed 2 GiB"))?);
            }
            encoded.push((ends, bytes));
        }
        let (offsets, arrivals, times) =
            (longs(batch, "source_offset")?, micros(batch, "arrival_timestamp")?, micros(batch, "event_timestamp")?);
        for (partition, rows) in ranges {
            let keys: Vec<CoreKeys<'_>> = encoded
                .iter()
                .map(|(ends, bytes)| CoreKeys::Bytes(Strings::new(&ends[rows.start..=rows.end], bytes)))
                .collect();
            let columns: Vec<Column<'_>> = arguments.iter().map(|array| column(array, rows)).collect();
            let events = Batch {
                partition: *partition,
                offsets: &offsets[rows.clone()],
                event_times: &times[rows.clone()],
                arrivals: &arrivals[rows.clone()],
                keys: &keys,
                columns: &columns,
            };
            take(&events).map_err(|e| self.refused(e, batch, &encoded, files))?;
        }
        Ok(())
    }

    /// What the windows refused, with keys as a person reads them.
    fn refused(
        &self,
        error: StreamError,
        batch: &RecordBatch,
        encoded: &[(Vec<i32>, Vec<u8>)],
        files: &BTreeMap<u32, String>,
    ) -> Error {
        let StreamError::KeyInTwoPartitions { key, first, second } = &error else { return refused(error, "windows") };
        let mut shown = key.clone();
        for (columns, (ends, bytes)) in self.keys.iter().zip(encoded) {
            let strings = Strings::new(ends, bytes);
            let row = (0..batch.num_rows()).find(|row| Key::Bytes(strings.get(*row)).to_string() == *key);
            if let (Some(row), Ok(keys)) = (row, Keys::new(batch, columns)) {
                shown = keys.display(row);
            }
        }
        if let (Some(first), Some(second)) = (files.get(first), files.get(second)) {
            let what = format!("windows: key `{shown}` came from the files `{first}` and `{second}`");
            return Error::new(error.kind(), what).hint(
                "with windows all events of a key must be in one file: write one file that grows, or a file for each \
                 group of entities, and not one a day",
            );
        }
        let (first, second) = (self.source.partition_name(*first), self.source.partition_name(*second));
        Error::new(error.kind(), format!("windows: key `{shown}` came from partitions {first} and {second}"))
            .hint("an entity's events must come in one partition: let the producer choose it by the key of the windows")
    }

    /// The rows of closed windows: keys of these types, where the windows
    /// start and end, then the windows' columns.
    ///
    /// # Errors
    /// Never for keys that were encoded by [`Windows::process`].
    pub fn closed(&self, rows: &ClosedRows, key_types: &[DataType]) -> Result<(Vec<ArrayRef>, BooleanArray)> {
        let encoded: Vec<&[u8]> = (0..rows.len())
            .map(|row| match rows.keys.get(row) {
                Value::Bytes(bytes) => bytes,
                _ => &[],
            })
            .collect();
        let mut columns = crate::key::decode(&encoded, key_types)?;
        for times in [&rows.window_starts, &rows.window_ends] {
            columns.push(Arc::new(TimestampMicrosecondArray::from(times.clone()).with_timezone("UTC")));
        }
        columns.extend(rows.columns.iter().map(array));
        Ok((columns, BooleanArray::from(rows.complete.clone())))
    }

    /// The windows' columns, and whether all windows of a row are complete.
    pub fn columns(&self, out: &EventOutput) -> (Vec<ArrayRef>, BooleanArray) {
        let columns = out.sets.iter().flat_map(|set| &set.columns).map(array).collect();
        let complete = (0..out.len()).map(|row| out.sets.iter().all(|set| set.complete[row]));
        (columns, BooleanArray::from(complete.collect::<Vec<bool>>()))
    }
}

/// A number for what events become before they enter windows, and for the keys
/// and expressions of those.
fn meaning(pipeline: &StreamPipeline) -> Result<u64> {
    let events = &pipeline.events;
    let payload = (&events.format, &events.message, &events.fields, &events.columns);
    let sql = |columns: &[(String, String)]| columns.iter().map(|(_, sql)| sql.clone()).collect::<Vec<_>>();
    let windows: Vec<_> = pipeline.windows.iter().map(|window| (&window.key, sql(&window.columns))).collect();
    let all = (payload, &events.time, &events.time_zone, &events.filter, windows);
    let text = serde_json::to_vec(&all).map_err(|e| Error::internal(format!("the windows have no JSON form: {e}")))?;
    Ok(xxh3_64(&text))
}

/// What the window engine refused.
pub fn refused(error: StreamError, what: &str) -> Error {
    let text = error.to_string();
    let (message, hint) = match text.split_once("; hint: ") {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (text.clone(), None),
    };
    let new = Error::new(error.kind(), format!("{what}: {message}"));
    match hint {
        Some(hint) => new.hint(hint),
        None => new,
    }
}

fn longs<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [i64]> {
    let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
    column.map(|column| &column.values()[..]).ok_or_else(|| Error::internal(format!("events without `{name}`")))
}

fn micros<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [i64]> {
    let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    column.map(|column| &column.values()[..]).ok_or_else(|| Error::internal(format!("events without `{name}`")))
}

fn arrow_type(kind: ColumnType) -> DataType {
    match kind {
        ColumnType::Double => DataType::Float64,
        ColumnType::Long => DataType::Int64,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Bytes => DataType::Utf8,
    }
}

/// Some rows of a column that was cast to a type of [`arrow_type`].
fn column<'a>(array: &'a ArrayRef, rows: &Range<usize>) -> Column<'a> {
    let values = match array.data_type() {
        DataType::Float64 => Values::Double(&array.as_primitive::<Float64Type>().values()[rows.clone()]),
        DataType::Int64 => Values::Long(&array.as_primitive::<Int64Type>().values()[rows.clone()]),
        DataType::Boolean => {
            let bits = array.as_boolean().values();
            Values::Boolean(Bits::new(bits.values(), bits.offset() + rows.start))
        }
        _ => {
            let strings = array.as_string::<i32>();
            Values::Bytes(Strings::new(&strings.value_offsets()[rows.start..=rows.end], strings.value_data()))
        }
    };
    let valid = array.nulls().map(|nulls| Bits::new(nulls.validity(), nulls.offset() + rows.start));
    Column { values, valid }
}

fn array(column: &OutColumn) -> ArrayRef {
    let nulls = column.valid.iter().any(|valid| !valid).then(|| NullBuffer::from(column.valid.as_slice()));
    match &column.values {
        OutValues::Double(values) => Arc::new(Float64Array::new(ScalarBuffer::from(values.clone()), nulls)),
        OutValues::Long(values) => Arc::new(Int64Array::new(ScalarBuffer::from(values.clone()), nulls)),
        OutValues::Boolean(values) => Arc::new(BooleanArray::new(values.as_slice().into(), nulls)),
        OutValues::Bytes(ends, data) => {
            let lengths = ends.iter().scan(0, |from, end| Some(end - std::mem::replace(from, *end)));
            let offsets = OffsetBuffer::from_lengths(lengths);
            // They were UTF-8 when they came in.
            match StringArray::try_new(offsets, data.as_slice().into(), nulls) {
                Ok(text) => Arc::new(text),
                Err(_) => arrow::array::new_null_array(&DataType::Utf8, column.len()),
            }
        }
    }
}

fn argument(
    context: &SessionContext,
    what: &str,
    sql: &str,
    schema: &Schema,
    arguments: &mut Vec<Argument>,
) -> Result<usize> {
    if let Some(index) = arguments.iter().position(|argument| argument.sql == sql) {
        return Ok(index);
    }
    let expression = Expression::new(context, what.to_owned(), sql, schema)?;
    let kind = match expression.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => ColumnType::Double,
        other if other.is_integer() => ColumnType::Long,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) => ColumnType::Double,
        DataType::Boolean => ColumnType::Boolean,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ColumnType::Bytes,
        other => {
            return Err(Error::invalid(format!("{what}: a window cannot take in `{sql}`, which is {other}"))
                .hint("cast it to DOUBLE, BIGINT, BOOLEAN or VARCHAR"));
        }
    };
    arguments.push(Argument { sql: sql.to_owned(), expression, kind });
    Ok(arguments.len() - 1)
}

fn refusal(what: &str, sql: &str, why: &str) -> Error {
    Error::invalid(format!("{what}: `{sql}` {why}")).hint(
        "one of count, sum, avg, min, max, first_value, last_value, approx_distinct and \
         approx_percentile_cont(value, q), with FILTER (WHERE …) if wanted",
    )
}

/// `function(argument) FILTER (WHERE filter)`, or why it is not.
fn parse(sql: &str) -> Result<Parsed, String> {
    let dialect = GenericDialect {};
    let not_sql = |e: datafusion::sql::sqlparser::parser::ParserError| format!("is not SQL: {e}");
    let mut parser = Parser::new(&dialect).try_with_sql(sql).map_err(not_sql)?;
    let expression = parser.parse_expr().map_err(not_sql)?;
    if parser.peek_token().token != Token::EOF {
        return Err(format!("goes on after an expression, at `{}`", parser.peek_token().token));
    }
    let Expr::Function(function) = expression else { return Err("is no call of an aggregate".to_owned()) };
    if function.over.is_some() || !function.within_group.is_empty() {
        return Err("has a clause that a window cannot honour".to_owned());
    }
    let name = function.name.to_string().to_ascii_lowercase();
    let arguments = arguments(&function)?;
    let ignore_nulls = match &function.null_treatment {
        None | Some(NullTreatment::RespectNulls) => false,
        Some(NullTreatment::IgnoreNulls) => true,
    };
    let (found, wanted) = match name.as_str() {
        "count" => (Function::Count, arguments.len()),
        "sum" => (Function::Sum, 1),
        "avg" | "mean" => (Function::Avg, 1),
        "min" => (Function::Min, 1),
        "max" => (Function::Max, 1),
        "first_value" | "first" => (Function::First { ignore_nulls }, 1),
        "last_value" | "last" => (Function::Last { ignore_nulls }, 1),
        "approx_distinct" | "approx_count_distinct" => (Function::ApproxDistinct, 1),
        "approx_percentile_cont" | "percentile_approx" => {
            let q = arguments.get(1).and_then(|text| text.parse().ok());
            (Function::Quantile { q: q.ok_or("needs a number from 0 to 1 as its second argument")? }, 2)
        }
        _ => return Err("is no aggregate that a window can keep".to_owned()),
    };
    if ignore_nulls && !matches!(found, Function::First { .. } | Function::Last { .. }) {
        return Err("passes over nulls anyway".to_owned());
    }
    if arguments.len() != wanted || arguments.len() > 2 || (name == "count" && arguments.len() > 1) {
        return Err(format!("has {} arguments", arguments.len()));
    }
    Ok(Parsed {
        function: found,
        argument: arguments.first().cloned(),
        filter: function.filter.map(|filter| filter.to_string()),
    })
}

/// The arguments; `*` is none.
fn arguments(function: &SqlFunction) -> Result<Vec<String>, String> {
    let FunctionArguments::List(list) = &function.args else {
        return Err("has no arguments in brackets".to_owned());
    };
    if list.duplicate_treatment == Some(DuplicateTreatment::Distinct) {
        return Err("counts distinct values exactly, which takes unbounded memory: write approx_distinct".to_owned());
    }
    if !list.clauses.is_empty() {
        return Err("has a clause that a window cannot honour".to_owned());
    }
    let mut found = Vec::new();
    for argument in &list.args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => found.push(expression.to_string()),
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) if list.args.len() == 1 => {}
            other => return Err(format!("has the argument `{other}`")),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(function: Function, argument: Option<&str>, filter: Option<&str>) -> Parsed {
        Parsed { function, argument: argument.map(str::to_owned), filter: filter.map(str::to_owned) }
    }

    #[test]
    fn aggregates_are_read_as_sql_writes_them() {
        for (sql, wanted) in [
            ("count(*)", parsed(Function::Count, None, None)),
            ("COUNT(x)", parsed(Function::Count, Some("x"), None)),
            ("avg(flag * 2) FILTER (WHERE kind = 'a')", parsed(Function::Avg, Some("flag * 2"), Some("kind = 'a'"))),
            ("last_value(x) IGNORE NULLS", parsed(Function::Last { ignore_nulls: true }, Some("x"), None)),
            ("approx_percentile_cont(x, 0.5)", parsed(Function::Quantile { q: 0.5 }, Some("x"), None)),
        ] {
            assert_eq!(parse(sql), Ok(wanted), "{sql}");
        }
        for (sql, why) in [
            ("x + 1", "is no call"),
            ("median(x)", "is no aggregate"),
            ("count(DISTINCT x)", "approx_distinct"),
            ("sum(x) OVER (ORDER BY x)", "cannot honour"),
            ("sum(x) y", "goes on"),
            ("sum(x, y)", "has 2 arguments"),
            ("sum()", "has 0 arguments"),
            ("approx_percentile_cont(x)", "second argument"),
            ("sum(x", "is not SQL"),
        ] {
            let found = parse(sql).unwrap_err();
            assert!(found.contains(why), "{sql}: {found}");
        }
    }
}
