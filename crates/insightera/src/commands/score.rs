//! `score`: a model over a file of rows, without a project.
//!
//! Rows stream through in batches: read, scored on all threads, written in
//! order. The output keeps the columns of the input and adds `prediction`,
//! `probability` and `rawPrediction` as far as the model has them, and `reasons`
//! when they are asked for.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, ListArray, RecordBatch, RecordBatchReader, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json;
use insightera_core::{Clock, SystemClock};
use insightera_engine::config::Overrides;
use insightera_engine::{Error, Result};
use insightera_infer::{Model, Predictions, top_reasons};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::row_files::{self, Kind};
use super::{Answer, named};
use crate::printer::Printer;
use crate::progress::Bars;
use crate::resolve::Score;
use crate::text;

/// Scores a file.
pub fn score(project: &Path, overrides: Overrides, score: &Score, printer: &Printer) -> anyhow::Result<Answer> {
    let threads = match overrides.threads {
        None | Some(0) => std::thread::available_parallelism().map_or(1, usize::from),
        Some(threads) => threads,
    };
    let model = named::find(project, overrides, &score.model, printer)?.model;
    let input = row_files::open(&score.input)?;
    let schema = with_predictions(&input.schema(), model.as_ref(), score)?;
    let scorer = Scorer { model: model.as_ref(), schema: &schema, explain: score.explain };
    let mut output = Output::create(score.output.as_deref(), &scorer)?;
    let clock = SystemClock::new();
    let start = clock.monotonic_seconds();
    let bar = Bars::new(printer).bar("score");
    bar.stage("rows", Some(0));
    let mut rows = 0u64;
    let mut batches = input.enumerate().peekable();
    while batches.peek().is_some() {
        let mut group = Vec::with_capacity(4 * threads);
        for (number, batch) in batches.by_ref().take(4 * threads) {
            group.push(batch.map_err(|e| row_files::unreadable(&score.input, number, e))?);
        }
        for scored in scorer.score_group(&group, threads) {
            let scored = scored.map_err(|e| e.within(&score.input))?;
            rows += scored.num_rows() as u64;
            bar.rows(scored.num_rows() as u64);
            output.write(&scored)?;
        }
    }
    output.finish()?;
    bar.finish();
    let seconds = (clock.monotonic_seconds() - start).max(1e-9);
    let to = score.output.as_ref().map(|path| format!(" into `{}`", path.display())).unwrap_or_default();
    printer.message(&format!(
        "{} rows scored{to} in {}, {} rows per second",
        text::count(rows),
        text::seconds(seconds),
        text::count((rows as f64 / seconds) as u64)
    ));
    Ok(Answer::silent())
}

fn list(name: &str) -> Field {
    Field::new_list(name, Field::new_list_field(DataType::Float64, false), true)
}

