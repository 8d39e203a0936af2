//! Laws of the loader, on small models written here byte by byte. What scores
//! must be is judged elsewhere, by ONNX Runtime.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float64Array, StringArray};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use insightera_core::ErrorKind;

use super::load;
use crate::model::Model;

/// A message while it is written.
#[derive(Default, Clone)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 128 {
            self.0.push(value as u8 | 128);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn int(self, number: u64, value: i64) -> Self {
        self.varint(number << 3).varint(value as u64)
    }

    fn bytes(self, number: u64, bytes: &[u8]) -> Self {
        let mut new = self.varint(number << 3 | 2).varint(bytes.len() as u64);
        new.0.extend_from_slice(bytes);
        new
    }

    fn text(self, number: u64, text: &str) -> Self {
        self.bytes(number, text.as_bytes())
    }

    fn message(self, number: u64, message: &Self) -> Self {
        self.bytes(number, &message.0)
    }
}

fn node(domain: &str, operator: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let mut node = Message::default();
    for input in inputs {
        node = node.text(1, input);
    }
    for output in outputs {
        node = node.text(2, output);
    }
    node.text(3, "here").text(4, operator).text(7, domain)
}

fn ints(node: Message, name: &str, values: &[i64]) -> Message {
    let attribute = values.iter().fold(Message::default().text(1, name), |a, v| a.int(8, *v)).int(20, 7);
    node.message(5, &attribute)
}

fn int(node: Message, name: &str, value: i64) -> Message {
    node.message(5, &Message::default().text(1, name).int(3, value).int(20, 2))
}

fn floats(node: Message, name: &str, values: &[f32]) -> Message {
    let packed: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    node.message(5, &Message::default().text(1, name).bytes(7, &packed).int(20, 6))
}

fn texts(node: Message, name: &str, values: &[&str]) -> Message {
    let attribute = values.iter().fold(Message::default().text(1, name), |a, v| a.text(9, v)).int(20, 8);
    node.message(5, &attribute)
}

