//! Models written by hand, with answers worked out by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array,
    Int64Array, StringArray, StringViewArray,
};
use arrow::datatypes::Int32Type;
use arrow::record_batch::RecordBatch;
use insightera_core::ErrorKind;
use serde_json::{Value, json};

use crate::{Artifact, Error, InputKind, Model, load};

/// One tree: node 0 splits `a < 1.5` (missing left), its right child, node 2,
/// splits `b < -2` (missing right); leaves are 10, 20, 40.
fn tree() -> Value {
    json!({
        "left_children": [1, -1, 3, -1, -1], "right_children": [2, -1, 4, -1, -1],
        "split_indices": [0, 0, 1, 0, 0], "split_conditions": [1.5, 10.0, -2.0, 20.0, 40.0],
        "default_left": [1, 0, 0, 0, 0], "split_type": [0, 0, 0, 0, 0],
        "tree_param": {"num_nodes": "5", "size_leaf_vector": "1"}
    })
}

fn document(objective: &str, base: &str, trees: Vec<Value>) -> Value {
    let info = vec![0; trees.len()];
    json!({"version": [3, 2, 0], "learner": {
        "attributes": {}, "feature_names": ["a", "b"], "feature_types": [],
        "learner_model_param": {"base_score": base, "num_class": "0", "num_feature": "2", "num_target": "1"},
        "objective": {"name": objective},
        "gradient_booster": {"name": "gbtree", "model": {
            "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": "1"}, "tree_info": info, "trees": trees
        }}
    }})
}