/// The input's columns and the model's.
fn with_predictions(input: &SchemaRef, model: &dyn Model, score: &Score) -> Result<SchemaRef> {
    let mut fields: Vec<Arc<Field>> = input.fields().iter().cloned().collect();
    let mut added = vec![Field::new("prediction", DataType::Float64, false)];
    if !model.description().labels.is_empty() {
        added.push(list("probability"));
    }
    added.push(list("rawPrediction"));
    if score.explain.is_some() {
        added.push(Field::new_list(REASONS, Field::new_list_field(DataType::Utf8, true), false));
    }
    for field in added {
        if input.column_with_name(field.name()).is_some() {
            return Err(Error::invalid(format!(
                "`{}` has a column `{}`, which the model's answer would hide",
                score.input.display(),
                field.name()
            ))
            .hint("rename or drop the column"));
        }
        fields.push(Arc::new(field));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The column of reasons.
const REASONS: &str = "reasons";

/// What every batch is scored by.
struct Scorer<'a> {
    model: &'a dyn Model,
    /// The columns of the input, then the model's.
    schema: &'a SchemaRef,
    explain: Option<usize>,
}

impl Scorer<'_> {
    /// Scores batches on several threads; the answers come in order.
    fn score_group(&self, group: &[RecordBatch], threads: usize) -> Vec<Result<RecordBatch>> {
        let each = group.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = group
                .chunks(each)
                .map(|batches| scope.spawn(|| batches.iter().map(|b| self.score_batch(b)).collect::<Vec<_>>()))
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| {
                    worker.join().unwrap_or_else(|_| vec![Err(Error::internal("a scoring thread ended early"))])
                })
                .collect()
        })
    }

    fn score_batch(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let scored = self.model.score(batch).map_err(of_model)?;
        let reasons = match self.explain {
            None => None,
            Some(k) => {
                let contributions = self.model.contributions(batch).map_err(of_model)?;
                Some(top_reasons(self.model.description(), &contributions, &scored, k, "score"))
            }
        };
        let Predictions { prediction, probabilities, margin, raw, .. } = scored;
        let rows = batch.num_rows();
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        columns.push(Arc::new(prediction));
        let lists = |values: Vec<f64>| -> ArrayRef {
            let length = values.len().checked_div(rows).unwrap_or(0);
            let field = Arc::new(Field::new_list_field(DataType::Float64, false));
            let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(length, rows));
            Arc::new(ListArray::new(field, offsets, Arc::new(Float64Array::from(values)), None))
        };
        for field in &self.schema.fields()[columns.len()..] {
            columns.push(match (field.name().as_str(), &probabilities, &raw, &margin, &reasons) {
                ("probability", Some(classes), ..) => lists(classes.values.clone()),
                ("rawPrediction", _, Some(raw), ..) => lists(raw.values.clone()),
                ("rawPrediction", _, None, Some(margin), _) => lists(margin.values().to_vec()),
                (REASONS, .., Some(reasons)) => Arc::new(reasons.clone()),
                _ => arrow::array::new_null_array(field.data_type(), rows),
            });
        }
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::internal(format!("scored rows: {e}")).cause(e))
    }
}

fn of_model(e: insightera_infer::Error) -> Error {
    let error = Error::new(e.kind(), e.to_string());
    match e.hint() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Where scored rows go. A file appears under its name when it is complete.
struct Output {
    writer: Writer,
    file: Option<Unfinished>,
    labels: Vec<String>,
    reasons: usize,
}

/// A file that is being written beside its final name, and removed unless it
/// gets there.
struct Unfinished {
    temporary: PathBuf,
    path: PathBuf,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = fs::remove_file(&self.temporary);
    }
}

enum Writer {
    Parquet(Box<ArrowWriter<BufWriter<File>>>),
    Csv(Box<csv::Writer<BufWriter<File>>>),
    Ndjson(Box<json::LineDelimitedWriter<Box<dyn Write>>>),
}

