//! An ONNX file in its parts, as the file has them: nothing is resolved yet.
//!
//! What would change the result and is not read here is an error: sparse
//! tensors, functions, training. Constants may lie in files beside the model.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::tensor::{Data, Kind, MAX_RANK, Tensor, WordList};
use super::wire::{Fields, Wire, damaged, packed};
use crate::error::{Error, Result};

/// Graphs inside graphs.
const MAX_DEPTH: usize = 3;

/// A model file.
#[derive(Debug, Default)]
pub struct Document {
    /// The version of every operator set, by domain; `ai.onnx` is empty.
    pub versions: BTreeMap<String, i64>,
    /// What it computes.
    pub graph: Graph,
    /// Free texts by name.
    pub metadata: BTreeMap<String, String>,
}

/// What constants are read with.
#[derive(Debug)]
pub struct Source<'a> {
    /// Gets their texts.
    pub words: &'a mut WordList,
    /// Files beside the model, by their path from its folder.
    pub beside: &'a BTreeMap<String, Bytes>,
    /// Those of them that hold constants.
    pub used: BTreeSet<String>,
}

/// A graph.
#[derive(Debug, Default, Clone)]
pub struct Graph {
    /// In the order of the file.
    pub nodes: Vec<Node>,
    /// Constants by name.
    pub constants: Vec<(String, Tensor)>,
    /// What it is given; constants may be among them.
    pub inputs: Vec<Value>,
    /// What it answers.
    pub outputs: Vec<Value>,
}

/// One step.
#[derive(Debug, Default, Clone)]
pub struct Node {
    /// Often empty.
    pub name: String,
    /// What it does.
    pub operator: String,
    /// Whose operator that is; empty is ONNX itself.
    pub domain: String,
    /// Names of values, empty where one is left out.
    pub inputs: Vec<String>,
    /// Names of values, empty where one is not wanted.
    pub outputs: Vec<String>,
    /// Settings by name.
    pub attributes: BTreeMap<String, Attribute>,
}

/// A setting of a node.
#[derive(Debug, Clone)]
pub enum Attribute {
    /// A number.
    Float(f32),
    /// A whole number.
    Int(i64),
    /// A text.
    Text(String),
    /// A constant.
    Tensor(Tensor),
    /// A graph.
    Graph(Box<Graph>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Whole numbers of the nodes of trees, which are many and small.
    Small(Vec<i32>),
    /// Texts.
    Texts(Vec<String>),
    /// The texts of the nodes of trees, which are a few again and again: the
    /// different ones, and the place of each among them.
    Few(Vec<String>, Vec<u8>),
}

/// A value's name and type.
#[derive(Debug, Default, Clone)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// What a tensor holds; not given for sequences and maps.
    pub kind: Option<i64>,
    /// Sizes where they are known.
    pub shape: Option<Vec<Option<usize>>>,
}

impl Document {
    /// Reads a file.
    pub fn read(bytes: &[u8], source: &mut Source<'_>) -> Result<Self> {
        let mut document = Self::default();
        let mut graph = None;
        for field in Fields::of(bytes) {
            match field? {
                (7, _) if graph.is_some() => return Err(Error::data("it has two graphs")),
                (7, value) => graph = Some(read_graph(value.bytes()?, source, 0)?),
                (8, value) => {
                    let (mut domain, mut version) = (String::new(), 0);
                    for field in Fields::of(value.bytes()?) {
                        match field? {
                            (1, value) => domain = value.text()?.to_owned(),
                            (2, value) => version = value.int()?,
                            _ => {}
                        }
                    }
                    let known = document.versions.insert(plain_domain(&domain), version);
                    if known.is_some_and(|known| known != version) {
                        return Err(Error::data(format!("it uses two versions of the operators of `{domain}`")));
                    }
                }
                (14, value) => {
                    let (key, value) = entry(value.bytes()?)?;
                    document.metadata.insert(key, value);
                }
                (20, _) => return Err(Error::invalid("it has training steps, which are not supported")),
                (25, _) => return Err(Error::invalid("it has functions of its own, which are not supported")),
                _ => {}
            }
        }
        document.graph = graph.ok_or_else(|| Error::data("it has no graph"))?;
        if document.versions.is_empty() {
            return Err(Error::data("it does not say which operator versions it uses"));
        }
        Ok(document)
    }
}