fn value(name: &str, kind: i64, shape: &[i64]) -> Message {
    let shape = shape.iter().fold(Message::default(), |shape, size| {
        let size = if *size < 0 { Message::default().text(2, "N") } else { Message::default().int(1, *size) };
        shape.message(1, &size)
    });
    let tensor = Message::default().int(1, kind).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

fn model(nodes: &[Message], inputs: &[Message], outputs: &[Message]) -> Vec<u8> {
    let mut graph = Message::default();
    for node in nodes {
        graph = graph.message(1, node);
    }
    for input in inputs {
        graph = graph.message(11, input);
    }
    for output in outputs {
        graph = graph.message(12, output);
    }
    let versions = |domain: &str, version| Message::default().text(1, domain).int(2, version);
    let model = Message::default().int(1, 8).message(7, &graph);
    model.message(8, &versions("", 18)).message(8, &versions("ai.onnx.ml", 3)).0
}

fn loaded(bytes: &[u8]) -> Arc<dyn Model> {
    load("model.onnx", bytes).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(bytes: &[u8], says: &str) {
    let error = load("model.onnx", bytes).unwrap_err();
    assert!(error.to_string().contains(says), "{error}");
}

const FLOAT: i64 = 1;

fn tree(mode: &str, yes: i64) -> Message {
    let node = node("ai.onnx.ml", "TreeEnsembleRegressor", &["x"], &["y"]);
    let node = int(node, "n_targets", 1);
    let node = ints(node, "nodes_treeids", &[0, 0, 0]);
    let node = ints(node, "nodes_nodeids", &[0, 1, 2]);
    let node = ints(node, "nodes_featureids", &[1, 0, 0]);
    let node = ints(node, "nodes_truenodeids", &[yes, 0, 0]);
    let node = ints(node, "nodes_falsenodeids", &[2, 0, 0]);
    let node = floats(node, "nodes_values", &[0.5, 0.0, 0.0]);
    let node = texts(node, "nodes_modes", &[mode, "LEAF", "LEAF"]);
    let node = ints(node, "target_treeids", &[0, 0]);
    let node = ints(node, "target_nodeids", &[1, 2]);
    let node = ints(node, "target_ids", &[0, 0]);
    floats(node, "target_weights", &[1.0, 2.0])
}

fn tree_model(mode: &str, yes: i64) -> Vec<u8> {
    model(&[tree(mode, yes)], &[value("x", FLOAT, &[-1, 2])], &[value("y", FLOAT, &[-1, 1])])
}

#[test]
fn a_node_compares_as_its_mode_says_also_at_the_threshold_and_with_nan() {
    let second = Float32Array::from(vec![0.4, 0.5, 0.6, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    let first: ArrayRef = Arc::new(Float32Array::from(vec![0.0; 6]));
    let rows = RecordBatch::try_from_iter([("x_0", first), ("x_1", Arc::new(second) as ArrayRef)]).unwrap();
    for (mode, wanted) in [
        ("BRANCH_LEQ", [1., 1., 2., 2., 2., 1.]),
        ("BRANCH_LT", [1., 2., 2., 2., 2., 1.]),
        ("BRANCH_GTE", [2., 1., 1., 2., 1., 2.]),
        ("BRANCH_GT", [2., 2., 1., 2., 1., 2.]),
        ("BRANCH_EQ", [2., 1., 2., 2., 2., 2.]),
        ("BRANCH_NEQ", [1., 2., 1., 1., 1., 1.]),
    ] {
        let scored = loaded(&tree_model(mode, 1)).score(&rows).unwrap();
        assert_eq!(scored.prediction.values().to_vec(), wanted, "{mode}");
    }
}

#[test]
fn a_tree_with_a_cycle_or_a_lost_child_is_refused() {
    refused(&tree_model("BRANCH_LEQ", 0), "has two parents");
    refused(&tree_model("BRANCH_LEQ", 7), "leads to the node 7");
    refused(&tree_model("BRANCH_MEMBER", 1), "BRANCH_MEMBER");
}

#[test]
fn an_unknown_operator_is_named_with_its_domain_version_and_node() {
    let strange = node("ai.onnx.ml", "TfIdfVectorizer", &["x"], &["y"]);
    let bytes = model(&[strange], &[value("x", FLOAT, &[-1, 1])], &[value("y", FLOAT, &[-1, 1])]);
    refused(&bytes, "node `here` (TfIdfVectorizer of ai.onnx.ml version 3): this operator is not supported");
    let elsewhere = node("org.example", "Relu", &["x"], &["y"]);
    let bytes = model(&[elsewhere], &[value("x", FLOAT, &[-1, 1])], &[value("y", FLOAT, &[-1, 1])]);
    refused(&bytes, "Relu of org.example");
}

#[test]
fn a_setting_that_the_operator_does_not_know_is_refused() {
    let strange = int(node("", "Relu", &["x"], &["y"]), "limit", 6);
    let bytes = model(&[strange], &[value("x", FLOAT, &[-1, 1])], &[value("y", FLOAT, &[-1, 1])]);
    refused(&bytes, "attribute `limit`");
}

#[test]
fn values_that_are_made_nowhere_twice_or_in_a_circle_are_refused() {
    let (input, output) = ([value("x", FLOAT, &[-1, 1])], [value("y", FLOAT, &[-1, 1])]);
    refused(&model(&[node("", "Relu", &["z"], &["y"])], &input, &output), "`z` is made nowhere");
    let circle = [node("", "Relu", &["y"], &["z"]), node("", "Relu", &["z"], &["y"])];
    refused(&model(&circle, &input, &output), "made nowhere, or out of itself");
    let twice = [node("", "Relu", &["x"], &["y"]), node("", "Abs", &["x"], &["y"])];
    refused(&model(&twice, &input, &output), "`y` is made twice");
    refused(&model(&[], &input, &output), "`y` is made nowhere");
}

#[test]
fn nodes_may_stand_in_any_order() {
    let nodes = [node("", "Neg", &["z"], &["y"]), node("", "Abs", &["x"], &["z"])];
    let model = loaded(&model(&nodes, &[value("x", FLOAT, &[-1, 1])], &[value("y", FLOAT, &[-1, 1])]));
    let rows = RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(vec![-2.0, 3.0])) as ArrayRef)]).unwrap();
    assert_eq!(model.score(&rows).unwrap().prediction.values().to_vec(), [-2.0, -3.0]);
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    for size in [vec![1 << 50], vec![1 << 20, 1 << 20], vec![-1], vec![1; 100]] {
        let size = ints(node("", "Constant", &[], &["size"]), "value_ints", &size);
        let nodes = [size, node("", "ConstantOfShape", &["size"], &["z"]), node("", "Add", &["x", "z"], &["y"])];
        let bytes = model(&nodes, &[value("x", FLOAT, &[-1, 1])], &[value("y", FLOAT, &[-1, 1])]);
        assert!(load("model.onnx", &bytes).is_err());
    }
}

#[test]
fn texts_are_looked_up_and_unknown_ones_get_the_default() {
    let encoder = node("ai.onnx.ml", "LabelEncoder", &["city"], &["z"]);
    let encoder = texts(encoder, "keys_strings", &["Medan", "Palu", ""]);
    let encoder = floats(encoder, "values_floats", &[1.0, 2.0, 3.0]);
    let encoder =
        encoder.message(5, &Message::default().text(1, "default_float").varint(2 << 3 | 5).fixed(9.0).int(20, 1));
    let bytes = model(
        &[encoder, node("", "Neg", &["z"], &["y"])],
        &[value("city", 8, &[-1, 1])],
        &[value("y", FLOAT, &[-1, 1])],
    );
    let cities = StringArray::from(vec![Some("Palu"), None, Some("Atlantis"), Some("Medan")]);
    let rows = RecordBatch::try_from_iter([("city", Arc::new(cities) as ArrayRef)]).unwrap();
    assert_eq!(loaded(&bytes).score(&rows).unwrap().prediction.values().to_vec(), [-2.0, -3.0, -9.0, -1.0]);
    let numbers = RecordBatch::try_from_iter([("city", Arc::new(Float64Array::from(vec![1.0])) as ArrayRef)]).unwrap();
    assert_eq!(loaded(&bytes).score(&numbers).unwrap_err().kind(), ErrorKind::Invalid);
}

