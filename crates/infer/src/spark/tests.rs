//! Pipelines written by hand, with answers worked out by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int8Array, Int32Array, Int64Array, ListArray,
    StringArray, StructArray,
};
use arrow::datatypes::{Field, Float64Type, Int32Type};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use insightera_core::ErrorKind;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::{Artifact, Error, InputKind, Model, load};

type Columns = Vec<(&'static str, ArrayRef)>;

/// Folder names, each with the columns of its part files.
type Data = Vec<(&'static str, Vec<Columns>)>;

/// The files of a pipeline, made stage by stage.
#[derive(Default)]
struct Pipeline {
    files: BTreeMap<String, Bytes>,
    uids: Vec<String>,
    stages: Vec<(Value, Data)>,
}

impl Pipeline {
    fn stage(mut self, class: &str, parameters: Value, data: Data) -> Self {
        let uid = format!("{class}_{}", self.uids.len());
        let metadata = json!({
            "class": format!("org.apache.spark.ml.any.{class}"), "uid": uid, "sparkVersion": "3.5.7",
            "paramMap": parameters, "defaultParamMap": {"handleInvalid": "error", "dropLast": true, "withStd": true, "withMean": false, "missingValue": "NaN"},
            "numFeatures": 2, "numClasses": 2
        });
        self.uids.push(uid);
        self.stages.push((metadata, data));
        self
    }

    fn load(self) -> Result<Arc<dyn Model>, Error> {
        load(&self.artifact())
    }

    fn artifact(mut self) -> Artifact {
        let pipeline = json!({"class": "org.apache.spark.ml.PipelineModel", "paramMap": {"stageUids": self.uids}});
        self.files.insert("metadata/part-00000".into(), pipeline.to_string().into());
        let digits = self.stages.len().to_string().len();
        for (index, (metadata, data)) in self.stages.iter().enumerate() {
            let path = format!("stages/{index:0digits$}_{}", self.uids[index]);
            self.files.insert(format!("{path}/metadata/part-00000"), format!("{metadata}\n").into());
            for (name, parts) in data {
                for (number, columns) in parts.iter().enumerate() {
                    self.files.insert(format!("{path}/{name}/part-{number:05}.parquet"), parquet(columns));
                }
            }
        }
        Artifact::from_files(self.files).unwrap()
    }

    fn indexer(self, inputs: &[&str], labels: &[&[&str]], invalid: &str) -> Self {
        let outputs: Vec<String> = inputs.iter().map(|i| format!("{i}_index")).collect();
        let parameters = json!({"inputCols": inputs, "outputCols": outputs, "handleInvalid": invalid});
        let inner = labels.iter().map(|l| StringArray::from(l.to_vec())).collect::<Vec<_>>();
        let lengths = arrow::buffer::OffsetBuffer::from_lengths(labels.iter().map(|l| l.len()));
        let all = arrow::compute::concat(&inner.iter().map(|a| a as &dyn Array).collect::<Vec<_>>()).unwrap();
        let inner = ListArray::new(Arc::new(Field::new("element", all.data_type().clone(), true)), lengths, all, None);
        let outer = ListArray::new(
            Arc::new(Field::new("element", inner.data_type().clone(), true)),
            arrow::buffer::OffsetBuffer::from_lengths([labels.len()]),
            Arc::new(inner),
            None,
        );
        self.stage("StringIndexerModel", parameters, vec![("data", vec![vec![("labelsArray", Arc::new(outer))]])])
    }

    fn encoder(self, input: &str, size: i32, invalid: &str, drop_last: bool) -> Self {
        let parameters = json!({"inputCol": input, "outputCol": format!("{input}_hot"), "handleInvalid": invalid, "dropLast": drop_last});
        self.stage(
            "OneHotEncoderModel",
            parameters,
            vec![("data", vec![vec![("categorySizes", integers(&[&[size]]))]])],
        )
    }

    fn assembler(self, inputs: &[&str], invalid: &str) -> Self {
        self.stage(
            "VectorAssembler",
            json!({"inputCols": inputs, "outputCol": "features", "handleInvalid": invalid}),
            vec![],
        )
    }

    fn linear(self, coefficients: ArrayRef, intercept: f64) -> Self {
        let data = vec![
            ("intercept", Arc::new(Float64Array::from(vec![intercept])) as ArrayRef),
            ("coefficients", coefficients),
        ];
        self.stage("LinearRegressionModel", json!({"featuresCol": "features"}), vec![("data", vec![data])])
    }

    fn tree(self, class: &str, parameters: Value, parts: Vec<Columns>) -> Self {
        self.stage(class, parameters, vec![("data", parts)])
    }
}

fn parquet(columns: &Columns) -> Bytes {
    let batch = RecordBatch::try_from_iter(columns.clone()).unwrap();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out.into()
}

fn doubles(lists: &[&[f64]]) -> ArrayRef {
    Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(
        lists.iter().map(|l| Some(l.iter().map(|v| Some(*v)))),
    ))
}

fn integers(lists: &[&[i32]]) -> ArrayRef {
    Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists.iter().map(|l| Some(l.iter().map(|v| Some(*v))))))
}

