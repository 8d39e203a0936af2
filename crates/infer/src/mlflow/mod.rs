//! MLflow model folders: `MLmodel` says which file or folder is the model and
//! of which library, and which columns it was trained on.
//!
//! The model inside is loaded as if it had been given alone. The names of the
//! signature count: a model that was trained on an array, whose features are
//! `f0`, `Column_0` or `0`, gets them in their order, and a model whose names
//! the signature does not have is refused. Flavors that need Python to load
//! are refused with the way out. The environment files beside the model do not
//! matter to scoring.

mod yaml;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;

use crate::artifact::Artifact;
use crate::columns;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::explain::Contributions;
use crate::model::{Description, Input, Model, Predictions, Signature};
use crate::onnx;
use crate::row::{RowPrediction, Scratch};
use crate::spark::SqlStage;
use yaml::Yaml;

/// The file that makes a folder an MLflow model.
pub const FILE: &str = "MLmodel";

/// How to bring a pickle here.
pub const CONVERT: &str =
    "convert it to ONNX with scripts/to_onnx.py, or save the model in the format of its own library";

/// Keys that say something about the model and change no score.
const INFORMATION: [&str; 18] = [
    "artifact_path",
    "auth_policy",
    "databricks_runtime",
    "env_vars",
    "is_signature_from_type_hint",
    "metadata",
    "mlflow_version",
    "model_id",
    "model_size_bytes",
    "model_uuid",
    "prompts",
    "resources",
    "run_id",
    "saved_input_example_info",
    "serialization_format",
    "type_hint_from_example",
    "utc_time_created",
    "tracking_uri",
];

/// Flavors that can be loaded, with the keys that they have.
const FLAVORS: [(&str, &str, &[&str]); 5] = [
    ("xgboost", "data", &["code", "data", "model_class", "model_format", "xgb_version"]),
    (
        "lightgbm",
        "data",
        &["code", "data", "lgb_version", "model_class", "serialization_format", "skops_trusted_types"],
    ),
    ("catboost", "data", &["catboost_version", "code", "data", "model_type", "save_format"]),
    ("onnx", "data", &["code", "data", "extra_files", "onnx_session_options", "onnx_version", "providers"]),
    ("spark", "model_data", &["code", "model_class", "model_data", "pyspark_version"]),
];

/// Loads a model folder.
///
/// # Errors
/// `Invalid` when the flavor cannot be loaded or the columns do not go with
/// the model, `Data` when a part is damaged.
pub fn load(artifact: &Artifact, engine: Option<&Arc<dyn SqlStage>>) -> Result<Arc<dyn Model>> {
    let within = |error: Error| error.within("MLflow model folder");
    let bytes = artifact.files().get(FILE).map_or(&[][..], |bytes| &bytes[..]);
    let text = std::str::from_utf8(bytes).map_err(|e| within(Error::data(format!("`{FILE}` is no text: {e}"))))?;
    let file = yaml::parse(text).map_err(|e| within(Error::data(format!("`{FILE}` cannot be read: {e}"))))?;
    let names = names(&file).map_err(within)?;
    let model = match part(artifact, &file).map_err(within)? {
        Part::Alone(inner) => crate::load_any(&inner, engine),
        Part::Onnx { path, bytes, beside } => onnx::load_beside(&path, &bytes, &beside).map(|(model, _)| model),
    };
    let model = model.map_err(within)?;
    match names {
        Some(names) => named(model, names).map_err(within),
        None => Ok(model),
    }
}

/// The model itself.
enum Part {
    /// Its files.
    Alone(Artifact),
    /// A file whose constants may lie in the files beside it.
    Onnx { path: String, bytes: Bytes, beside: BTreeMap<String, Bytes> },
}

