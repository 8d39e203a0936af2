//! A whole pipeline: built from its stages, checked, and at work.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use serde_json::Value;

use super::explain::{self, Slot};
use super::frame::Frame;
use super::head::Head;
use super::sql::{self, SqlStage};
use super::stage::{self, Kind, Plan, Source, Step};
use super::store::{Folder, Parameters};
use crate::error::{Error, Result};
use crate::explain::{Contributions, check_size};
use crate::model::{Description, Input, InputKind, Model, Predictions, Signature};

/// Rows that go through all stages together: fewer where vectors are wide.
const ROWS: usize = 1024;
/// Numbers of all stages, and values that they make of one row, at most.
const MAX_VALUES: usize = 1 << 23;
/// Values that stages make at once.
const MADE_AT_ONCE: usize = 1 << 24;

#[derive(Debug)]
pub struct SparkModel {
    steps: Vec<Step>,
    head: Head,
    /// Where the features come from, or why that is not known.
    slots: Result<Vec<Slot>>,
    /// Rows of a block.
    block: usize,
    description: Description,
    signature: Signature,
}

/// What the stages' folders say.
#[derive(Default)]
struct Stages {
    steps: Vec<Step>,
    /// Numbers that they keep.
    held: usize,
    /// Whether any step wants the attributes of vectors.
    attributes: bool,
    head: Option<(Head, String)>,
}

impl Stages {
    fn add(&mut self, source: &Source<'_>, engine: Option<&Arc<dyn SqlStage>>) -> Result<()> {
        let class = source.class;
        if let Some((head, _)) = &mut self.head {
            if class == "IndexToString" && source.parameters.text("inputCol") == Some(head.prediction.as_str()) {
                let labels = source.parameters.texts("labels")?.unwrap_or_default();
                return head.label_classes(&labels);
            }
            return Err(Error::invalid(format!(
                "the stage {class} comes after the model's estimator, which is not supported"
            ))
            .with_hint("`prediction` is the number of the class: name it in an output expression"));
        }
        self.attributes |= matches!(class, "Interaction" | "VectorSlicer");
        let steps = if class == "SQLTransformer" { Some(sql::load(source, engine)?) } else { stage::load(source)? };
        match steps {
            Some(steps) => {
                self.held += steps.iter().map(|step| step.work.held()).sum::<usize>();
                if self.held > MAX_VALUES {
                    return Err(Error::invalid(format!(
                        "the pipeline has more than {MAX_VALUES} numbers before its model"
                    )));
                }
                self.steps.extend(steps);
            }
            None => {
                let mut head = Head::load(source)?;
                let indexed = self.steps.iter().find(|step| step.makes.contains(&head.label));
                if let Some(labels) = indexed.and_then(|step| step.work.labels()) {
                    head.name_classes(labels);
                }
                self.head = Some((head, class.to_owned()));
            }
        }
        Ok(())
    }
}