fn parse(document: &Value) -> Result<Arc<dyn Model>, Error> {
    let files = BTreeMap::from([("model.json".to_owned(), document.to_string().into())]);
    load(&Artifact::from_files(files).unwrap())
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn rows() -> RecordBatch {
    let a = Float64Array::from(vec![Some(1.0), Some(1.5), Some(2.0), None, Some(f64::NAN), Some(9.0)]);
    let b = Float64Array::from(vec![Some(0.0), Some(-2.5), Some(-2.0), Some(0.0), Some(0.0), None]);
    batch(vec![("b", Arc::new(b)), ("extra", Arc::new(Int64Array::from(vec![7; 6]))), ("a", Arc::new(a))])
}

#[test]
fn rows_reach_the_leaves_that_a_reader_of_the_model_finds() {
    let model = parse(&document("reg:squarederror", "[5E-1]", vec![tree(), tree()])).unwrap();
    let scored = model.score(&rows()).unwrap();
    assert_eq!(scored.prediction.values().to_vec(), [20.5, 40.5, 80.5, 20.5, 20.5, 80.5]);
    assert_eq!(scored.margin.unwrap(), scored.prediction);
    assert!(scored.probability.is_none() && scored.probabilities.is_none());
    let description = model.description();
    assert_eq!((description.trees, description.nodes, description.max_depth), (2, 10, 2));
    let names: Vec<&str> = model.signature().inputs.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_batch_cut_anywhere_scores_the_same() {
    let model = parse(&document("binary:logistic", "3E-1", vec![tree(); 7])).unwrap();
    let many = arrow::compute::concat_batches(&rows().schema(), &vec![rows(); 200]).unwrap();
    let whole = model.score(&many).unwrap();
    for cut in [1, 7, 255, 256, 1000] {
        let mut margins = Vec::new();
        for start in (0..many.num_rows()).step_by(cut) {
            let part = model.score(&many.slice(start, cut.min(many.num_rows() - start))).unwrap();
            margins.extend_from_slice(part.margin.unwrap().values());
        }
        assert_eq!(margins, whole.margin.as_ref().unwrap().values().to_vec());
    }
    assert_eq!(model.score(&many.slice(0, 0)).unwrap().prediction.len(), 0);
}

#[test]
fn margins_start_from_the_base_score_by_the_objectives_link() {
    let leaf = json!({
        "left_children": [-1], "right_children": [-1], "split_indices": [0], "split_conditions": [0.0], "default_left": [0]
    });
    let close = |objective: &str, base: &str, margin: f64, prediction: f64| {
        let scored = parse(&document(objective, base, vec![leaf.clone()])).unwrap().score(&rows()).unwrap();
        let found = (scored.margin.unwrap().value(0), scored.prediction.value(0));
        assert!((found.0 - margin).abs() < 1e-6 && (found.1 - prediction).abs() < 1e-6, "{objective}: {found:?}");
    };
    close("binary:logistic", "[2.5E-1]", -(3f64.ln()), 0.0);
    close("binary:logistic", "7.5E-1", 3f64.ln(), 1.0);
    close("reg:logistic", "7.5E-1", 3f64.ln(), 0.75);
    close("binary:logitraw", "7.5E-1", 0.75, 0.75);
    close("count:poisson", "4", 4f64.ln(), 4.0);
    close("reg:absoluteerror", "-4", -4.0, -4.0);
    close("binary:hinge", "0.5", 0.5, 1.0);
}

#[test]
fn every_class_has_its_own_trees_and_base_score() {
    let mut model = document("multi:softprob", "[1,2,0]", vec![tree(), tree(), tree(), tree()]);
    model["learner"]["learner_model_param"]["num_class"] = json!("3");
    model["learner"]["gradient_booster"]["model"]["tree_info"] = json!([0, 1, 2, 0]);
    let scored = parse(&model).unwrap().score(&rows()).unwrap();
    assert_eq!(scored.prediction.value(0), 0.0);
    let classes = scored.probabilities.unwrap();
    assert_eq!(classes.labels.to_vec(), ["0", "1", "2"]);
    // Margins 21, 12 and 10.
    let sum = 1.0 + (-9f64).exp() + (-11f64).exp();
    for (found, wanted) in classes.values[..3].iter().zip([1.0, (-9f64).exp(), (-11f64).exp()]) {
        assert!((found - wanted / sum).abs() < 1e-7 * wanted, "{found}");
    }
}

#[test]
fn the_wrappers_early_stopping_counts_and_a_boosters_does_not() {
    let mut model = document("reg:squarederror", "0", vec![tree(); 5]);
    model["learner"]["attributes"] = json!({"best_iteration": "1", "best_score": "0.1"});
    assert_eq!(parse(&model).unwrap().description().trees, 5);
    model["learner"]["attributes"]["scikit_learn"] = json!("{}");
    assert_eq!(parse(&model).unwrap().description().trees, 2);
}

#[test]
fn dart_weighs_its_trees() {
    let mut model = document("reg:squarederror", "0", vec![tree(), tree()]);
    let inner = model["learner"]["gradient_booster"].clone();
    model["learner"]["gradient_booster"] = json!({"name": "dart", "gbtree": inner, "weight_drop": [0.5, 0.25]});
    assert_eq!(parse(&model).unwrap().score(&rows()).unwrap().prediction.value(0), 7.5);
}

#[test]
fn categories_in_the_set_go_right_and_labels_are_looked_up() {
    let mut tree = tree();
    tree["split_type"] = json!([1, 0, 0, 0, 0]);
    tree["categories"] = json!([1]);
    tree["categories_nodes"] = json!([0]);
    tree["categories_segments"] = json!([0]);
    tree["categories_sizes"] = json!([1]);
    let codes = parse(&document("reg:squarederror", "0", vec![tree.clone()])).unwrap();
    let rows = |a: ArrayRef| batch(vec![("b", Arc::new(Int64Array::from(vec![0; a.len()]))), ("a", a)]);
    let scored =
        codes.score(&rows(Arc::new(Float64Array::from(vec![Some(0.0), Some(1.0), Some(99.0), None])))).unwrap();
    assert_eq!(scored.prediction.values().to_vec(), [10.0, 40.0, 10.0, 10.0]);

    let mut model = document("reg:squarederror", "0", vec![tree]);
    // "no" and "yes", as bytes with their ends.
    let encoding = json!({"offsets": [0, 2, 5], "values": [110, 111, 121, 101, 115]});
    model["learner"]["gradient_booster"]["model"]["cats"] = json!({"enc": [encoding, {"offsets": [], "values": []}]});
    let labels = parse(&model).unwrap();
    assert_eq!(labels.signature().inputs[0].kind, InputKind::Categorical);
    let words = vec![Some("no"), Some("yes"), None];
    let dictionary: DictionaryArray<Int32Type> = words.iter().copied().collect();
    for column in [
        Arc::new(StringArray::from(words.clone())) as ArrayRef,
        Arc::new(StringViewArray::from(words)),
        Arc::new(dictionary),
    ] {
        assert_eq!(labels.score(&rows(column)).unwrap().prediction.values().to_vec(), [10.0, 40.0, 10.0]);
    }
    let error = labels.score(&rows(Arc::new(StringArray::from(vec!["perhaps"])))).unwrap_err();
    assert!(error.kind() == ErrorKind::Data && error.to_string().contains("`perhaps`"), "{error}");
    let error = labels.score(&rows(Arc::new(Int64Array::from(vec![1])))).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("Int64"), "{error}");
}

#[test]
fn numbers_of_every_type_are_read_and_nothing_else() {
    let model = parse(&document("reg:squarederror", "0", vec![tree()])).unwrap();
    let b: ArrayRef = Arc::new(Float32Array::from(vec![-3.0, -3.0]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 2])),
        Arc::new(Float32Array::from(vec![1.4, 1.5])),
        Arc::new(Decimal128Array::from(vec![149, 150]).with_precision_and_scale(10, 2).unwrap()),
        Arc::new(DictionaryArray::<Int32Type>::new(vec![0, 1].into(), Arc::new(Float64Array::from(vec![1.0, 2.0])))),
    ];
    for a in columns {
        let found = a.data_type().clone();
        let scored = model.score(&batch(vec![("a", a), ("b", b.clone())])).unwrap();
        assert_eq!(scored.prediction.values().to_vec(), [10.0, 20.0], "{found}");
    }
    let scored =
        model.score(&batch(vec![("a", Arc::new(BooleanArray::from(vec![false, true]))), ("b", b.clone())])).unwrap();
    assert_eq!(scored.prediction.values().to_vec(), [10.0, 10.0]);
    let dates: ArrayRef = Arc::new(Date32Array::from(vec![1, 2]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["1", "2"]));
    for a in [dates, texts] {
        let found = a.data_type().to_string();
        let error = model.score(&batch(vec![("a", a), ("b", b.clone())])).unwrap_err();
        let said = error.to_string();
        assert!(
            error.kind() == ErrorKind::Invalid
                && said.contains("`a`")
                && said.contains(&found)
                && said.contains("numbers"),
            "{said}"
        );
    }
}