impl<'a> Source<'a> {
    /// What lies in a file beside the model.
    fn bytes(&mut self, place: &BTreeMap<String, String>) -> Result<&'a [u8]> {
        let known = ["location", "offset", "length"];
        if let Some(key) = place.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(Error::invalid(format!("its place in another file says `{key}`, which is not known")));
        }
        let path = place.get("location").ok_or_else(|| Error::data("it is in another file, which is not named"))?;
        let path = path.strip_prefix("./").unwrap_or(path);
        let file = self.beside.get(path).ok_or_else(|| {
            Error::invalid(format!("it is in the file `{path}`, which is not there"))
                .with_hint("give the folder with both files, or save the model with all data in the one file")
        })?;
        let number = |key: &str| match place.get(key).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => text.parse::<usize>().map(Some).map_err(|_| Error::data(format!("its {key} is no size"))),
        };
        let start = number("offset")?.unwrap_or(0);
        let end = match number("length")? {
            Some(length) => start.checked_add(length),
            None => Some(file.len()),
        };
        self.used.insert(path.to_owned());
        let found = end.and_then(|end| file.get(start..end));
        found.ok_or_else(|| Error::data(format!("the file `{path}` ends before it")))
    }
}

fn plain_domain(domain: &str) -> String {
    if domain == "ai.onnx" { String::new() } else { domain.to_owned() }
}

fn entry(bytes: &[u8]) -> Result<(String, String)> {
    let (mut key, mut text) = (String::new(), String::new());
    for field in Fields::of(bytes) {
        match field? {
            (1, value) => key = value.text()?.to_owned(),
            (2, value) => text = value.text()?.to_owned(),
            _ => {}
        }
    }
    Ok((key, text))
}

fn read_graph(bytes: &[u8], source: &mut Source<'_>, depth: usize) -> Result<Graph> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!("it has graphs inside graphs, more than {MAX_DEPTH} deep")));
    }
    let mut graph = Graph::default();
    for field in Fields::of(bytes) {
        match field? {
            (1, value) => graph.nodes.push(read_node(value.bytes()?, source, depth)?),
            (5, value) => graph.constants.push(read_tensor(value.bytes()?, source)?),
            (11, value) => graph.inputs.push(read_value(value.bytes()?)?),
            (12, value) => graph.outputs.push(read_value(value.bytes()?)?),
            (15, _) => return Err(Error::invalid("it has sparse constants, which are not supported")),
            _ => {}
        }
    }
    Ok(graph)
}

fn read_node(bytes: &[u8], source: &mut Source<'_>, depth: usize) -> Result<Node> {
    let mut node = Node::default();
    for field in Fields::of(bytes) {
        match field? {
            (1, value) => node.inputs.push(value.text()?.to_owned()),
            (2, value) => node.outputs.push(value.text()?.to_owned()),
            (3, value) => node.name = value.text()?.to_owned(),
            (4, value) => node.operator = value.text()?.to_owned(),
            (5, value) => {
                let (name, attribute) = read_attribute(value.bytes()?, source, depth)?;
                if let Some(attribute) = attribute {
                    node.attributes.insert(name, attribute);
                }
            }
            (7, value) => node.domain = plain_domain(value.text()?),
            _ => {}
        }
    }
    Ok(node)
}