fn structure(columns: Columns) -> ArrayRef {
    Arc::new(StructArray::from(RecordBatch::try_from_iter(columns).unwrap()))
}

fn dense(values: &[f64]) -> ArrayRef {
    vector(1, 0, &[], values)
}

fn vector(kind: i8, size: i32, indices: &[i32], values: &[f64]) -> ArrayRef {
    structure(vec![
        ("type", Arc::new(Int8Array::from(vec![kind]))),
        ("size", Arc::new(Int32Array::from(vec![size]))),
        ("indices", integers(&[indices])),
        ("values", doubles(&[values])),
    ])
}

/// A node: id, prediction, class counts, children, and the split's feature,
/// number of categories (-1: a threshold) and values.
type Node = (i32, f64, [f64; 2], i32, i32, i32, i32, Vec<f64>);

fn nodes(nodes: &[Node]) -> Columns {
    let column =
        |pick: fn(&Node) -> i32| Arc::new(Int32Array::from(nodes.iter().map(pick).collect::<Vec<i32>>())) as ArrayRef;
    let split = structure(vec![
        ("featureIndex", column(|n| n.5)),
        ("leftCategoriesOrThreshold", doubles(&nodes.iter().map(|n| n.7.as_slice()).collect::<Vec<_>>())),
        ("numCategories", column(|n| n.6)),
    ]);
    vec![
        ("id", column(|n| n.0)),
        ("prediction", Arc::new(Float64Array::from(nodes.iter().map(|n| n.1).collect::<Vec<_>>()))),
        ("impurityStats", doubles(&nodes.iter().map(|n| n.2.as_slice()).collect::<Vec<_>>())),
        ("leftChild", column(|n| n.3)),
        ("rightChild", column(|n| n.4)),
        ("split", split),
    ]
}

/// `a <= 1` gives the first leaf, else the second.
fn stump(first: (f64, [f64; 2]), second: (f64, [f64; 2])) -> Vec<Node> {
    vec![
        (0, 0.0, [0.0; 2], 1, 2, 0, -1, vec![1.0]),
        (1, first.0, first.1, -1, -1, -1, -1, vec![]),
        (2, second.0, second.1, -1, -1, -1, -1, vec![]),
    ]
}

fn in_forest(tree: i32, of: &[Node]) -> Columns {
    vec![("treeID", Arc::new(Int32Array::from(vec![tree; of.len()]))), ("nodeData", structure(nodes(of)))]
}

fn batch(columns: Columns) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn numbers(values: Vec<Option<f64>>) -> ArrayRef {
    Arc::new(Float64Array::from(values))
}