impl Output {
    fn create(path: Option<&Path>, scorer: &Scorer<'_>) -> Result<Self> {
        let labels = scorer.model.description().labels.clone();
        let reasons = scorer.explain.unwrap_or(0);
        let Some(path) = path else {
            let out: Box<dyn Write> = Box::new(BufWriter::new(io::stdout()));
            return Ok(Self {
                writer: Writer::Ndjson(Box::new(json::LineDelimitedWriter::new(out))),
                file: None,
                labels,
                reasons,
            });
        };
        let kind = Kind::of(path)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let unfinished = Unfinished { temporary: temporary.clone(), path: path.to_owned() };
        let file = BufWriter::new(File::create(&temporary).map_err(|e| {
            Error::unavailable(format!("`{}` cannot be written", path.display()))
                .cause(e)
                .hint("does its folder exist, and may you write there?")
        })?);
        let writer = match kind {
            Kind::Parquet => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let writer = ArrowWriter::try_new(file, scorer.schema.clone(), Some(properties));
                Writer::Parquet(Box::new(writer.map_err(|e| Error::internal(format!("Parquet: {e}")).cause(e))?))
            }
            Kind::Csv => Writer::Csv(Box::new(csv::WriterBuilder::new().with_header(true).build(file))),
            Kind::Ndjson => Writer::Ndjson(Box::new(json::LineDelimitedWriter::new(Box::new(file) as Box<dyn Write>))),
        };
        Ok(Self { writer, file: Some(unfinished), labels, reasons })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let shown = self.file.as_ref().map_or_else(|| "standard output".into(), |file| file.path.display().to_string());
        let failed = |e: &dyn std::fmt::Display| Error::unavailable(format!("`{shown}` cannot be written: {e}"));
        match &mut self.writer {
            Writer::Parquet(writer) => writer.write(batch).map_err(|e| failed(&e)),
            Writer::Csv(writer) => writer.write(&flat(batch, &self.labels, self.reasons)?).map_err(|e| failed(&e)),
            Writer::Ndjson(writer) => writer.write(batch).map_err(|e| failed(&e)),
        }
    }

    fn finish(self) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::unavailable(format!("the output cannot be written: {e}"));
        match self.writer {
            Writer::Parquet(writer) => {
                let mut file = writer.into_inner().map_err(|e| failed(&e))?;
                file.flush().map_err(|e| failed(&e))?;
            }
            Writer::Csv(writer) => writer.into_inner().flush().map_err(|e| failed(&e))?,
            Writer::Ndjson(mut writer) => {
                writer.finish().map_err(|e| failed(&e))?;
                writer.into_inner().flush().map_err(|e| failed(&e))?;
            }
        }
        match self.file {
            Some(file) => fs::rename(&file.temporary, &file.path).map_err(|e| failed(&e)),
            None => Ok(()),
        }
    }
}

/// CSV has no lists: a column for each of their values.
fn flat(batch: &RecordBatch, labels: &[String], reasons: usize) -> Result<RecordBatch> {
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    let schema = batch.schema();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let Some(lists) = column.as_any().downcast_ref::<ListArray>() else {
            fields.push(field.as_ref().clone());
            columns.push(column.clone());
            continue;
        };
        let rows = batch.num_rows();
        if field.name() == REASONS && reasons > 0 {
            for place in 0..reasons {
                let texts: StringArray =
                    lists.iter().map(|list| list.and_then(|l| nth(l.as_string::<i32>(), place))).collect();
                fields.push(Field::new(format!("reason_{}", place + 1), DataType::Utf8, true));
                columns.push(Arc::new(texts));
            }
            continue;
        }
        let values = lists.values().as_any().downcast_ref::<Float64Array>();
        let Some(values) = values.filter(|_| matches!(field.name().as_str(), "probability" | "rawPrediction")) else {
            return Err(Error::invalid(format!("column `{}` holds lists, which CSV does not have", field.name()))
                .hint("write a .parquet or .ndjson file"));
        };
        let length = if lists.null_count() == rows { 0 } else { values.len().checked_div(rows).unwrap_or(0) };
        for place in 0..length {
            let name = match (length, labels.get(place)) {
                (1, _) => field.name().clone(),
                (_, Some(label)) => format!("{}_{label}", field.name()),
                _ => format!("{}_{place}", field.name()),
            };
            fields.push(Field::new(name, DataType::Float64, false));
            columns.push(Arc::new(Float64Array::from_iter_values(
                (0..rows).map(|row| values.value(row * length + place)),
            )));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|e| Error::internal(format!("rows: {e}")).cause(e))
}

fn nth(texts: &StringArray, place: usize) -> Option<String> {
    (place < texts.len()).then(|| texts.value(place).to_owned())
}

/// Errors of a batch said of the file.
trait Within {
    fn within(self, path: &Path) -> Self;
}

impl Within for Error {
    fn within(self, path: &Path) -> Self {
        let shown = Error::new(self.kind(), format!("`{}`: {self}", path.display()));
        match self.get_hint() {
            Some(hint) => shown.hint(hint),
            None => shown,
        }
    }
}
