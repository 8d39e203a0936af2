//! `model certify`: how far a model's scores are from those of the library that
//! made it.
//!
//! Words: *golden* rows are inputs together with what the library answered for
//! them; an *output* is one of the model's columns; the *certificate* says for
//! each output the largest difference, its row and both values. A class must
//! always be the same; everything else may differ by the tolerance, relative to
//! the library's value.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::array::{Array, AsArray, Float64Array, RecordBatch, RecordBatchReader, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use insightera_core::{Clock, SystemClock, closest};
use insightera_engine::config::Overrides;
use insightera_engine::{Error, Result};
use insightera_infer::{Artifact, Description, Predictions};
use serde::{Deserialize, Serialize};

use super::{Answer, json_text, named, row_files};
use crate::cli::ReportFormat;
use crate::printer::Printer;
use crate::resolve::Certify;
use crate::text;

/// The tag of a registered version that holds its certificate.
pub const TAG: &str = "insightera.parity";
/// Golden columns that need not be named begin with this.
const PREFIX: &str = "expected_";

/// What was compared, and how it came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The model's identity.
    pub sha256: String,
    /// The model's format.
    pub flavor: String,
    /// The golden file's identity.
    pub golden_sha256: String,
    /// Rows compared.
    pub rows: u64,
    /// Whether every output is within the tolerance.
    pub ok: bool,
    /// The largest relative difference allowed.
    pub tolerance: f64,
    /// Every output.
    pub outputs: Vec<Parity>,
    /// Versions of the libraries that made the golden values, and of this program.
    pub versions: BTreeMap<String, String>,
    /// When, in microseconds since the epoch.
    pub certified_micros: i64,
}

/// One output against one golden column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parity {
    /// The model's output.
    pub output: String,
    /// The golden column.
    pub column: String,
    /// Values that are not the same to the bit.
    pub different: u64,
    /// The largest difference relative to the golden value; of a class 1.
    pub max_relative: f64,
    /// The largest difference.
    pub max_absolute: f64,
    /// The row of the largest relative difference, from 0.
    pub row: Option<u64>,
    /// The model's value there.
    pub found: Option<String>,
    /// The golden value there.
    pub expected: Option<String>,
    /// Whether it is within the tolerance.
    pub ok: bool,
}

impl Certificate {
    /// One line.
    pub fn summary(&self) -> String {
        let worst = self.outputs.iter().max_by(|a, b| a.max_relative.total_cmp(&b.max_relative));
        let worst = match worst {
            Some(Parity { max_relative, output, row: Some(row), .. }) if *max_relative > 0.0 => {
                format!("largest relative difference {max_relative:.1e} (`{output}`, row {row})")
            }
            _ => "not one bit differs".to_owned(),
        };
        let outputs = self.outputs.len();
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let verdict = if self.ok { "certified" } else { "NOT certified" };
        format!("{verdict}: {outputs} outputs of {} rows, {worst}; {}", text::count(self.rows), versions.join(", "))
    }

    /// A certificate out of a file, of this artifact.
    ///
    /// # Errors
    /// When the file is none, or speaks of another model.
    pub fn read(path: &Path, sha256: &str) -> Result<Self> {
        let bytes =
            fs::read(path).map_err(|e| Error::unavailable(format!("`{}` cannot be read", path.display())).cause(e))?;
        let found: Self = serde_json::from_slice(&bytes).map_err(|e| {
            Error::invalid(format!("`{}` is no certificate: {e}", path.display()))
                .hint("`insightera model certify PATH --golden ROWS --output FILE` writes one")
        })?;
        if found.sha256 != sha256 {
            return Err(Error::invalid(format!(
                "`{}` certifies another model: sha256 {} instead of {sha256}",
                path.display(),
                found.sha256
            ))
            .hint("certify the model that you register"));
        }
        Ok(found)
    }
}