/// The files of the model itself.
fn part(artifact: &Artifact, file: &Yaml) -> Result<Part> {
    for (key, _) in file.entries() {
        if !INFORMATION.contains(&key.as_str()) && key != "flavors" && key != "signature" {
            return Err(Error::invalid(format!("`{FILE}` has `{key}`, which is not known")));
        }
    }
    let flavors = file.get("flavors").map(Yaml::entries).unwrap_or_default();
    let known = FLAVORS.iter().find_map(|(name, data, keys)| {
        flavors.iter().find(|(flavor, _)| flavor == name).map(|(_, flavor)| (*name, *data, *keys, flavor))
    });
    let Some((name, data, keys, flavor)) = known else {
        let found: Vec<&str> = flavors.iter().map(|(name, _)| name.as_str()).collect();
        if found.is_empty() {
            return Err(Error::data(format!("`{FILE}` has no flavors")));
        }
        return Err(Error::invalid(format!(
            "its flavors are {}, and loading one runs Python code, so it is never loaded",
            found.join(", ")
        ))
        .with_hint(CONVERT));
    };
    for (key, _) in flavor.entries() {
        if !keys.contains(&key.as_str()) {
            return Err(Error::invalid(format!("its flavor `{name}` has `{key}`, which is not known")));
        }
    }
    let path = flavor.get(data).and_then(Yaml::text);
    let path = path.ok_or_else(|| Error::data(format!("its flavor `{name}` has no `{data}`")))?;
    let path = path.trim_end_matches('/');
    if let ("onnx", Some(bytes)) = (name, artifact.files().get(path)) {
        let folder = path.rfind('/').map_or(0, |at| at + 1);
        let (folder, file) = path.split_at(folder);
        let beside =
            artifact.files().iter().filter_map(|(at, b)| Some((at.strip_prefix(folder)?.to_owned(), b.clone())));
        return Ok(Part::Onnx { path: file.to_owned(), bytes: bytes.clone(), beside: beside.collect() });
    }
    let mut files = BTreeMap::new();
    for (at, bytes) in artifact.files() {
        if at == path {
            let file = path.rsplit('/').next().unwrap_or(path);
            files.insert(file.to_owned(), bytes.clone());
        } else if let Some(below) = at.strip_prefix(path).and_then(|rest| rest.strip_prefix('/')) {
            files.insert(below.to_owned(), bytes.clone());
        }
    }
    if files.is_empty() {
        return Err(Error::data(format!("it has no `{path}`, which `{FILE}` names")));
    }
    if files.contains_key(FILE) {
        return Err(Error::invalid(format!("`{path}` is an MLflow model folder within another")));
    }
    Artifact::from_files(files).map(Part::Alone)
}

/// The names of the input columns, if all of them have one.
fn names(file: &Yaml) -> Result<Option<Vec<String>>> {
    let inputs = match file.get("signature").and_then(|signature| signature.get("inputs")) {
        None | Some(Yaml::Null) => return Ok(None),
        Some(inputs) => inputs.text().ok_or_else(|| Error::data("`signature.inputs` is no text"))?,
    };
    let parsed = crate::json::parse(inputs.as_bytes());
    let parsed = parsed.map_err(|e| Error::data(format!("`signature.inputs` is no readable JSON: {e}")))?;
    let columns = parsed.items().ok_or_else(|| Error::data("`signature.inputs` is no list"))?;
    // An array without names is one input: the features keep the model's names.
    let named = columns.iter().map(|column| column.get("name").and_then(Document::text).map(str::to_owned));
    let names = named.collect::<Option<Vec<String>>>().filter(|names| !names.is_empty());
    if let Some(names) = &names {
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::data(format!("`signature.inputs` has `{}` twice", pair[0])));
        }
    }
    Ok(names)
}

/// Whether `name` is what a library calls feature `at` of an array. An ONNX
/// input of several columns has its own name, and its columns a number each.
fn numbered(flavor: &str, name: &str, at: usize, first: &str) -> bool {
    match flavor {
        "xgboost" => name == format!("f{at}"),
        "lightgbm" => name == format!("Column_{at}"),
        "catboost" => name == at.to_string(),
        "onnx" => name.strip_suffix(&format!("_{at}")).is_some_and(|name| first.strip_suffix("_0") == Some(name)),
        _ => false,
    }
}

