//! Models that the libraries trained for this run, with their own scores.
//!
//! `tests/judge/make_reference_models.py` and `make_spark_models.py` write the
//! folder, so does `make_lightgbm_models.py`. XGBoost and LightGBM: margins to
//! the bit; XGBoost's transforms within 2 units in the last place of single
//! precision, LightGBM's within 1e-12. Spark: within 1e-12, classes always the
//! same. ONNX, by `make_onnx_models.py`: trees to the bit, all else within 2
//! units in the last place, and models named `onnx_sums_`, in which ONNX Runtime
//! adds in an order of its own, within 1e-5.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, Float64Array, RecordBatch};
use bytes::Bytes;
use insightera_infer::{Artifact, load};

use crate::{folder, numbers, read_batches, read_parquet, ulps};

/// Per model `NAME`: `NAME.json|ubj` or a folder, `NAME.rows.parquet` with the
/// inputs and the columns `expected_margin`, `expected_prediction`,
/// `expected_probability`, `expected_probability_<class>` as far as they apply.
#[test]
#[expect(clippy::print_stdout, reason = "says how much it compared")]
fn every_judged_model_scores_as_its_library_does() {
    let Some(root) = folder("every_judged_model_scores_as_its_library_does", "INSIGHTERA_JUDGE_MODELS") else { return };
    let (models, compared, wrong) = judge(&root);
    println!("{models} models, {compared} values compared");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(models >= 6, "only {models} models found");
}