impl Message {
    fn fixed(mut self, value: f32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
}

#[test]
fn damaged_files_are_errors_and_never_panic() {
    let good = tree_model("BRANCH_LEQ", 1);
    for cut in 0..good.len() {
        let _ = load("model.onnx", &good[..cut]);
    }
    assert!(load("model.onnx", &good[..good.len() / 2]).is_err());
    let first: ArrayRef = Arc::new(Float32Array::from(vec![0.0, 1.0]));
    let rows = RecordBatch::try_from_iter([("x_0", first.clone()), ("x_1", first)]).unwrap();
    let mut state = 7u64;
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..2 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bad.len();
            bad[at] = (state >> 20) as u8;
        }
        if let Ok(model) = load("model.onnx", &bad) {
            let _ = model.score(&rows);
        }
    }
}

#[test]
fn a_model_that_mixes_its_rows_is_refused() {
    let sum = int(node("", "ReduceSum", &["x"], &["y"]), "keepdims", 1);
    let bytes = model(&[sum], &[value("x", FLOAT, &[-1, 1])], &[value("y", FLOAT, &[-1, 1])]);
    assert!(load("model.onnx", &bytes).is_err());
    let mean = node("", "Sub", &["x", "m"], &["y"]);
    let sum = int(node("", "ReduceMean", &["x"], &["m"]), "keepdims", 1);
    let bytes = model(&[sum, mean], &[value("x", FLOAT, &[-1, 1])], &[value("y", FLOAT, &[-1, 1])]);
    refused(&bytes, "score differently alone");
}

#[test]
fn constants_in_a_file_beside_the_model_are_read_and_checked() {
    let place = |key: &str, text: &str| Message::default().text(1, key).text(2, text);
    let model_of = |length: &str, more: Option<&str>| {
        let mut constant = Message::default().int(1, 1).int(2, FLOAT).text(8, "c").int(14, 1);
        for (key, text) in [("location", "weights"), ("offset", "4"), ("length", length)] {
            constant = constant.message(13, &place(key, text));
        }
        if let Some(key) = more {
            constant = constant.message(13, &place(key, "x"));
        }
        let add = node("", "Add", &["x", "c"], &["y"]);
        let graph = Message::default()
            .message(1, &add)
            .message(5, &constant)
            .message(11, &value("x", FLOAT, &[-1, 1]))
            .message(12, &value("y", FLOAT, &[-1, 1]));
        Bytes::from(Message::default().int(1, 8).message(7, &graph).message(8, &Message::default().int(2, 18)).0)
    };
    let weights = Bytes::from([1.5f32.to_le_bytes(), 2.5f32.to_le_bytes()].concat());
    let load = |bytes: &Bytes, names: &[&str]| {
        let mut files = BTreeMap::from([("model.onnx".to_owned(), bytes.clone())]);
        files.extend(names.iter().map(|name| ((*name).to_owned(), weights.clone())));
        crate::load(&crate::Artifact::from_files(files).unwrap())
    };
    let model = load(&model_of("4", None), &["weights"]).unwrap();
    let rows = RecordBatch::try_from_iter([("x", Arc::new(Float32Array::from(vec![1.0])) as ArrayRef)]).unwrap();
    assert_eq!(model.score(&rows).unwrap().prediction.values().to_vec(), [3.5]);
    for (bytes, names, says) in [
        (model_of("4", None), &[][..], "the file `weights`, which is not there"),
        (model_of("8", None), &["weights"], "the file `weights` ends before it"),
        (model_of("-4", None), &["weights"], "its length is no size"),
        (model_of("2", None), &["weights"], "constant `c`"),
        (model_of("4", Some("cipher")), &["weights"], "says `cipher`"),
        (model_of("4", None), &["weights", "other"], "`other` beside it is no part of it"),
    ] {
        let error = load(&bytes, names).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn an_operator_that_is_not_here_runs_in_onnx_runtime_or_says_how() {
    let strange = node("", "ThresholdedRelu", &["x"], &["y"]);
    let bytes = model(&[strange], &[value("x", FLOAT, &[-1, 1])], &[value("y", FLOAT, &[-1, 1])]);
    if cfg!(feature = "onnxruntime") && std::env::var_os("ORT_DYLIB_PATH").is_some() {
        let rows = Float32Array::from(vec![0.5, 2.0]);
        let rows = RecordBatch::try_from_iter([("x", Arc::new(rows) as ArrayRef)]).unwrap();
        assert_eq!(loaded(&bytes).score(&rows).unwrap().prediction.values().to_vec(), [0.0, 2.0]);
        return;
    }
    let error = load("model.onnx", &bytes).unwrap_err();
    let way = if cfg!(feature = "onnxruntime") { "ORT_DYLIB_PATH" } else { "feature `onnxruntime`" };
    assert!(error.to_string().contains("ThresholdedRelu") && error.hint().unwrap().contains(way), "{error:?}");
}