/// A column's name where a library does not keep every character: LightGBM
/// writes underscores for spaces, skl2onnx for all but letters, digits and `+`.
fn underscored(flavor: &str, name: &str) -> String {
    let lost = |c: char| match flavor {
        "lightgbm" => c.is_whitespace(),
        "onnx" => !(c.is_alphanumeric() || matches!(c, '_' | '+')),
        _ => false,
    };
    name.chars().map(|c| if lost(c) { '_' } else { c }).collect()
}

/// The model with the signature's names.
fn named(model: Arc<dyn Model>, names: Vec<String>) -> Result<Arc<dyn Model>> {
    let inputs = &model.signature().inputs;
    let flavor = model.description().flavor.as_str();
    if inputs.iter().all(|input| names.contains(&input.name)) {
        return Ok(model);
    }
    let pairs = || inputs.iter().zip(&names).enumerate();
    let same_count = inputs.len() == names.len();
    let first = inputs.first().map_or("", |input| input.name.as_str());
    let array = same_count
        && (pairs().all(|(at, (input, _))| numbered(flavor, &input.name, at, first))
            || flavor == "onnx" && inputs.len() == 1);
    let spaces = same_count && pairs().all(|(_, (input, name))| input.name == underscored(flavor, name));
    if array || spaces {
        let outer = pairs().map(|(_, (input, name))| Input { name: name.clone(), kind: input.kind }).collect();
        return Ok(Arc::new(Named { outer: Signature { inputs: outer }, model }));
    }
    let missing = inputs.iter().find(|input| !names.contains(&input.name)).map_or("", |input| input.name.as_str());
    Err(Error::invalid(format!(
        "the model wants the column `{missing}`, which the signature does not have; it has `{}`",
        names.iter().take(40).map(String::as_str).collect::<Vec<_>>().join("`, `")
    ))
    .with_hint("log the model again with the signature of the rows that it was trained on"))
}

/// A model under other names of its columns.
#[derive(Debug)]
struct Named {
    model: Arc<dyn Model>,
    outer: Signature,
}

impl Model for Named {
    fn description(&self) -> &Description {
        self.model.description()
    }

    fn signature(&self) -> &Signature {
        &self.outer
    }

    fn score(&self, batch: &RecordBatch) -> Result<Predictions> {
        self.model.score(&self.renamed(batch)?).map_err(|error| error.with_names(&self.names()))
    }

    fn contributions(&self, batch: &RecordBatch) -> Result<Contributions> {
        let found = self.model.contributions(&self.renamed(batch)?);
        let mut found = found.map_err(|error| error.with_names(&self.names()))?;
        found.features = self.outer.inputs.iter().map(|input| input.name.clone()).collect();
        Ok(found)
    }

    fn score_row(&self, row: &[f64], scratch: &mut Scratch, found: &mut RowPrediction) -> Result<()> {
        self.model.score_row(row, scratch, found).map_err(|error| error.with_names(&self.names()))
    }
}

impl Named {
    /// The rows under the model's own names, in its order.
    fn renamed(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let inner = &self.model.signature().inputs;
        let mut fields = Vec::with_capacity(inner.len());
        let mut arrays = Vec::with_capacity(inner.len());
        for (inside, outside) in inner.iter().zip(&self.outer.inputs) {
            let column = columns::find(batch, &outside.name, &self.outer.inputs)?;
            fields.push(arrow::datatypes::Field::new(&inside.name, column.data_type().clone(), true));
            arrays.push(column.clone());
        }
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(schema, arrays, &options)
            .map_err(|e| Error::data(format!("the columns do not go together: {e}")))
    }

    /// The model's own names and those that callers know.
    fn names(&self) -> HashMap<&str, &str> {
        let inner = &self.model.signature().inputs;
        inner.iter().zip(&self.outer.inputs).map(|(a, b)| (a.name.as_str(), b.name.as_str())).collect()
    }
}