fn words(values: Vec<Option<&str>>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

#[test]
fn labels_are_indexed_and_encoded_and_the_unknown_is_kept_or_refused() {
    // Widths: with `keep` one more, without the last one less.
    for (invalid, drop_last, weights) in [("keep", true, vec![1.0, 2.0]), ("keep", false, vec![1.0, 2.0, 4.0])] {
        let pipeline =
            Pipeline::default().indexer(&["kind"], &[&["a", "b"]], "keep").encoder("kind_index", 2, invalid, drop_last);
        let model = pipeline.assembler(&["kind_index_hot"], "error").linear(dense(&weights), 0.5).load().unwrap();
        assert_eq!((model.signature().inputs.len(), model.signature().inputs[0].kind), (1, InputKind::Categorical));
        let scored = model.score(&batch(vec![("kind", words(vec![Some("b"), Some("a"), Some("?"), None]))])).unwrap();
        let other = if drop_last { 0.5 } else { 4.5 };
        assert_eq!(scored.prediction.values().to_vec(), [2.5, 1.5, other, other]);
    }
    for (invalid, hint) in [("error", "keep"), ("skip", "drop the row")] {
        let pipeline =
            Pipeline::default().indexer(&["kind"], &[&["a", "b"]], invalid).assembler(&["kind_index"], "error");
        let model = pipeline.linear(dense(&[1.0]), 0.0).load().unwrap();
        assert_eq!(model.score(&batch(vec![("kind", words(vec![Some("b")]))])).unwrap().prediction.value(0), 1.0);
        for value in [Some("?"), None] {
            let error = model.score(&batch(vec![("kind", words(vec![value]))])).unwrap_err();
            let shown = value.unwrap_or("null");
            assert!(
                error.kind() == ErrorKind::Data
                    && error.to_string().contains("`kind`")
                    && error.to_string().contains(shown),
                "{error}"
            );
            assert!(error.hint().unwrap().contains(hint));
        }
    }
}

#[test]
fn labels_that_are_numbers_are_compared_as_spark_writes_them() {
    let pipeline = Pipeline::default().indexer(&["kind"], &[&["1.5", "2", "0.1", "true", "NaN"]], "keep");
    let model = pipeline.assembler(&["kind_index"], "error").linear(dense(&[1.0]), 0.0).load().unwrap();
    let index = |column: ArrayRef| model.score(&batch(vec![("kind", column)])).unwrap().prediction.values().to_vec();
    assert_eq!(index(numbers(vec![Some(1.5), Some(2.0), Some(0.1), Some(-f64::NAN), None])), [0.0, 5.0, 2.0, 4.0, 5.0]);
    assert_eq!(index(Arc::new(Float32Array::from(vec![1.5, 0.1]))), [0.0, 2.0]);
    assert_eq!(index(Arc::new(Int64Array::from(vec![2, 1]))), [1.0, 5.0]);
    assert_eq!(index(Arc::new(BooleanArray::from(vec![true, false]))), [3.0, 5.0]);
}

#[test]
fn missing_values_are_imputed_refused_or_passed_on() {
    let imputer = |p: Pipeline| {
        let data: Columns = vec![("a", numbers(vec![Some(2.5)])), ("b", numbers(vec![Some(7.9)]))];
        p.stage("ImputerModel", json!({"inputCols": ["a", "b"], "outputCols": ["x", "y"]}), vec![("data", vec![data])])
    };
    let model =
        imputer(Pipeline::default()).assembler(&["x", "y"], "error").linear(dense(&[1.0, 10.0]), 0.0).load().unwrap();
    let rows = batch(vec![
        ("b", Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]))),
        ("a", numbers(vec![Some(f64::NAN), Some(1.0), None])),
    ]);
    // The whole-number column is filled with 7, not 7.9.
    assert_eq!(model.score(&rows).unwrap().prediction.values().to_vec(), [12.5, 71.0, 32.5]);

    let stump = nodes(&stump((10.0, [0.0; 2]), (20.0, [0.0; 2])));
    let tree = |invalid: &str| {
        let pipeline = Pipeline::default().assembler(&["a", "b"], invalid);
        pipeline.tree("DecisionTreeRegressionModel", json!({}), vec![stump.clone()]).load().unwrap()
    };
    let rows = |a: f64| batch(vec![("a", numbers(vec![Some(a)])), ("b", numbers(vec![None]))]);
    assert_eq!(
        [1.0, 1.0f64.next_up(), f64::NAN].map(|a| tree("keep").score(&rows(a)).unwrap().prediction.value(0)),
        [10.0, 20.0, 20.0]
    );
    for (invalid, hint) in [("error", "keep"), ("skip", "drop the row")] {
        let error = tree(invalid).score(&rows(1.0)).unwrap_err();
        assert!(error.to_string().contains("`b`") && error.hint().unwrap().contains(hint), "{error}");
    }
}

