//! ONNX Runtime, for models with operators that are not here. Its shared
//! library is loaded with the first such model and never before: from
//! `use_onnx_runtime`, else from `ORT_DYLIB_PATH`. It runs on one thread, as the
//! rest of scoring does, but may add up a row in another order when other rows are
//! beside it: what it scores is not the same to the bit in every batch.
//!
//! It answers maps where a graph ends in `ZipMap`; the graph that it is given
//! ends before, since the maps say nothing that the class labels do not.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use insightera_core::ErrorKind;
use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Tensor as Value, TensorElementType};

use super::tensor::{Data, Tensor, Words};
use super::wire::{Fields, Wire};
use crate::error::{Error, Result};

static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();

/// Where ONNX Runtime's shared library is, instead of `ORT_DYLIB_PATH`. Once a
/// process, before the first model that needs it.
///
/// # Errors
/// `Conflict` when another path was named before.
pub fn use_onnx_runtime(path: &Path) -> Result<()> {
    let known = LIBRARY.get_or_init(|| path.to_owned());
    if known == path {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, format!("ONNX Runtime is already taken from `{}`", known.display())))
}

fn environment() -> Result<&'static Environment> {
    let found = ENVIRONMENT.get_or_init(|| {
        let named = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = LIBRARY.get().cloned().or(named);
        let path = path.ok_or(
            "ONNX Runtime could run it: `ORT_DYLIB_PATH` does not name its shared library, \
             `libonnxruntime.so.…` of the Python package `onnxruntime`",
        )?;
        let cannot = |e| format!("ONNX Runtime could run it, but cannot be loaded from `{}`: {e}", path.display());
        let builder = ort::init_from(&path).map_err(cannot)?;
        builder.with_telemetry(false).build().map_err(|e| format!("ONNX Runtime does not start: {e}"))
    });
    found.as_ref().map_err(|message| Error::invalid(message.clone()))
}

/// A model in ONNX Runtime.
#[derive(Debug)]
pub struct Outside {
    session: Mutex<Session>,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("ONNX Runtime {what}: {error}"))
}

impl Outside {
    /// Of a file whose inputs and outputs have these names.
    ///
    /// # Errors
    /// `Invalid` when the library cannot be loaded or refuses the model.
    pub fn open(bytes: &[u8], inputs: Vec<String>, outputs: Vec<String>) -> Result<Self> {
        let environment = environment()?;
        let bytes = without_maps(bytes)?;
        let builder = Session::builder(environment).map_err(|e| failed("does not start", e))?;
        let builder = builder.with_intra_threads(1).map_err(|e| failed("does not start", e))?;
        let mut builder = builder.with_inter_threads(1).map_err(|e| failed("does not start", e))?;
        let session = builder.commit_from_memory(&bytes).map_err(|e| failed("refuses the model", e))?;
        Ok(Self { session: Mutex::new(session), inputs, outputs })
    }