/// Compares a model with golden rows.
pub fn certify(project: &Path, overrides: Overrides, wanted: &Certify, printer: &Printer) -> anyhow::Result<Answer> {
    let found = named::find(project, overrides, &wanted.model, printer)?;
    let about = found.model.description();
    let input = row_files::open(&wanted.golden)?;
    let schema = input.schema();
    let mut compared: Vec<Comparison> =
        columns(&schema, wanted, about)?.into_iter().map(|(column, output)| Comparison::new(column, output)).collect();
    let mut rows = 0u64;
    for (number, batch) in input.enumerate() {
        let batch = batch.map_err(|e| row_files::unreadable(&wanted.golden, number, e))?;
        let scored = found.model.score(&batch)?;
        for comparison in &mut compared {
            comparison.add(&batch, &scored, about, rows, &wanted.golden)?;
        }
        rows += batch.num_rows() as u64;
    }
    if rows == 0 {
        return Err(
            Error::invalid(format!("`{}` has no rows: nothing would be certified", wanted.golden.display())).into()
        );
    }
    let tolerance = wanted.tolerance.unwrap_or_else(|| tolerance(about));
    let outputs: Vec<Parity> = compared.into_iter().map(|comparison| comparison.finish(tolerance)).collect();
    let mut versions = wanted.libraries.clone();
    versions.insert("insightera".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let certificate = Certificate {
        sha256: found.sha256,
        flavor: about.flavor.clone(),
        golden_sha256: Artifact::read(&wanted.golden)?.sha256(),
        rows,
        ok: outputs.iter().all(|parity| parity.ok),
        tolerance,
        outputs,
        versions,
        certified_micros: SystemClock::new().now_micros(),
    };
    if let Some((workspace, resolved)) = &found.registered {
        let value = serde_json::to_string(&certificate)?;
        workspace.registry().tag_version(&resolved.name, resolved.version, TAG, &value)?;
        printer.message(&format!("stored with version {} of model `{}`", resolved.version, resolved.name));
    }
    if let Some(path) = &wanted.output {
        fs::write(path, json_text(&certificate)?)
            .map_err(|e| Error::unavailable(format!("`{}` cannot be written", path.display())).cause(e))?;
    }
    let text = match wanted.format {
        ReportFormat::Json => json_text(&certificate)?,
        ReportFormat::Table => render(&certificate),
    };
    Ok(Answer { text, exit_code: u8::from(!certificate.ok) })
}

/// XGBoost's transforms are in single precision: two units in its last place.
fn tolerance(about: &Description) -> f64 {
    if about.flavor == "xgboost" { 2.0 * f64::from(f32::EPSILON) } else { 1e-12 }
}

/// Golden columns and the outputs they are compared with.
fn columns(schema: &SchemaRef, wanted: &Certify, about: &Description) -> Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (column, output) in &wanted.expected {
        if schema.column_with_name(column).is_none() {
            let near = closest(column, schema.fields().iter().map(|f| f.name().as_str()));
            let error = Error::invalid(format!("`{}` has no column `{column}`", wanted.golden.display()));
            return Err(near.into_iter().fold(error, |e, near| e.hint(format!("did you mean `{near}`?"))));
        }
        pairs.push((column.clone(), output.clone()));
    }
    if pairs.is_empty() {
        let named = schema.fields().iter().filter_map(|f| Some((f.name().clone(), f.name().strip_prefix(PREFIX)?)));
        pairs.extend(named.map(|(column, output)| (column, output.to_owned())));
    }
    if pairs.is_empty() {
        return Err(Error::invalid(format!("`{}` has no column of expected values", wanted.golden.display())).hint(
            "name it, as in `--expected score=probability`, or call the columns expected_prediction, \
             expected_probability, expected_margin",
        ));
    }
    for (column, output) in &pairs {
        let known = matches!(output.as_str(), "prediction" | "probability" | "margin")
            || output.strip_prefix("raw_").is_some_and(|n| n.parse::<usize>().is_ok())
            || output.strip_prefix("probability_").is_some_and(|label| about.labels.iter().any(|l| l == label));
        if !known {
            return Err(Error::invalid(format!("golden column `{column}`: the model has no output `{output}`"))
                .hint("outputs are prediction, probability, probability_CLASS, margin and raw_0, raw_1, ..."));
        }
    }
    Ok(pairs)
}

/// One output while it is compared.
struct Comparison {
    column: String,
    output: String,
    different: u64,
    max_absolute: f64,
    worst: Option<(f64, u64, String, String)>,
}

impl Comparison {
    fn new(column: String, output: String) -> Self {
        Self { column, output, different: 0, max_absolute: 0.0, worst: None }
    }