#[test]
fn a_forest_adds_shares_a_tree_gives_counts_and_boosting_weighs() {
    let rows = || batch(vec![("a", numbers(vec![Some(0.0), Some(2.0)])), ("b", numbers(vec![Some(0.0); 2]))]);
    let first = stump((0.0, [3.0, 1.0]), (1.0, [0.0, 5.0]));
    let second = stump((0.0, [1.0, 1.0]), (1.0, [2.0, 6.0]));
    let metadata = |weights: Vec<f64>| -> Columns {
        let count = weights.len() as i32;
        vec![
            ("_1", Arc::new(Int32Array::from((0..count).collect::<Vec<_>>()))),
            ("_2", words(vec![Some("{}"); weights.len()])),
            ("_3", Arc::new(Float64Array::from(weights))),
        ]
    };
    let forest = |class: &str, weights: Vec<f64>| {
        // Two part files, and the trees out of order.
        let data = vec![in_forest(1, &second), in_forest(0, &first)];
        let pipeline = Pipeline::default().assembler(&["a", "b"], "error");
        pipeline
            .stage(class, json!({}), vec![("data", data), ("treesMetadata", vec![metadata(weights)])])
            .load()
            .unwrap()
    };
    let scored = forest("RandomForestClassificationModel", vec![1.0, 1.0]).score(&rows()).unwrap();
    assert_eq!(scored.probability.unwrap().values().to_vec(), [0.375, 0.875]);
    assert_eq!(scored.margin.unwrap().values().to_vec(), [0.75, 1.75]);
    assert_eq!(scored.prediction.values().to_vec(), [0.0, 1.0]);
    let scored = forest("RandomForestRegressionModel", vec![1.0, 1.0]).score(&rows()).unwrap();
    assert_eq!(scored.prediction.values().to_vec(), [0.0, 1.0]);
    let scored = forest("GBTRegressionModel", vec![1.0, 0.25]).score(&rows()).unwrap();
    assert_eq!(scored.prediction.values().to_vec(), [0.0, 1.25]);
    let scored = forest("GBTClassificationModel", vec![1.0, 0.25]).score(&rows()).unwrap();
    assert_eq!(
        (scored.margin.unwrap().value(1), scored.prediction.value(0), scored.prediction.value(1)),
        (1.25, 0.0, 1.0)
    );
    assert!((scored.probability.unwrap().value(1) - 1.0 / (1.0 + (-2.5f64).exp())).abs() < 1e-15);

    let pipeline = Pipeline::default().assembler(&["a", "b"], "error");
    let tree = pipeline.tree("DecisionTreeClassificationModel", json!({}), vec![nodes(&first)]).load().unwrap();
    let scored = tree.score(&rows()).unwrap();
    assert_eq!((scored.margin.unwrap().value(0), scored.probability.unwrap().value(0)), (1.0, 0.25));
}

#[test]
fn a_category_outside_the_smaller_set_goes_to_the_other_side() {
    // Left are 1 of 4 categories, then 3 of 4: Spark keeps 1 each time.
    for (left, wanted) in [(vec![2.0], [2.0, 1.0, 2.0, 2.0]), (vec![0.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0])] {
        let mut tree = stump((1.0, [0.0; 2]), (2.0, [0.0; 2]));
        (tree[0].6, tree[0].7) = (4, left);
        let pipeline = Pipeline::default().assembler(&["a", "b"], "keep");
        let model = pipeline.tree("DecisionTreeRegressionModel", json!({}), vec![nodes(&tree)]).load().unwrap();
        let a = numbers(vec![Some(0.0), Some(2.0), Some(9.0), None]);
        let rows = batch(vec![("a", a), ("b", numbers(vec![None; 4]))]);
        assert_eq!(model.score(&rows).unwrap().prediction.values().to_vec(), wanted);
    }
}

#[test]
fn sparse_vectors_scalers_and_nested_vectors_come_out_flat() {
    let pipeline =
        Pipeline::default().indexer(&["kind"], &[&["a", "b", "c"]], "error").encoder("kind_index", 3, "error", true);
    let data = vec![("mean", dense(&[0.5, 0.0, 1.0])), ("std", dense(&[0.5, 0.0, 2.0]))];
    let pipeline =
        pipeline.stage("VectorAssembler", json!({"inputCols": ["kind_index_hot", "a"], "outputCol": "raw"}), vec![]);
    let scaler = json!({"inputCol": "raw", "outputCol": "scaled", "withMean": true, "withStd": true});
    let pipeline = pipeline.stage("StandardScalerModel", scaler, vec![("data", vec![data])]);
    let model = pipeline
        .assembler(&["raw", "scaled"], "error")
        .linear(vector(0, 6, &[0, 2, 3, 4, 5], &[100.0, 10.0, 1.0, 7.0, 0.5]), 1.0)
        .load()
        .unwrap();
    let rows = batch(vec![("kind", words(vec![Some("a"), Some("c")])), ("a", numbers(vec![Some(3.0), Some(1.0)]))]);
    // Raw 1 0 3, scaled 1 0 1; raw 0 0 1, scaled -1 0 0.
    assert_eq!(
        model.score(&rows).unwrap().prediction.values().to_vec(),
        [100.0 + 30.0 + 1.0 + 0.5 + 1.0, 10.0 - 1.0 + 1.0]
    );
}