    /// Runs it on values for its inputs, in their order.
    ///
    /// # Errors
    /// `Data` when it refuses the values, `Invalid` when an answer has a type
    /// that is not known here.
    pub fn run(&self, inputs: &[&Tensor], words: &mut Words<'_>) -> Result<Vec<Tensor>> {
        let mut given: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for (name, tensor) in self.inputs.iter().zip(inputs) {
            given.push((name, value(tensor, words).map_err(|e| failed("refuses a value", e))?.into()));
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |e: ort::Error| Error::data(format!("ONNX Runtime refuses the rows: {e}"));
        let found = session.run(given).map_err(refused)?;
        let missing = |name: &String| Error::invalid(format!("ONNX Runtime does not answer `{name}`"));
        self.outputs.iter().map(|name| tensor(found.get(name).ok_or_else(|| missing(name))?, words)).collect()
    }
}

fn value(tensor: &Tensor, words: &Words<'_>) -> ort::Result<DynValue> {
    let shape = tensor.shape.clone();
    Ok(match &tensor.data {
        Data::F32(values) => Value::from_array((shape, values.clone()))?.into_dyn(),
        Data::F64(values) => Value::from_array((shape, values.clone()))?.into_dyn(),
        Data::I64(values) => Value::from_array((shape, values.clone()))?.into_dyn(),
        Data::I32(values) => Value::from_array((shape, values.clone()))?.into_dyn(),
        Data::Bool(values) => Value::from_array((shape, values.clone()))?.into_dyn(),
        Data::Text(values) => {
            let texts: Vec<String> = values.iter().map(|number| words.text(*number).to_owned()).collect();
            Value::from_string_array((shape, texts.as_slice()))?.into_dyn()
        }
    })
}

fn tensor(value: &DynValue, words: &mut Words<'_>) -> Result<Tensor> {
    let unknown = || Error::invalid(format!("ONNX Runtime answers {}, which is not supported", value.dtype()));
    fn of<T: ort::value::PrimitiveTensorElementType + Copy>(value: &DynValue) -> Result<(Vec<i64>, Vec<T>)> {
        let (shape, values) = value.try_extract_tensor::<T>().map_err(|e| failed("answers no tensor", e))?;
        Ok((shape.to_vec(), values.to_vec()))
    }
    let (shape, data) = match value.dtype().tensor_type().ok_or_else(unknown)? {
        TensorElementType::Float32 => of(value).map(|(shape, values)| (shape, Data::F32(values)))?,
        TensorElementType::Float64 => of(value).map(|(shape, values)| (shape, Data::F64(values)))?,
        TensorElementType::Int64 => of(value).map(|(shape, values)| (shape, Data::I64(values)))?,
        TensorElementType::Int32 => of(value).map(|(shape, values)| (shape, Data::I32(values)))?,
        TensorElementType::Bool => of(value).map(|(shape, values)| (shape, Data::Bool(values)))?,
        TensorElementType::String => {
            let (shape, texts) = value.try_extract_strings().map_err(|e| failed("answers no texts", e))?;
            (shape.to_vec(), Data::Text(texts.iter().map(|text| words.number(text)).collect()))
        }
        _ => return Err(unknown()),
    };
    Tensor::new(shape.into_iter().map(|size| usize::try_from(size).unwrap_or(0)).collect(), data)
}

/// The same model, where nodes `ZipMap` pass their input on as it is.
fn without_maps(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut model = Vec::with_capacity(bytes.len());
    for field in Fields::of(bytes) {
        match field? {
            (7, Wire::Bytes(graph)) => write(&mut model, 7, Wire::Bytes(&graph_without_maps(graph)?)),
            (number, value) => write(&mut model, number, value),
        }
    }
    Ok(model)
}

fn graph_without_maps(bytes: &[u8]) -> Result<Vec<u8>> {
    let (mut graph, mut maps) = (Vec::with_capacity(bytes.len()), Vec::new());
    let mut outputs = Vec::new();
    for field in Fields::of(bytes) {
        match field? {
            (1, Wire::Bytes(node)) => {
                let (mut is_map, mut plain, mut made) = (false, Vec::new(), Vec::new());
                for field in Fields::of(node) {
                    match field? {
                        (4, Wire::Bytes(operator)) => is_map = operator == b"ZipMap",
                        (2, Wire::Bytes(name)) => made.push(name),
                        (1, value) => write(&mut plain, 1, value),
                        _ => {}
                    }
                }
                if !is_map {
                    write(&mut graph, 1, Wire::Bytes(node));
                    continue;
                }
                made.iter().for_each(|name| write(&mut plain, 2, Wire::Bytes(name)));
                write(&mut plain, 4, Wire::Bytes(b"Identity"));
                write(&mut graph, 1, Wire::Bytes(&plain));
                maps.extend(made);
            }
            (12, Wire::Bytes(output)) => outputs.push(output),
            (number, value) => write(&mut graph, number, value),
        }
    }
    for output in outputs {
        let mut name = &[][..];
        for field in Fields::of(output) {
            if let (1, Wire::Bytes(found)) = field? {
                name = found;
            }
        }
        let mut untyped = Vec::new();
        write(&mut untyped, 1, Wire::Bytes(name));
        write(&mut graph, 12, Wire::Bytes(if maps.contains(&name) { &untyped } else { output }));
    }
    Ok(graph)
}

fn write(message: &mut Vec<u8>, number: u32, value: Wire<'_>) {
    let mut varint = |mut value: u64| {
        while value >= 128 {
            message.push(value as u8 | 128);
            value >>= 7;
        }
        message.push(value as u8);
    };
    let tag = u64::from(number) << 3;
    match value {
        Wire::Varint(value) => {
            varint(tag);
            varint(value);
        }
        Wire::Fixed64(bytes) => {
            varint(tag | 1);
            message.extend(bytes);
        }
        Wire::Bytes(bytes) => {
            varint(tag | 2);
            varint(bytes.len() as u64);
            message.extend(bytes);
        }
        Wire::Fixed32(bytes) => {
            varint(tag | 5);
            message.extend(bytes);
        }
    }
}