    fn add(
        &mut self,
        batch: &RecordBatch,
        scored: &Predictions,
        about: &Description,
        first: u64,
        golden: &Path,
    ) -> Result<()> {
        let found = output(scored, &self.output, batch.num_rows()).ok_or_else(|| {
            Error::invalid(format!("golden column `{}`: this model has no `{}`", self.column, self.output))
                .hint("`insightera model inspect MODEL` tells what it has")
        })?;
        let unreadable =
            |e: &dyn std::fmt::Display| Error::data(format!("`{}`, column `{}`: {e}", golden.display(), self.column));
        let column = batch.column_by_name(&self.column).ok_or_else(|| unreadable(&"it is not in every batch"))?;
        let classes = self.output == "prediction" && !about.labels.is_empty();
        let texts: Option<StringArray> = match column.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if classes => {
                Some(cast(column, &DataType::Utf8).map_err(|e| unreadable(&e))?.as_string::<i32>().clone())
            }
            other if other.is_numeric() || *other == DataType::Boolean => None,
            other => return Err(unreadable(&format!("it has type {other}, which is no number"))),
        };
        let wanted: Float64Array = match &texts {
            Some(texts) => texts
                .iter()
                .map(|label| label.and_then(|l| about.labels.iter().position(|known| known == l)).map(|p| p as f64))
                .collect(),
            None => cast(column, &DataType::Float64).map_err(|e| unreadable(&e))?.as_primitive::<Float64Type>().clone(),
        };
        for row in 0..batch.num_rows() {
            let (mine, golden) = (found.value(row), if wanted.is_null(row) { f64::NAN } else { wanted.value(row) });
            if mine == golden || (mine.is_nan() && golden.is_nan() && texts.is_none()) {
                continue;
            }
            self.different += 1;
            let absolute = (mine - golden).abs();
            let relative = if classes || absolute.is_nan() { f64::INFINITY } else { absolute / golden.abs() };
            self.max_absolute = self.max_absolute.max(if absolute.is_nan() { f64::INFINITY } else { absolute });
            if self.worst.as_ref().is_none_or(|(worst, ..)| relative > *worst) {
                let shown = match &texts {
                    Some(texts) if !texts.is_null(row) => texts.value(row).to_owned(),
                    _ => golden.to_string(),
                };
                self.worst = Some((relative, first + row as u64, mine.to_string(), shown));
            }
        }
        Ok(())
    }

    fn finish(self, tolerance: f64) -> Parity {
        let (relative, row, found, expected) = match self.worst {
            Some((relative, row, found, expected)) => (relative, Some(row), Some(found), Some(expected)),
            None => (0.0, None, None, None),
        };
        Parity {
            output: self.output,
            column: self.column,
            different: self.different,
            // JSON has no infinity.
            max_relative: relative.min(f64::MAX),
            max_absolute: self.max_absolute.min(f64::MAX),
            row,
            found,
            expected,
            ok: relative <= tolerance,
        }
    }
}

/// A column of the model's answer.
fn output(scored: &Predictions, name: &str, rows: usize) -> Option<Float64Array> {
    let every = |values: &[f64], width: usize, place: usize| -> Option<Float64Array> {
        (place < width).then(|| (0..rows).map(|row| values[row * width + place]).collect::<Vec<f64>>().into())
    };
    match name {
        "prediction" => Some(scored.prediction.clone()),
        "probability" => scored.probability.clone(),
        "margin" => scored.margin.clone(),
        _ => match (name.strip_prefix("probability_"), name.strip_prefix("raw_")) {
            (Some(label), _) => {
                let classes = scored.probabilities.as_ref()?;
                let place = classes.labels.iter().position(|l| l == label)?;
                every(&classes.values, classes.labels.len(), place)
            }
            (None, Some(number)) => {
                let raw = scored.raw.as_ref()?;
                every(&raw.values, raw.width, number.parse().ok()?)
            }
            (None, None) => None,
        },
    }
}

fn render(certificate: &Certificate) -> String {
    let header = ["output", "golden column", "differ", "largest relative", "row", "found", "expected", "verdict"];
    let rows: Vec<Vec<String>> = certificate
        .outputs
        .iter()
        .map(|parity| {
            vec![
                parity.output.clone(),
                parity.column.clone(),
                text::count(parity.different),
                format!("{:.1e}", parity.max_relative),
                parity.row.map_or_else(String::new, |row| row.to_string()),
                parity.found.clone().unwrap_or_default(),
                parity.expected.clone().unwrap_or_default(),
                if parity.ok { "ok".to_owned() } else { format!("over {:.1e}", certificate.tolerance) },
            ]
        })
        .collect();
    let right = [false, false, true, true, true, true, true, false];
    format!("{}\n{}\n", text::columns(&header, &right, &rows), certificate.summary())
}