#[test]
fn rows_need_no_label_and_classes_have_its_names() {
    let first = stump((0.0, [3.0, 1.0]), (1.0, [0.0, 5.0]));
    let pipeline = Pipeline::default()
        .indexer(&["outcome", "unused"], &[&["stays", "leaves"], &["x"]], "error")
        .assembler(&["a", "b"], "error");
    let parameters = json!({"labelCol": "outcome_index"});
    let model = pipeline.tree("DecisionTreeClassificationModel", parameters, vec![nodes(&first)]).load().unwrap();
    let names: Vec<&str> = model.signature().inputs.iter().map(|i| i.name.as_str()).collect();
    assert_eq!((names, model.description().labels.join(" ")), (vec!["a", "b"], "stays leaves".into()));
    let rows = batch(vec![("a", numbers(vec![Some(5.0)])), ("b", numbers(vec![Some(0.0)]))]);
    let scored = model.score(&rows).unwrap();
    assert_eq!((scored.prediction.value(0), &*scored.probabilities.unwrap().labels[1]), (1.0, "leaves"));
}

#[test]
fn what_does_not_hold_together_is_refused_by_name() {
    let refused = |pipeline: Pipeline, kind: ErrorKind, says: &str| {
        let error = pipeline.load().unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(says), "{:?} {error}", error.kind());
    };
    let first = stump((0.0, [3.0, 1.0]), (1.0, [0.0, 5.0]));
    let assembled = || Pipeline::default().assembler(&["a", "b"], "error");
    let tree = |change: &dyn Fn(&mut Vec<Node>)| {
        let mut changed = first.clone();
        change(&mut changed);
        assembled().tree("DecisionTreeClassificationModel", json!({}), vec![nodes(&changed)])
    };
    assert!(tree(&|_| {}).load().is_ok());
    refused(tree(&|n| n[0].3 = 0), ErrorKind::Data, "two parents");
    refused(tree(&|n| n[0].3 = 2), ErrorKind::Data, "two parents");
    refused(tree(&|n| n[0].4 = 3), ErrorKind::Data, "node 3");
    refused(tree(&|n| n[0].5 = 2), ErrorKind::Data, "feature 2");
    refused(tree(&|n| n[0].5 = -1), ErrorKind::Data, "feature");
    refused(tree(&|n| n[0].7 = vec![]), ErrorKind::Data, "threshold");
    refused(tree(&|n| n[0].7 = vec![f64::NAN]), ErrorKind::Data, "NaN");
    refused(tree(&|n| (n[0].6, n[0].7) = (2, vec![5.0])), ErrorKind::Data, "categories");
    refused(tree(&|n| n[2].0 = 7), ErrorKind::Data, "lacks node 2");
    refused(
        assembled().tree("DecisionTreeClassificationModel", json!({"thresholds": [0.5]}), vec![nodes(&first)]),
        ErrorKind::Data,
        "thresholds",
    );
    refused(assembled().linear(dense(&[1.0]), 0.0), ErrorKind::Data, "2 values");
    refused(assembled().linear(vector(0, i32::MAX, &[], &[]), 0.0), ErrorKind::Data, "size");
    refused(assembled().linear(vector(0, 2, &[2], &[1.0]), 0.0), ErrorKind::Data, "index");
    refused(assembled().stage("Word2VecModel", json!({}), vec![]), ErrorKind::Invalid, "Word2VecModel");
    refused(
        assembled().stage("SQLTransformer", json!({"statement": "SELECT 1"}), vec![]),
        ErrorKind::Invalid,
        "SELECT 1",
    );
    let classified =
        || assembled().tree("DecisionTreeClassificationModel", json!({"predictionCol": "p"}), vec![nodes(&first)]);
    let said = |pipeline: Pipeline, labels: &[&str]| {
        pipeline.stage("IndexToString", json!({"inputCol": "p", "outputCol": "said", "labels": labels}), vec![])
    };
    assert_eq!(said(classified(), &["no", "yes"]).load().unwrap().description().labels, ["no", "yes"]);
    refused(said(classified(), &["no"]), ErrorKind::Data, "1 labels for 2 classes");
    refused(
        said(assembled().linear(dense(&[1.0, 1.0]), 0.0).stage("Normalizer", json!({}), vec![]), &[]),
        ErrorKind::Invalid,
        "Normalizer comes after",
    );
    let numbered = || assembled().linear(dense(&[1.0, 1.0]), 0.0);
    let again = json!({"inputCol": "prediction", "outputCol": "said", "labels": ["a"]});
    refused(numbered().stage("IndexToString", again, vec![]), ErrorKind::Invalid, "no classes");
    refused(assembled(), ErrorKind::Invalid, "no estimator");
}