/// Builds the model of these stages.
pub fn build(folders: &[(Folder<'_>, Value)], engine: Option<&Arc<dyn SqlStage>>) -> Result<SparkModel> {
    let mut stages = Stages::default();
    for (folder, metadata) in folders {
        let class = super::class_of(metadata);
        let parameters = Parameters::new(metadata);
        let source = Source { class: &class, metadata, parameters: &parameters, folder };
        stages.add(&source, engine).map_err(|e| if folder.path().is_empty() { e } else { e.within(folder.path()) })?;
    }
    let Stages { steps, attributes, head, .. } = stages;
    let (mut head, class) =
        head.ok_or_else(|| Error::invalid("the pipeline has no estimator: it only prepares features"))?;
    let mut needed: HashSet<String> = [head.features.clone()].into_iter().chain(head.offset.clone()).collect();
    let mut kept: Vec<Step> = Vec::new();
    for step in steps.into_iter().rev() {
        if step.makes.iter().any(|name| needed.contains(name)) {
            step.makes.iter().for_each(|name| {
                needed.remove(name);
            });
            needed.extend(step.reads.iter().cloned());
            kept.push(step);
        }
    }
    kept.reverse();
    let mut steps = kept;

    // The columns that no stage makes come from the rows.
    let mut made: HashMap<String, Kind> = HashMap::new();
    let mut inputs: Vec<Input> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut row_values = 0;
    for step in &mut steps {
        for (name, kind) in step.reads.iter().zip(&step.kinds) {
            want(&mut inputs, &mut seen, &made, name, *kind);
        }
        let kind = |name: &String| made.get(name).cloned().unwrap_or(Kind::Raw);
        let reads = step.reads.iter().map(|name| (name.as_str(), kind(name))).collect();
        let plan = Plan { reads, makes: &step.makes, attributes };
        let kinds = step.work.plan(&plan)?;
        row_values += kinds.iter().map(Kind::values).sum::<usize>();
        if row_values > MAX_VALUES {
            return Err(Error::invalid(format!("the stages make more than {MAX_VALUES} values of one row")));
        }
        made.extend(step.makes.iter().cloned().zip(kinds));
    }
    match (made.get(&head.features), head.width()) {
        (Some(Kind::Vector { width: Some(width), .. }), Some(wanted)) if *width != wanted => {
            let features = &head.features;
            return Err(Error::data(format!("`{features}` has {width} values, {class} was trained on {wanted}")));
        }
        (Some(Kind::Number(_)), _) if !head.takes_numbers() => {
            return Err(Error::data(format!("`{}` holds numbers, {class} wants vectors", head.features)));
        }
        _ => {}
    }
    for name in [Some(&head.features), head.offset.as_ref()].into_iter().flatten() {
        want(&mut inputs, &mut seen, &made, name, InputKind::Numeric);
    }
    let block = (MADE_AT_ONCE / row_values.max(head.width().unwrap_or(1)).max(1)).clamp(1, ROWS);
    let description = Description { flavor: "spark".into(), objective: class, ..head.describe() };
    let slots = match head.width() {
        Some(width) => explain::slots(&steps, &inputs, &head.features, width),
        None => Err(unexplained(&description)),
    };
    if let Ok(slots) = &slots {
        head.explain_by(slots, inputs.len());
    }
    Ok(SparkModel { steps, head, slots, block, description, signature: Signature { inputs } })
}

fn unexplained(about: &Description) -> Error {
    Error::invalid(format!("contributions of the {} model {} are not supported", about.flavor, about.objective))
}

/// Notes a column that comes from the rows.
fn want(
    inputs: &mut Vec<Input>,
    seen: &mut HashSet<String>,
    made: &HashMap<String, Kind>,
    name: &str,
    kind: InputKind,
) {
    if !made.contains_key(name) && seen.insert(name.to_owned()) {
        inputs.push(Input { name: name.to_owned(), kind });
    }
}

impl SparkModel {
    fn frame<'a>(&'a self, block: &'a RecordBatch) -> Result<Frame<'a>> {
        let mut frame = Frame::new(block, &self.signature.inputs);
        for step in &self.steps {
            frame.apply(step)?;
        }
        Ok(frame)
    }

    fn raw(&self, block: &RecordBatch) -> Result<Vec<Vec<f64>>> {
        self.head.raw(&self.frame(block)?)
    }
}

impl Model for SparkModel {
    fn description(&self) -> &Description {
        &self.description
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn score(&self, batch: &RecordBatch) -> Result<Predictions> {
        let mut raw = self.raw(&batch.slice(0, batch.num_rows().min(self.block)))?;
        for start in (self.block..batch.num_rows()).step_by(self.block) {
            let rows = self.block.min(batch.num_rows() - start);
            let more = self.raw(&batch.slice(start, rows))?;
            raw.iter_mut().zip(more).for_each(|(all, more)| all.extend(more));
        }
        Ok(self.head.finish(raw))
    }

    fn contributions(&self, batch: &RecordBatch) -> Result<Contributions> {
        let (inputs, rows) = (&self.signature.inputs, batch.num_rows());
        let slots = self.slots.as_ref().map_err(|why| Error::invalid(why.to_string()))?;
        let (mut outputs, mut values) = (1, Vec::new());
        for start in (0..rows.max(1)).step_by(self.block) {
            let block = batch.slice(start, self.block.min(rows - start));
            let found = self.head.contributions(&self.frame(&block)?, slots, inputs.len())?;
            let (count, more) = found.ok_or_else(|| unexplained(&self.description))?;
            check_size(rows, inputs.len(), count)?;
            outputs = count;
            values.extend(more);
        }
        Contributions::new(batch, inputs, outputs, values)
    }
}
