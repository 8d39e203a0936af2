//! `model inspect`: what a model is.

use std::path::Path;

use insightera_engine::config::Overrides;
use insightera_infer::{InputKind, Model};
use serde_json::{Value, json};

use super::Answer;
use crate::cli::ReportFormat;
use crate::printer::Printer;
use crate::text;

/// Loads a model and describes it.
pub fn inspect(
    project: &Path,
    overrides: Overrides,
    model: &str,
    format: ReportFormat,
    printer: &Printer,
) -> anyhow::Result<Answer> {
    let found = super::named::find(project, overrides, model, printer)?.model;
    match format {
        ReportFormat::Json => Answer::json(&object(found.as_ref())),
        ReportFormat::Table => Ok(Answer::done(render(model, found.as_ref(), printer))),
    }
}

fn kind(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Numeric => "number",
        InputKind::Categorical => "label",
    }
}

fn object(model: &dyn Model) -> Value {
    let about = model.description();
    let features: Vec<Value> =
        model.signature().inputs.iter().map(|i| json!({ "name": i.name, "type": kind(i.kind) })).collect();
    json!({
        "flavor": about.flavor,
        "objective": about.objective,
        "classes": about.labels,
        "trees": about.trees,
        "nodes": about.nodes,
        "max_depth": about.max_depth,
        "features": features,
    })
}

fn render(name: &str, model: &dyn Model, printer: &Printer) -> String {
    let about = model.description();
    let mut text = printer.heading(&format!("model {name}")) + "\n";
    let mut add = |name: &str, value: String| text.push_str(&format!("  {name:<9} {value}\n"));
    add("format", about.flavor.clone());
    add("objective", about.objective.clone());
    if !about.labels.is_empty() {
        add("classes", about.labels.join(", "));
    }
    if about.trees > 0 {
        let (trees, nodes) = (text::count(about.trees as u64), text::count(about.nodes as u64));
        add("trees", format!("{trees}, up to {} deep, {nodes} nodes", about.max_depth));
    }
    add("features", model.signature().inputs.len().to_string());
    let rows: Vec<Vec<String>> =
        model.signature().inputs.iter().map(|i| vec![i.name.clone(), kind(i.kind).to_owned()]).collect();
    text + &text::columns(&["feature", "type"], &[], &rows)
}