/// An empty list is the same as none.
fn read_attribute(bytes: &[u8], source: &mut Source<'_>, depth: usize) -> Result<(String, Option<Attribute>)> {
    let (mut name, mut kind) = (String::new(), 0);
    let (mut float, mut int, mut text, mut tensor, mut graph) = (None, None, None, None, None);
    let (mut floats, mut ints, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    // Of the nodes of trees.
    let (mut few, mut places): (Vec<String>, Vec<u8>) = (Vec::new(), Vec::new());
    let mut fields = Fields::of(bytes);
    while let Some(field) = fields.next() {
        match field? {
            (1, value) => name = value.text()?.to_owned(),
            (2, value) => float = Some(value.float()?),
            (3, value) => int = Some(value.int()?),
            (4, value) => text = Some(value.text()?.to_owned()),
            (5, value) => tensor = Some(read_tensor(value.bytes()?, source)?.1),
            (6, value) => graph = Some(read_graph(value.bytes()?, source, depth + 1)?),
            (7, value) => {
                value.floats(&mut floats)?;
                fields.more_floats(7, &mut floats)?;
            }
            (8, value) => {
                value.ints(&mut ints)?;
                fields.more_ints(8, &mut ints)?;
            }
            (9, value) if name == "nodes_modes" => {
                let bytes = value.bytes()?;
                let place = match few.iter().position(|known| known.as_bytes() == bytes) {
                    Some(place) => place,
                    None => {
                        few.push(value.text()?.to_owned());
                        few.len() - 1
                    }
                };
                let place = u8::try_from(place).map_err(|_| Error::data("its nodes have too many modes"))?;
                places.push(place);
            }
            (9, value) => texts.push(value.text()?.to_owned()),
            (20, value) => kind = value.int()?,
            (10 | 11 | 14 | 15 | 21 | 22 | 23, _) => {
                return Err(Error::invalid(format!("the attribute `{name}` has a type that is not supported")));
            }
            _ => {}
        }
    }
    floats.shrink_to_fit();
    places.shrink_to_fit();
    // Zero and empty values may be left out of the file.
    let attribute = match kind {
        1 => Some(Attribute::Float(float.unwrap_or(0.0))),
        2 => Some(Attribute::Int(int.unwrap_or(0))),
        3 => Some(Attribute::Text(text.unwrap_or_default())),
        4 => tensor.map(Attribute::Tensor),
        5 => graph.map(|graph| Attribute::Graph(Box::new(graph))),
        6 => Some(Attribute::Floats(floats)),
        7 if ["nodes_", "class_", "target_"].iter().any(|start| name.starts_with(start)) => {
            let small: Result<Vec<i32>, _> = ints.iter().map(|value| i32::try_from(*value)).collect();
            Some(small.map_or_else(|_| Attribute::Ints(ints), Attribute::Small))
        }
        7 => Some(Attribute::Ints(ints)),
        8 if texts.is_empty() && !places.is_empty() => Some(Attribute::Few(few, places)),
        8 => Some(Attribute::Texts(texts)),
        0 => {
            let first = float.map(Attribute::Float).or(int.map(Attribute::Int)).or(text.map(Attribute::Text));
            let first = first.or(tensor.map(Attribute::Tensor));
            let list = if !floats.is_empty() {
                Some(Attribute::Floats(floats))
            } else if !ints.is_empty() {
                Some(Attribute::Ints(ints))
            } else {
                (!texts.is_empty()).then_some(Attribute::Texts(texts))
            };
            first.or(list)
        }
        other => {
            return Err(Error::invalid(format!("the attribute `{name}` has the type {other}, which is not supported")));
        }
    };
    let empty = match &attribute {
        Some(Attribute::Floats(list)) => list.is_empty(),
        Some(Attribute::Ints(list)) => list.is_empty(),
        Some(Attribute::Small(list)) => list.is_empty(),
        Some(Attribute::Texts(list)) => list.is_empty(),
        _ => false,
    };
    Ok((name, attribute.filter(|_| !empty)))
}

fn read_tensor(bytes: &[u8], source: &mut Source<'_>) -> Result<(String, Tensor)> {
    let (mut name, mut kind, mut raw) = (String::new(), 0, None);
    let (mut elsewhere, mut outside) = (BTreeMap::new(), false);
    let (mut dims, mut floats, mut doubles, mut ints, mut texts) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for field in Fields::of(bytes) {
        match field? {
            (1, value) => value.ints(&mut dims)?,
            (2, value) => kind = value.int()?,
            (4, value) => value.floats(&mut floats)?,
            (5 | 7, value) => value.ints(&mut ints)?,
            (6, value) => texts.push(source.words.number(value.text()?)),
            (8, value) => name = value.text()?.to_owned(),
            (9, value) => raw = Some(value.bytes()?),
            (10, value) => value.doubles(&mut doubles)?,
            (13, value) => {
                let (key, text) = entry(value.bytes()?)?;
                elsewhere.insert(key, text);
            }
            (14, Wire::Varint(0)) => {}
            (14, Wire::Varint(1)) => outside = true,
            (3 | 14, _) => return Err(Error::invalid(format!("the constant `{name}` is not in one piece here"))),
            _ => {}
        }
    }
    let within = |e: Error| e.within(&format!("constant `{name}`"));
    if outside {
        raw = Some(source.bytes(&elsewhere).map_err(within)?);
    }
    let data = match (Kind::from_code(kind).map_err(within)?, raw) {
        (Kind::F32, None) => Data::F32(floats),
        (Kind::F32, Some(raw)) => Data::F32(packed(raw).map_err(within)?.map(f32::from_le_bytes).collect()),
        (Kind::F64, None) => Data::F64(doubles),
        (Kind::F64, Some(raw)) => Data::F64(packed(raw).map_err(within)?.map(f64::from_le_bytes).collect()),
        (Kind::I64, None) => Data::I64(ints),
        (Kind::I64, Some(raw)) => Data::I64(packed(raw).map_err(within)?.map(i64::from_le_bytes).collect()),
        (Kind::I32, None) => Data::I32(ints.into_iter().map(|v| v as i32).collect()),
        (Kind::I32, Some(raw)) => Data::I32(packed(raw).map_err(within)?.map(i32::from_le_bytes).collect()),
        (Kind::Bool, None) => Data::Bool(ints.into_iter().map(|v| v != 0).collect()),
        (Kind::Bool, Some(raw)) => Data::Bool(raw.iter().map(|v| *v != 0).collect()),
        (Kind::Text, None) => Data::Text(texts),
        (Kind::Text, Some(_)) => return Err(within(damaged())),
    };
    if dims.len() > MAX_RANK || dims.iter().any(|d| *d < 0) {
        return Err(within(damaged()));
    }
    let shape = dims.into_iter().map(|d| d as usize).collect();
    let tensor = Tensor::new(shape, data).map_err(within)?;
    Ok((name, tensor))
}

fn read_value(bytes: &[u8]) -> Result<Value> {
    let mut found = Value::default();
    for field in Fields::of(bytes) {
        match field? {
            (1, value) => found.name = value.text()?.to_owned(),
            (2, value) => {
                for field in Fields::of(value.bytes()?) {
                    if let (1, value) = field? {
                        read_type(value.bytes()?, &mut found)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn read_type(bytes: &[u8], found: &mut Value) -> Result<()> {
    for field in Fields::of(bytes) {
        match field? {
            (1, value) => found.kind = Some(value.int()?),
            (2, value) => {
                let mut shape = Vec::new();
                for field in Fields::of(value.bytes()?) {
                    let (1, value) = field? else { continue };
                    let mut size = None;
                    for field in Fields::of(value.bytes()?) {
                        if let (1, value) = field? {
                            // Some writers say 0 or -1 for a size that varies.
                            size = usize::try_from(value.int()?).ok().filter(|size| *size > 0);
                        }
                    }
                    shape.push(size);
                    if shape.len() > MAX_RANK {
                        return Err(damaged());
                    }
                }
                found.shape = Some(shape);
            }
            _ => {}
        }
    }
    Ok(())
}
