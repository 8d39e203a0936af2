//! Prediction rows: of the entities that were scored, and of those that left.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Float64Array, Int64Array, MapArray, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use insightera_infer::{Model, Predictions, top_reasons};

use super::exec::{Reason, ScoreSpec};
use super::output::OutputPlan;
use crate::config::Explain;
use crate::{Error, Result};

/// What is the same for all rows of a batch.
#[derive(Debug, Clone, Copy)]
pub struct RowFacts<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// The model's name.
    pub model_name: Option<&'a str>,
    /// What `model_version` says.
    pub model_version: &'a str,
    /// The run.
    pub run_id: &'a str,
    /// The definition.
    pub definition_hash: u64,
    /// The prediction time, microseconds since the epoch.
    pub timestamp: i64,
    /// What `inference_type` says.
    pub inference_type: &'a str,
}

impl<'a> From<&'a ScoreSpec> for RowFacts<'a> {
    fn from(spec: &'a ScoreSpec) -> Self {
        Self {
            pipeline: &spec.pipeline,
            model_name: spec.model_name.as_deref(),
            model_version: &spec.model_version,
            run_id: &spec.run_id,
            definition_hash: spec.definition_hash,
            timestamp: spec.timestamp,
            inference_type: spec.inference_type(),
        }
    }
}

/// What there is of the rows of a batch beside their features.
#[derive(Debug)]
pub struct Scored {
    /// What the model predicts, if there is a model.
    pub predictions: Option<Predictions>,
    /// The features that moved the predictions most, where they are asked for.
    pub explained: Option<ArrayRef>,
    /// Why each row is written.
    pub reasons: ArrayRef,
    /// The hash of the features of each row.
    pub feature_hashes: Vec<i64>,
}

/// The model's columns beside the features, then every output expression.
pub fn output_batch(
    facts: RowFacts<'_>,
    plan: &OutputPlan,
    schema: &SchemaRef,
    features: &RecordBatch,
    scored: Scored,
) -> Result<RecordBatch> {
    let Scored { predictions, explained, reasons, feature_hashes } = scored;
    let rows = features.num_rows();
    let mut columns: Vec<ArrayRef> = features.columns().to_vec();
    columns.extend(prediction_columns(facts, plan, features.num_columns(), predictions, explained, rows)?);
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("the scoring batch does not fit: {e}")).cause(e);
    let wide = RecordBatch::try_new(plan.input_schema.clone(), columns).map_err(failed)?;
    let mut out: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (column, field) in plan.columns.iter().zip(schema.fields()) {
        let value = column.physical.evaluate(&wide).and_then(|v| v.into_array(rows)).map_err(|e| {
            Error::data(format!("[output.columns] {} = {}: {}", column.column.name, column.sql, e.strip_backtrace()))
                .hint("guard the expression against the values that it cannot take, for example with CASE or NULLIF")
        })?;
        out.push(cast(&value, field.data_type()).map_err(failed)?);
    }
    out.push(text(Some(facts.pipeline), rows));
    out.push(text(facts.model_name, rows));
    out.push(text(Some(facts.run_id), rows));
    out.push(reasons);
    out.push(Arc::new(Int64Array::from(feature_hashes)));
    out.push(Arc::new(Int64Array::from_value(facts.definition_hash as i64, rows)));
    out.push(new_null_array(&DataType::Utf8, rows));
    out.push(new_null_array(&DataType::Float64, rows));
    RecordBatch::try_new(schema.clone(), out).map_err(failed)
}

/// One text in every row, or nulls.
pub fn text(value: Option<&str>, rows: usize) -> ArrayRef {
    match value {
        Some(value) => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, rows))),
        None => new_null_array(&DataType::Utf8, rows),
    }
}

