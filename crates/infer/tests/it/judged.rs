//! Models that the libraries trained for this run, with their own scores.
//!
//! `tests/judge/make_reference_models.py` and `make_spark_models.py` write the
//! folder, so does `make_lightgbm_models.py`. XGBoost and LightGBM: margins to
//! the bit; XGBoost's transforms within 2 units in the last place of single
//! precision, LightGBM's within 1e-12. Spark: within 1e-12, classes always the
//! same. ONNX, by `make_onnx_models.py`: trees to the bit, all else within 2
//! units in the last place, and models named `onnx_sums_`, in which ONNX Runtime
//! adds in an order of its own, within 1e-5.

use std::path::Path;

use arrow::array::{Array, Float64Array};
use insightera_infer::{Artifact, load};

use crate::{folder, numbers, read_parquet, ulps};

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

/// How many models and values were compared, and what is wrong.
fn judge(root: &Path) -> (usize, usize, Vec<String>) {
    let mut models = 0;
    let mut compared = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(root).unwrap().flatten() {
        let path = entry.path();
        let file = entry.file_name().into_string().unwrap();
        if file.ends_with(".parquet") || file.ends_with(".md") || file == "temporary" {
            continue;
        }
        let name = [".json", ".ubj", ".txt", ".onnx", ".cbm"]
            .iter()
            .fold(file.as_str(), |name, end| name.trim_end_matches(end));
        let rows = read_parquet(&root.join(format!("{name}.rows.parquet")));
        let model = match load(&Artifact::read(&path).unwrap()) {
            Ok(model) => model,
            Err(e) => {
                wrong.push(format!("{file}: {e}"));
                continue;
            }
        };
        let scored = match model.score(&rows) {
            Ok(scored) => scored,
            Err(e) => {
                wrong.push(format!("{file}: {e}"));
                continue;
            }
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
            let wanted = numbers(&rows, &format!("expected_{what}"));
            let Some((_, values)) = found.iter().find(|(name, _)| *name == what) else {
                wrong.push(format!("{file}: no {what}"));
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
                (false, true) => (a - b).abs() <= 1e-12 * b.abs() + 1e-300,
                (false, false) if sums => (a - b).abs() <= 1e-5 * b.abs() + 1e-7,
                (false, false) => ulps(a, b) <= 2,
            };
            let bad: Vec<usize> =
                (0..rows.num_rows()).filter(|row| !same(values.value(*row), wanted.value(*row))).collect();
            if let Some(row) = bad.first() {
                wrong.push(format!(
                    "{file} {what}: {} rows differ, row {row} is {} instead of {}",
                    bad.len(),
                    values.value(*row),
                    wanted.value(*row)
                ));
            }
            compared += rows.num_rows();
        }
        models += 1;
    }
    (models, compared, wrong)
}