/// XGBoost 1.7 and 2.1 wrote these and scored the rows.
#[test]
fn models_of_earlier_versions_score_as_those_versions_did() {
    let (models, compared, wrong) = judge(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/xgboost"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((models, compared), (4, 1200));
}

/// CatBoost wrote these and scored the rows: one-hot and statistics of
/// categories, trees of levels and of nodes, in both formats.
#[test]
fn small_catboost_models_score_as_catboost_did() {
    let (models, compared, wrong) = judge(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/catboost"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((models, compared), (4, 4 * 5 * 200));
}

/// Spark 3.5.9 and 4.3.0 wrote these and scored the rows: every stage and every
/// estimator. `tests/judge/pack_spark_goldens.py` makes them.
#[test]
#[expect(clippy::print_stdout, reason = "says how much it compared")]
fn every_stage_of_spark_3_and_4_scores_as_spark_did() {
    for file in ["spark_3_5_9.parquet", "spark_4_3_0.parquet"] {
        let packed = read_parquet(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/spark").join(file));
        let text = |name: &str| packed.column_by_name(name).unwrap().as_string::<i32>().clone();
        let (names, paths) = (text("model"), text("path"));
        let bytes = packed.column_by_name("bytes").unwrap().as_binary::<i32>().clone();
        let mut models: BTreeMap<String, BTreeMap<String, Bytes>> = BTreeMap::new();
        for row in 0..packed.num_rows() {
            let files = models.entry(names.value(row).to_owned()).or_default();
            files.insert(paths.value(row).to_owned(), Bytes::copy_from_slice(bytes.value(row)));
        }
        let mut judge = Judge::default();
        for (name, mut files) in models {
            let rows = read_batches(files.remove("rows.parquet").unwrap());
            judge.model(&name, &Artifact::from_files(files).unwrap(), &rows);
        }
        println!("{file}: {} models, {} values compared", judge.models, judge.compared);
        assert!(judge.wrong.is_empty(), "{file}\n{}", judge.wrong.join("\n"));
        assert_eq!(judge.models, 104, "{file}");
    }
}

/// As Spark 4 trained them for this run: `./test --long` makes the folder.
#[test]
#[expect(clippy::print_stdout, reason = "says how much it compared")]
fn every_model_of_spark_4_scores_as_spark_4_does() {
    let Some(root) = std::env::var_os("INSIGHTERA_JUDGE_SPARK4").map(PathBuf::from) else {
        println!("INSIGHTERA_JUDGE_SPARK4 is not set: Spark 4 is judged by its goldens alone");
        return;
    };
    let (models, compared, wrong) = judge(&root);
    println!("{models} models, {compared} values compared");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(models, 104);
}

/// How many models and values of a folder were compared, and what is wrong.
fn judge(root: &Path) -> (usize, usize, Vec<String>) {
    let mut judge = Judge::default();
    for entry in std::fs::read_dir(root).unwrap().flatten() {
        let file = entry.file_name().into_string().unwrap();
        if file.ends_with(".parquet") || file.ends_with(".md") || file == "temporary" {
            continue;
        }
        let name = [".json", ".ubj", ".txt", ".onnx", ".cbm"]
            .iter()
            .fold(file.as_str(), |name, end| name.trim_end_matches(end));
        let rows = read_parquet(&root.join(format!("{name}.rows.parquet")));
        judge.model(&file, &Artifact::read(&entry.path()).unwrap(), &rows);
    }
    (judge.models, judge.compared, judge.wrong)
}

/// What was compared, and what is wrong.
#[derive(Default)]
struct Judge {
    models: usize,
    compared: usize,
    wrong: Vec<String>,
}

impl Judge {
    fn model(&mut self, file: &str, artifact: &Artifact, rows: &RecordBatch) {
        self.models += 1;
        let scored = load(artifact).and_then(|model| model.score(rows).map(|scored| (model, scored)));
        let (model, scored) = match scored {
            Ok(both) => both,
            Err(e) => return self.wrong.push(format!("{file}: {e}")),
        };
        let spark = model.description().flavor == "spark";
        let double = spark || matches!(model.description().flavor.as_str(), "lightgbm" | "catboost");
        let classifier = !model.description().labels.is_empty();
        let onnx = model.description().flavor == "onnx";
        let (trees, sums) = (model.description().objective == "TreeEnsembleRegressor", file.starts_with("onnx_sums_"));
        let mut found: Vec<(String, Float64Array)> = vec![("prediction".into(), scored.prediction.clone())];
        found.extend(scored.margin.clone().map(|values| ("margin".into(), values)));
        found.extend(scored.probability.clone().map(|values| ("probability".into(), values)));
        if let Some(classes) = &scored.probabilities {
            let count = classes.labels.len();
            for (class, label) in classes.labels.iter().enumerate() {
                let values = (0..rows.num_rows()).map(|row| classes.values[row * count + class]);
                found.push((format!("probability_{label}"), Float64Array::from_iter_values(values)));
            }
        }
        if let Some(raw) = &scored.raw {
            for of in 0..raw.width {
                let values = raw.values.iter().skip(of).step_by(raw.width).copied();
                found.push((format!("raw_{of}"), Float64Array::from_iter_values(values)));
            }
        }
        let expected = rows
            .schema()
            .fields()
            .iter()
            .filter_map(|f| f.name().strip_prefix("expected_").map(str::to_owned))
            .collect::<Vec<_>>();
        assert!(!expected.is_empty(), "{file}: nothing is expected");
        for what in expected {
            let wanted = numbers(rows, &format!("expected_{what}"));
            let Some((_, values)) = found.iter().find(|(name, _)| *name == what) else {
                self.wrong.push(format!("{file}: no {what}"));
                continue;
            };
            assert_eq!((values.len(), values.null_count()), (rows.num_rows(), 0), "{file} {what}");
            let exact = match what.as_str() {
                "prediction" => classifier || (onnx && trees && !sums),
                _ => (what == "margin" || what.starts_with("raw_")) && !spark && !onnx,
            };
            let same = |a: f64, b: f64| match (exact, double) {
                _ if a == b => true,
                _ if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
                (true, _) => false,
                (false, true) if what == "margin" => (a - b).abs() <= 1e-12 * b.abs().max(1.0),
                // Spark's transform is a fast one, whose sums have another order: what it makes is
                // within 1e-15 of the vector's length, and a score of it within 1e-12 of 1.
                (false, true) if file.starts_with("stage_dct") => (a - b).abs() <= 1e-12 * b.abs().max(1e-2),
                (false, true) => (a - b).abs() <= 1e-12 * b.abs() + 1e-300,
                (false, false) if sums => (a - b).abs() <= 1e-5 * b.abs() + 1e-7,
                (false, false) => ulps(a, b) <= 2,
            };
            let bad: Vec<usize> =
                (0..rows.num_rows()).filter(|row| !same(values.value(*row), wanted.value(*row))).collect();
            if let Some(row) = bad.first() {
                self.wrong.push(format!(
                    "{file} {what}: {} rows differ, row {row} is {} instead of {}",
                    bad.len(),
                    values.value(*row),
                    wanted.value(*row)
                ));
            }
            self.compared += rows.num_rows();
        }
    }
}
