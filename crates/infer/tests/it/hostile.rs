//! Every input that fuzzing has found something with, and those made by hand in
//! their kind: `fuzz/findings`. `fuzz/run.sh` looks for more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use bytes::Bytes;
use insightera_infer::{Artifact, load};

use crate::archive;
use crate::formats::Format;
use crate::rows;

fn inputs(folder: &str) -> Vec<(String, Format, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(folder);
    let list = |path: &Path| -> Vec<PathBuf> { path.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect() };
    let mut inputs = Vec::new();
    for format in list(&root) {
        let name = format.file_name().unwrap().to_str().unwrap().to_owned();
        for file in list(&format) {
            let label = format!("{name}/{}", file.file_name().unwrap().to_str().unwrap());
            inputs.push((label, Format::named(&name).unwrap(), std::fs::read(file).unwrap()));
        }
    }
    inputs
}

#[test]
fn every_model_that_fuzzing_starts_from_loads_and_scores() {
    let mut loaded = 0;
    for (name, format, input) in inputs("seeds") {
        // The loaders of these may not be there.
        let optional = matches!(format, Format::Onnx | Format::Catboost | Format::Mlflow);
        match load(&format.artifact(&input).unwrap()) {
            Ok(model) => {
                rows::glance(&*model);
                rows::score(&*model);
            }
            Err(e) => assert!(optional, "{name}: {e}"),
        }
        loaded += usize::from(!optional);
    }
    assert!(loaded >= 30, "only {loaded} models");
}

#[test]
fn what_fuzzing_has_found_is_refused_or_scored() {
    let says = BTreeMap::from([
        // 65,536 classes of six trees: every row took megabytes.
        ("xgboost-json/classes_without_trees", "it has 65536 outputs, with 6 trees"),
        ("xgboost-ubj/classes_without_trees", "it has 65536 outputs, with 6 trees"),
        // Two megabytes of bits, twice, for each node that names the last category.
        ("xgboost-json/large_categories", "categories beyond what is supported"),
        // A gigabyte of columns for a file of 2 KB.
        ("xgboost-json/features_without_names", "0 feature names for 999999999 features"),
        // Lists whose elements take no bytes: memory in the square of the file.
        ("xgboost-ubj/list_of_nothing", "a list of a type without values"),
        // A copy of the set for every split that names it.
        ("lightgbm/set_of_two_splits", "or is another split's"),
        // Probabilities of one class with labels for two.
        ("lightgbm/several_classes_of_one_output", "does not go with 1 outputs"),
        // A panic: a null where the trees have a struct.
        ("spark/null_struct", "`nodeData` is missing in a row"),
        // A panic: lists for 10^18 features.
        ("spark/wide_tree", "numFeatures = 1000000000000000000"),
        // A panic: the second part lacks columns.
        ("spark/parts_of_different_columns", "have different columns"),
        // The end of the stack, and of the process, at 200,000 groups.
        ("spark/deep_schema", "its schema is nested deeper"),
        // 800 MB of 2 KB.
        ("spark/endless_list", "too many values"),
        ("spark/endless_text", "too much data"),
        // No end: 2^60 rows of nothing.
        ("spark/rows_without_columns", "1152921504606846976 rows"),
        // 128 MB of a few bytes, for each stage.
        ("spark/large_sparse_vector", "the size of a vector is impossible"),
        // Time in the square of the file.
        ("spark/pointers_that_repeat", "do not ascend"),
        // A panic of the Parquet reader.
        ("spark/numbers_without_dictionary", "a dictionary that is not there"),
        ("spark/column_before_the_file", "its headers cannot be read"),
        ("spark/node_without_parent", "splits on feature"),
        // 2 GB: a field of another type, read as the length of a list.
        ("spark/number_for_a_list", "its headers cannot be read"),
    ]);
    let mut said = 0;
    for (name, format, input) in inputs("findings") {
        let Some(artifact) = format.artifact(&input) else { continue };
        match (load(&artifact), says.get(name.as_str())) {
            (Err(e), Some(says)) => {
                assert!(e.to_string().contains(says), "{name}: {e}");
                said += 1;
            }
            (Ok(_), Some(says)) => panic!("{name} loads, instead of `{says}`"),
            (Ok(model), None) => rows::score(&*model),
            (Err(_), None) => {}
        }
    }
    assert_eq!(said, says.len(), "findings are missing");
}