fn prediction_columns(
    facts: RowFacts<'_>,
    plan: &OutputPlan,
    from: usize,
    predictions: Option<Predictions>,
    explained: Option<ArrayRef>,
    rows: usize,
) -> Result<Vec<ArrayRef>> {
    let null = |index: usize| new_null_array(plan.input_schema.field(from + index).data_type(), rows);
    let number = |array: Option<Float64Array>, index: usize| match array {
        Some(array) => Arc::new(array) as ArrayRef,
        None => null(index),
    };
    let (prediction, probability, probabilities, margin) = match predictions {
        None => (null(0), null(1), null(2), null(3)),
        Some(p) => {
            let map = match p.probabilities.as_ref().filter(|_| plan.uses_probabilities) {
                None => null(2),
                Some(classes) => {
                    let labels = classes.labels.len();
                    let keys: Vec<&str> = (0..rows).flat_map(|_| classes.labels.iter().map(String::as_str)).collect();
                    let keys = StringArray::from(keys);
                    let values = Float64Array::from(classes.values.clone());
                    let DataType::Map(entries, _) = plan.input_schema.field(from + 2).data_type().clone() else {
                        return Err(Error::internal("`probabilities` is not a map"));
                    };
                    let DataType::Struct(fields) = entries.data_type().clone() else {
                        return Err(Error::internal("a map without entries"));
                    };
                    let inner = StructArray::new(fields, vec![Arc::new(keys), Arc::new(values)], None);
                    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(labels, rows));
                    Arc::new(MapArray::new(entries, offsets, inner, None, false)) as ArrayRef
                }
            };
            (Arc::new(p.prediction) as ArrayRef, number(p.probability, 1), map, number(p.margin, 3))
        }
    };
    let timestamps = TimestampMicrosecondArray::from_value(facts.timestamp, rows).with_timezone("UTC");
    let day = i32::try_from(facts.timestamp.div_euclid(86_400_000_000)).unwrap_or(i32::MAX);
    let mut columns = vec![
        prediction,
        probability,
        probabilities,
        margin,
        text(Some(facts.model_version), rows),
        Arc::new(timestamps),
        Arc::new(Date32Array::from_value(day, rows)),
        text(Some(facts.inference_type), rows),
    ];
    if plan.explain.is_some() {
        columns.push(explained.unwrap_or_else(|| null(columns.len())));
    }
    Ok(columns)
}

/// The features that moved each row's score most, in words. Of several classes
/// the score is that of the predicted one.
pub fn explained(
    model: &dyn Model,
    features: &RecordBatch,
    predictions: &Predictions,
    explain: &Explain,
) -> insightera_infer::Result<ArrayRef> {
    let found = model.contributions(features)?;
    Ok(Arc::new(top_reasons(model.description(), &found, predictions, explain.top, &explain.score)))
}

/// Rows that say an entity left the feature set: key, time and record columns,
/// everything else null.
pub fn removed_rows(spec: &ScoreSpec, plan: &OutputPlan, schema: &SchemaRef, keys: &[&[u8]]) -> Result<RecordBatch> {
    let rows = keys.len();
    let types = spec
        .key
        .iter()
        .map(|k| schema.field_with_name(k).map(|f| f.data_type().clone()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::internal(e.to_string()))?;
    let decoded = crate::key::decode(keys, &types)?;
    let features = plan.input_schema.fields().len() - super::output::prediction_fields(plan.explain.is_some()).len();
    let facts = prediction_columns(spec.into(), plan, features, None, None, rows)?;
    let fact = |name: &str| {
        plan.input_schema.index_of(name).ok().and_then(|i| i.checked_sub(features)).and_then(|i| facts.get(i)).cloned()
    };
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| {
            if let Some(at) = spec.key.iter().position(|k| k == field.name()) {
                return Ok(decoded[at].clone());
            }
            if let Some(own) = plan.columns.get(index) {
                // Only what the engine itself knows has a value.
                return Ok(fact(own.sql.trim().trim_matches('"'))
                    .filter(|a| a.data_type() == field.data_type())
                    .unwrap_or_else(|| new_null_array(field.data_type(), rows)));
            }
            Ok(match field.name().as_str() {
                "pipeline" => text(Some(&spec.pipeline), rows),
                "model_name" => text(spec.model_name.as_deref(), rows),
                "run_id" => text(Some(&spec.run_id), rows),
                "score_reason" => text(Some(Reason::Removed.as_str()), rows),
                "definition_hash" => Arc::new(Int64Array::from_value(spec.definition_hash as i64, rows)),
                _ => new_null_array(field.data_type(), rows),
            })
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    RecordBatch::try_new(schema.clone(), columns).map_err(|e| Error::internal(e.to_string()).cause(e))
}