#[test]
fn rows_can_bring_the_vectors_themselves() {
    let model = Pipeline::default().linear(dense(&[1.0, 10.0, 100.0]), 0.5).load().unwrap();
    let own = |column: ArrayRef| model.score(&batch(vec![("features", column)]));
    assert_eq!(model.signature().inputs[0].name, "features");
    assert_eq!(own(dense(&[1.0, 2.0, 3.0])).unwrap().prediction.value(0), 321.5);
    assert_eq!(own(vector(0, 3, &[2, 0], &[3.0, 1.0])).unwrap().prediction.value(0), 301.5);
    assert_eq!(own(doubles(&[&[1.0, 2.0, 3.0], &[0.0, 0.0, 1.0]])).unwrap().prediction.values()[1], 100.5);
    for (column, says) in [
        (dense(&[1.0, 2.0]), "2 values instead of 3"),
        (vector(0, 3, &[3], &[1.0]), "damaged"),
        (vector(0, 3, &[0, 1], &[1.0]), "damaged"),
        (vector(0, i32::MAX, &[], &[]), "too wide"),
        (doubles(&[&[1.0, 2.0, 3.0], &[1.0]]), "of 3 and of 1"),
        (numbers(vec![Some(1.0)]), "does not hold vectors"),
    ] {
        let error = own(column).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Doubles a column.
#[derive(Debug)]
struct Doubling;

impl crate::SqlStage for Doubling {
    fn plan(&self, statement: &str) -> Result<crate::SqlPlan, String> {
        if !statement.contains("__THIS__") {
            return Err("it has no table".into());
        }
        let reads = vec![crate::Input { name: "a".into(), kind: InputKind::Numeric }];
        Ok(crate::SqlPlan { reads, makes: vec!["twice".into()] })
    }

    fn run(&self, _statement: &str, rows: &RecordBatch) -> Result<RecordBatch, String> {
        let a: Vec<f64> = rows.column(0).as_any().downcast_ref::<Float64Array>().unwrap().values().to_vec();
        let rows = if a.contains(&13.0) { 1 } else { a.len() };
        Ok(batch(vec![("twice", Arc::new(Float64Array::from_iter_values(a.iter().take(rows).map(|v| v * 2.0))))]))
    }
}

#[test]
fn statements_run_in_the_callers_engine_and_keep_every_row() {
    let pipeline = |statement: &str| {
        let sql = Pipeline::default().stage("SQLTransformer", json!({"statement": statement}), vec![]);
        sql.assembler(&["twice", "a"], "error").linear(dense(&[1.0, 100.0]), 0.0)
    };
    let engine: Arc<dyn crate::SqlStage> = Arc::new(Doubling);
    let with = |pipeline: Pipeline| crate::load_with(&pipeline.artifact(), &engine);
    let model = with(pipeline("SELECT *, a * 2 AS twice FROM __THIS__")).unwrap();
    assert_eq!(model.signature().inputs.len(), 1);
    let rows = |a: Vec<f64>| batch(vec![("a", Arc::new(Float64Array::from(a)))]);
    // More rows than go through at once.
    let many: Vec<f64> = (100..3000).map(f64::from).collect();
    let wanted: Vec<f64> = many.iter().map(|a| 102.0 * a).collect();
    assert_eq!(model.score(&rows(many)).unwrap().prediction.values().to_vec(), wanted);
    let error = model.score(&rows(vec![13.0, 1.0])).unwrap_err();
    assert!(error.to_string().contains("1 rows of 2"), "{error}");
    assert!(with(pipeline("SELECT 1")).unwrap_err().to_string().contains("it has no table"));
}