/// The distance to every column's name took the product of both lengths: 16 GB here.
#[test]
fn a_column_of_a_very_long_name_is_missed_without_a_comparison() {
    let long = "n".repeat(1_000_000);
    let (_, format, seed) = inputs("seeds").into_iter().find(|(name, ..)| name == "lightgbm/value").unwrap();
    let text = String::from_utf8(seed).unwrap();
    let changed: Vec<String> = text
        .lines()
        .map(|line| if line.starts_with("feature_names=") { format!("feature_names={long} b c") } else { line.into() })
        .collect();
    let model = load(&format.artifact(changed.join("\n").as_bytes()).unwrap()).unwrap();
    let column: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let rows = RecordBatch::try_from_iter([("m".repeat(2000), column)]).unwrap();
    assert!(model.score(&rows).unwrap_err().to_string().contains("which the rows do not have"));
}

/// Rows of a wide model are scored a few at a time: the batch does not matter.
#[test]
fn a_wide_pipeline_scores_a_large_batch_as_it_scores_row_by_row() {
    let (_, _, seed) = inputs("seeds").into_iter().find(|(name, ..)| name == "spark/forest_value").unwrap();
    let mut files = archive::read(&seed);
    // The vector again and again: 2^19 values that no tree looks at, behind the real ones.
    let (root, metadata) = files.iter().find(|(path, _)| path == "metadata/part-00000").cloned().unwrap();
    let mut pipeline: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    let uids = pipeline["paramMap"]["stageUids"].as_array_mut().unwrap();
    let old = uids.len();
    let last = uids.pop().unwrap();
    let mut stages = vec![("x0".to_owned(), vec!["m".to_owned(); 8])];
    stages.extend((1..17).map(|i| (format!("x{i}"), vec![format!("x{}", i - 1); 2])));
    stages.push(("wide".into(), vec!["features".into(), "x16".into()]));
    let width = 2 + (8 << 16);
    let mut added = Vec::new();
    for (output, inputs) in &stages {
        uids.push(output.as_str().into());
        added.push(serde_json::json!({
            "class": "org.apache.spark.ml.feature.VectorAssembler",
            "paramMap": { "inputCols": inputs, "outputCol": output, "handleInvalid": "keep" },
        }));
    }
    uids.push(last.clone());
    let digits = uids.len().to_string().len();
    let names: Vec<String> = uids.iter().map(|uid| uid.as_str().unwrap().to_owned()).collect();
    let place = |at: usize| format!("stages/{at:0digits$}_{}/", names[at]);
    let old_digits = old.to_string().len();
    let mut moved: BTreeMap<String, Bytes> = BTreeMap::new();
    for (path, content) in files.drain(..) {
        let Some(rest) = path.strip_prefix("stages/") else { continue };
        let (stage, rest) = rest.split_once('/').unwrap();
        let number: usize = stage[..old_digits].parse().unwrap();
        let at = if number + 1 == old { names.len() - 1 } else { number };
        let mut content = content;
        if number + 1 == old && rest.starts_with("metadata") {
            let mut model: serde_json::Value = serde_json::from_slice(&content).unwrap();
            model["numFeatures"] = width.into();
            model["paramMap"]["featuresCol"] = "wide".into();
            content = serde_json::to_vec(&model).unwrap();
        }
        moved.insert(format!("{}{rest}", place(at)), content.into());
    }
    for (at, metadata) in added.iter().enumerate() {
        moved.insert(format!("{}metadata/part-00000", place(old - 1 + at)), metadata.to_string().into());
    }
    moved.insert(root, serde_json::to_vec(&pipeline).unwrap().into());
    let again: Vec<archive::File> = moved.into_iter().map(|(path, content)| (path, content.to_vec())).collect();
    let model = load(&Format::Spark.artifact(&archive::write(&again)).unwrap()).unwrap();
    let plain: Artifact = Format::Spark.artifact(&seed).unwrap();
    let plain = load(&plain).unwrap();
    let rows = 41;
    let column = |shift: f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values((0..rows).map(|row| f64::from(row) / 10.0 - shift)))
    };
    let batch = RecordBatch::try_from_iter([("n", column(2.0)), ("m", column(1.0))]).unwrap();
    let (wide, narrow) = (model.score(&batch).unwrap(), plain.score(&batch).unwrap());
    assert_eq!(wide.prediction, narrow.prediction);
    assert!(narrow.prediction.values().iter().any(|value| *value != narrow.prediction.value(0)));
}