#[test]
fn a_missing_column_is_named_with_its_nearest_and_with_all_that_is_wanted() {
    let mut model = document("reg:squarederror", "0", vec![tree()]);
    model["learner"]["feature_names"] = json!(["attendance", "grade"]);
    let rows = batch(vec![("atendance", Arc::new(Int64Array::from(vec![1])))]);
    let error = parse(&model).unwrap().score(&rows).unwrap_err();
    assert!(error.to_string().contains("`attendance`"), "{error}");
    assert_eq!(error.hint(), Some("did you mean `atendance`? the model wants `attendance`, `grade`"));
    model["learner"]["feature_names"] = json!([]);
    assert_eq!(parse(&model).unwrap().signature().inputs[1].name, "f1");
}

#[test]
fn what_is_not_supported_or_does_not_hold_together_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Value), kind: ErrorKind, says: &str| {
        let mut model = document("reg:squarederror", "0", vec![tree(), tree()]);
        change(&mut model["learner"]);
        let error = parse(&model).unwrap_err();
        assert!(
            error.kind() == kind && error.to_string().contains(says) && error.to_string().contains("model.json"),
            "{:?} {error}",
            error.kind()
        );
    };
    let set =
        |at: &'static str, value: Value| move |learner: &mut Value| *learner.pointer_mut(at).unwrap() = value.clone();
    let tree = |field: &'static str, value: Value| {
        move |learner: &mut Value| learner["gradient_booster"]["model"]["trees"][1][field] = value.clone()
    };
    refused(&set("/objective/name", json!("survival:unheard")), ErrorKind::Invalid, "survival:unheard");
    refused(&set("/gradient_booster/name", json!("gbforest")), ErrorKind::Invalid, "gbforest");
    refused(&set("/learner_model_param/num_target", json!("2000000")), ErrorKind::Data, "outputs");
    refused(&set("/learner_model_param/base_score", json!("[1,2]")), ErrorKind::Data, "base scores");
    refused(&set("/learner_model_param/num_feature", json!("1")), ErrorKind::Data, "feature");
    refused(&set("/feature_names", json!(["a"])), ErrorKind::Data, "feature names");
    refused(&tree("tree_param", json!({"size_leaf_vector": "3"})), ErrorKind::Invalid, "tree 1");
    refused(&tree("left_children", json!([0, -1, 3, -1, -1])), ErrorKind::Data, "two parents");
    refused(&tree("left_children", json!([1, -1, 0, -1, -1])), ErrorKind::Data, "two parents");
    refused(&tree("right_children", json!([2, -1, 400, -1, -1])), ErrorKind::Data, "node 2");
    refused(&tree("split_indices", json!([0, 0, 2, 0, 0])), ErrorKind::Data, "feature 2");
    refused(&tree("split_indices", json!([0, 0, -1, 0, 0])), ErrorKind::Data, "feature");
    refused(&tree("default_left", json!([0])), ErrorKind::Data, "lengths");
    refused(&tree("left_children", json!("x")), ErrorKind::Data, "left_children");
    refused(&set("/gradient_booster/model/trees", json!([])), ErrorKind::Invalid, "no trees");
    refused(
        &|learner: &mut Value| learner["gradient_booster"]["model"]["tree_info"] = json!([0, 3]),
        ErrorKind::Data,
        "class",
    );
}

#[test]
fn garbage_never_panics() {
    let good = document("binary:logistic", "3E-1", vec![tree(), tree()]).to_string().into_bytes();
    let mut state = 7u64;
    for round in 0..4000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut bad = good.clone();
        let at = (state >> 33) as usize % bad.len();
        if round % 4 == 0 {
            bad.truncate(at);
        } else {
            bad[at] = b"0123456789-.,[]{}\"eE \xff"[(state >> 20) as usize % 22];
        }
        let files = BTreeMap::from([("model.json".to_owned(), bad.into())]);
        if let Ok(model) = load(&Artifact::from_files(files).unwrap()) {
            let _ = model.score(&rows());
        }
    }
}
