//! From the bytes of a file to a model.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use insightera_core::ErrorKind;

use super::document::{Document, Source, Value};
use super::graph::Program;
use super::operators::{MODELS, SAME};
use super::outcome::Outcome;
use super::rows::Feed;
#[cfg(feature = "onnxruntime")]
use super::runtime::Outside;
use super::tensor::{Data, Kind, Tensor, WordList, Words};
use super::wire::Fields;
use super::{BLOCK, BLOCK_VALUES, OnnxModel};
use crate::error::{Error, Result};
use crate::model::{Description, Input, InputKind, Model, Signature};

/// Columns of all inputs.
const MAX_COLUMNS: usize = 1 << 16;

/// Whether a file's bytes begin like an ONNX model: a message with a graph and
/// the versions of its operators.
pub fn is_onnx(bytes: &[u8]) -> bool {
    let (mut graph, mut versions) = (false, false);
    for field in Fields::of(bytes) {
        match field {
            Ok((7, value)) => graph = value.bytes().is_ok(),
            Ok((8, value)) => versions = value.bytes().is_ok(),
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    graph && versions
}

/// Loads a model from the bytes of one file.
///
/// # Errors
/// `Data` when the file is damaged, `Invalid` when a part is not supported.
pub fn load(name: &str, bytes: &[u8]) -> Result<Arc<dyn Model>> {
    load_beside(name, bytes, &BTreeMap::new()).map(|(model, _)| model)
}

/// Loads a model whose large constants may lie in files beside it; answers
/// which of them do.
///
/// # Errors
/// As [`load`], and `Invalid` when such a file is not there.
pub fn load_beside(
    name: &str,
    bytes: &[u8],
    beside: &BTreeMap<String, Bytes>,
) -> Result<(Arc<dyn Model>, BTreeSet<String>)> {
    let (model, used) = build(bytes, beside).map_err(|e| e.within(&format!("`{name}`")))?;
    Ok((Arc::new(model), used))
}

/// Loads a folder of one `.onnx` file and files that hold its constants;
/// nothing when it is no such folder.
pub fn load_folder(files: &BTreeMap<String, Bytes>) -> Option<Result<Arc<dyn Model>>> {
    let mut models = files.iter().filter(|(path, _)| path.ends_with(".onnx") && !path.contains('/'));
    let (Some((name, bytes)), None) = (models.next(), models.next()) else { return None };
    Some(load_beside(name, bytes, files).and_then(|(model, used)| {
        match files.keys().find(|path| *path != name && !used.contains(*path)) {
            Some(path) => Err(Error::invalid(format!("`{name}`: the file `{path}` beside it is no part of it"))
                .with_hint("give the file alone, or a folder of only its own files")),
            None => Ok(model),
        }
    }))
}

fn build(bytes: &[u8], beside: &BTreeMap<String, Bytes>) -> Result<(OnnxModel, BTreeSet<String>)> {
    let mut words = WordList::default();
    words.number("");
    let mut source = Source { words: &mut words, beside, used: BTreeSet::new() };
    let document = Document::read(bytes, &mut source)?;
    let used = source.used;
    let graph = &document.graph;
    let constants: BTreeSet<&str> = graph.constants.iter().map(|(name, _)| name.as_str()).collect();
    let given: Vec<&Value> = graph.inputs.iter().filter(|input| !constants.contains(input.name.as_str())).collect();
    let (feeds, signature, mut block) = feeds(&given, document.metadata.get("feature_names"))?;
    let mut samples = HashMap::new();
    let rows = if block == 1 { 1 } else { 2 };
    for (feed, input) in feeds.iter().zip(&given) {
        samples.insert(
            input.name.clone(),
            feed.tensor(&vec![column(feed.kind, &vec![0; rows]); feed.columns.len()], rows)?,
        );
    }
    let names: Vec<String> = given.iter().map(|input| input.name.clone()).collect();
    #[cfg(feature = "onnxruntime")]
    let given_samples: Vec<Tensor> = names.iter().filter_map(|name| samples.get(name).cloned()).collect();
    let program = Program::prepare(graph, &names, samples, &document.versions, &mut words);
    #[cfg(feature = "onnxruntime")]
    let program = match program {
        Err(e) if e.kind() == ErrorKind::Invalid => {
            if let Some(file) = used.first() {
                return Err(e.with_hint(format!(
                    "ONNX Runtime could run it with the constants of `{file}` in the model's own file"
                )));
            }
            let outputs = graph.outputs.iter().map(|output| output.name.clone()).collect();
            let samples: Vec<&Tensor> = given_samples.iter().collect();
            let outside = Outside::open(bytes, names, outputs);
            let program = outside.and_then(|outside| Program::outside(outside, graph, &samples, &words));
            program.map_err(|outside| e.with_hint(outside.to_string()))
        }
        program => program,
    };
    let program = program?;
    if block > 1 {
        apart(&program, &feeds, &words)?;
        block = (BLOCK_VALUES / (program.largest / rows).max(1)).clamp(1, BLOCK);
    }
    let outcome = Outcome::of(&document, &program, rows, &mut words)?;
    let last = graph.nodes.iter().rev();
    let objective = last
        .clone()
        .find(|node| MODELS.contains(&node.operator.as_str()))
        .or_else(|| last.clone().find(|node| !SAME.contains(&node.operator.as_str())))
        .map_or_else(|| "Identity".to_owned(), |node| node.operator.clone());
    let description = Description {
        flavor: "onnx".into(),
        objective,
        labels: outcome.labels.to_vec(),
        trees: program.counts.trees,
        nodes: program.counts.nodes,
        max_depth: program.counts.depth,
    };
    Ok((OnnxModel { program, feeds, words, outcome, block, description, signature }, used))
}

/// A column of different values; texts are all empty.
fn column(kind: Kind, steps: &[i8]) -> Data {
    match kind {
        Kind::F32 => Data::F32(steps.iter().map(|step| f32::from(*step) * 1.75).collect()),
        Kind::F64 => Data::F64(steps.iter().map(|step| f64::from(*step) * 1.75).collect()),
        Kind::I64 => Data::I64(steps.iter().map(|step| i64::from(*step)).collect()),
        Kind::I32 => Data::I32(steps.iter().map(|step| i32::from(*step)).collect()),
        Kind::Bool => Data::Bool(steps.iter().map(|step| *step != 0).collect()),
        Kind::Text => Data::Text(vec![0; steps.len()]),
    }
}

/// Whether a row scores the same alone and among others. Says nothing when the
/// model refuses the values tried.
fn apart(program: &Program, feeds: &[Feed], words: &WordList) -> Result<()> {
    const STEPS: [i8; 3] = [0, 1, 3];
    let run = |steps: &[i8]| -> Result<Option<Vec<Tensor>>> {
        let inputs =
            feeds.iter().map(|feed| feed.tensor(&vec![column(feed.kind, steps); feed.columns.len()], steps.len()));
        let inputs = inputs.collect::<Result<Vec<Tensor>>>()?;
        match program.run(&inputs.iter().collect::<Vec<_>>(), &mut Words::new(words)) {
            Ok(outputs) => Ok(Some(outputs)),
            Err(e) if e.kind() == ErrorKind::Data => Ok(None),
            Err(e) => Err(e),
        }
    };
    let mixed = || {
        Error::invalid("its rows score differently alone and among others")
            .with_hint("only models that score each row by itself are supported")
    };
    let Some(together) = run(&STEPS)? else { return Ok(()) };
    for (row, step) in STEPS.iter().enumerate() {
        let Some(alone) = run(&[*step]).map_err(|_| mixed())? else { continue };
        for (all, one) in together.iter().zip(&alone) {
            let width = one.len();
            let mut part = Data::empty(all.kind(), width);
            if all.len() != width * STEPS.len() {
                return Err(mixed());
            }
            part.append(&all.data, row * width..(row + 1) * width)?;
            let alike = part.same(&one.data) || program.is_outside() && close(&part, &one.data);
            if !alike {
                return Err(mixed());
            }
        }
    }
    Ok(())
}

/// Whether numbers differ by no more than the order of additions explains.
fn close(a: &Data, b: &Data) -> bool {
    let numbers = |data: &Data| match data {
        Data::F32(values) => values.iter().copied().map(f64::from).collect(),
        Data::F64(values) => values.clone(),
        _ => Vec::new(),
    };
    let (a, b): (Vec<f64>, Vec<f64>) = (numbers(a), numbers(b));
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-4 * a.abs().max(1.0) || (a.is_nan() && b.is_nan());
    !a.is_empty() && a.len() == b.len() && a.iter().zip(&b).all(near)
}

/// The inputs, the columns they want, and how many rows the graph takes.
fn feeds(given: &[&Value], names: Option<&String>) -> Result<(Vec<Feed>, Signature, usize)> {
    let names: Option<Vec<String>> =
        match names {
            None => None,
            Some(json) => Some(serde_json::from_str(json).map_err(|e| {
                Error::data(format!("its metadata entry `feature_names` is no JSON list of names: {e}"))
            })?),
        };
    let single = if let ([_], Some(names)) = (given, &names) { Some(names.len()) } else { None };
    let mut feeds = Vec::with_capacity(given.len());
    let mut columns: Vec<Input> = Vec::new();
    let mut block = BLOCK;
    for input in given {
        let name = &input.name;
        let kind = input.kind.ok_or_else(|| Error::invalid(format!("the input `{name}` is no tensor")))?;
        let kind = Kind::from_code(kind).map_err(|e| e.within(&format!("input `{name}`")))?;
        let open = || {
            Error::invalid(format!("the input `{name}` does not say how many columns it has"))
                .with_hint("export the model with the number of columns, or add the metadata entry `feature_names`")
        };
        let (rows, width, flat) = match input.shape.as_deref() {
            Some([rows]) => (*rows, 1, true),
            Some([rows, width]) => (*rows, width.or(single).ok_or_else(open)?, false),
            Some([]) | Some([_, _, _, ..]) => {
                return Err(Error::invalid(format!("the input `{name}` is not rows and columns")));
            }
            None => (None, single.ok_or_else(open)?, false),
        };
        match rows {
            None => {}
            Some(1) => block = 1,
            Some(rows) => {
                return Err(Error::invalid(format!("the input `{name}` wants {rows} rows at a time"))
                    .with_hint("export the model with a batch size that varies"));
            }
        }
        let start = columns.len();
        if width == 0 || start + width > MAX_COLUMNS {
            return Err(Error::invalid(format!("the input `{name}` has {width} columns, which is not supported")));
        }
        let what = if kind == Kind::Text { InputKind::Categorical } else { InputKind::Numeric };
        for column in 0..width {
            let column = if width == 1 { name.clone() } else { format!("{name}_{column}") };
            columns.push(Input { name: column, kind: what });
        }
        feeds.push(Feed { kind, columns: start..columns.len(), flat });
    }
    if let Some(names) = names {
        if names.len() != columns.len() {
            return Err(Error::data(format!(
                "its metadata entry `feature_names` has {} names for {} columns",
                names.len(),
                columns.len()
            )));
        }
        columns.iter_mut().zip(names).for_each(|(column, name)| column.name = name);
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = columns.iter().find(|column| !seen.insert(column.name.as_str())) {
        return Err(Error::data(format!("two of its columns have the name `{}`", twice.name)));
    }
    if feeds.is_empty() {
        return Err(Error::invalid("it has no inputs"));
    }
    Ok((feeds, Signature { inputs: columns }, block))
}
