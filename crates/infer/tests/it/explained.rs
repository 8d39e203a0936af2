//! Contributions against the libraries' own, and that they add up.
//!
//! The judge scripts write `NAME.contributions.parquet` beside a model. XGBoost
//! works them out in single precision with many divisions, we in double: they
//! agree within 1e-5, or 1e-5 of the row's largest. So they do of ONNX models,
//! which have the leaves of the library's trees in single precision. LightGBM's
//! and shap's are in double precision: within 1e-12 of the row's largest.
//! CatBoost's divide along every path: within 1e-9.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::compute::take;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use insightera_infer::{Artifact, Contributions, Model, Predictions, load, top_reasons};

use crate::{folder, numbers, read_parquet};

/// All models of the judge's folder that load: name, path, rows.
fn models_of_judge(root: &Path) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = std::fs::read_dir(root)
        .unwrap()
        .flatten()
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(file, _)| !file.ends_with(".parquet"))
        .collect();
    found.sort();
    found
}

fn stem(file: &str) -> &str {
    [".json", ".ubj", ".txt", ".onnx", ".cbm"].iter().fold(file, |name, end| name.trim_end_matches(end))
}

fn explained(model: &dyn Model, rows: &RecordBatch) -> Result<Contributions, String> {
    model.contributions(rows).map_err(|e| e.to_string())
}

#[test]
#[expect(clippy::print_stdout, reason = "says how much it compared")]
fn every_judged_contribution_is_its_librarys() {
    let Some(root) = folder("every_judged_contribution_is_its_librarys", "INSIGHTERA_JUDGE_MODELS") else { return };
    let mut wrong = Vec::new();
    let mut largest = std::collections::BTreeMap::<String, (f64, String)>::new();
    let (mut compared, mut values) = (0, 0);
    for (file, path) in models_of_judge(&root) {
        let expected = root.join(format!("{}.contributions.parquet", stem(&file)));
        if !expected.is_file() {
            continue;
        }
        let wanted = read_parquet(&expected);
        let picked = wanted.column_by_name("row").unwrap().as_primitive::<Int64Type>().clone();
        let rows = read_parquet(&root.join(format!("{}.rows.parquet", stem(&file))));
        let columns = rows.columns().iter().map(|column| take(column, &picked, None).unwrap()).collect();
        let rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
        let model = load(&Artifact::read(&path).unwrap()).unwrap();
        let found = match explained(model.as_ref(), &rows) {
            Ok(found) => found,
            Err(e) => {
                wrong.push(format!("{file}: {e}"));
                continue;
            }
        };
        let width = found.features.len() + 1;
        assert_eq!(wanted.num_columns() - 1, found.outputs * width, "{file}: another number of contributions");
        let flavor = model.description().flavor.clone();
        let single = flavor == "xgboost" || flavor == "onnx";
        let limit = match flavor.as_str() {
            "xgboost" | "onnx" => 1e-5,
            "catboost" => 1e-9,
            _ => 1e-12,
        };
        let mut worst = (0.0, String::new());
        for output in 0..found.outputs {
            let wanted: Vec<_> = (0..width).map(|column| numbers(&wanted, &format!("c_{output}_{column}"))).collect();
            for row in 0..rows.num_rows() {
                let size = wanted.iter().map(|column| column.value(row).abs()).fold(0.0, f64::max);
                let scale = if single { size.max(1.0) } else { size };
                for (column, wanted) in wanted.iter().enumerate() {
                    let (a, b) = (found.of(row, output)[column], wanted.value(row));
                    let off = if a == b { 0.0 } else { (a - b).abs() / scale };
                    if off > worst.0 || off.is_nan() {
                        worst = (off, format!("{file} row {row} output {output} column {column}: {a} instead of {b}"));
                    }
                }
                values += width;
            }
        }
        if worst.0 > limit || worst.0.is_nan() {
            wrong.push(format!("{} (off by {:e})", worst.1, worst.0));
        }
        let most = largest.entry(flavor).or_default();
        if worst.0 >= most.0 {
            *most = worst;
        }
        compared += 1;
    }
    println!("{compared} models, {values} contributions compared; largest differences {largest:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for flavor in ["xgboost", "lightgbm", "catboost", "onnx", "spark"] {
        assert!(largest.contains_key(flavor), "no contributions of a {flavor} model");
    }
    assert!(compared >= 20, "only {compared} models have contributions");
}

/// How far scores of an ONNX model are from what sums of contributions become, by
/// each transform that its file may ask for: none, logistic, shares of the logistics
/// of several classes, softmax. The second of two classes has the score.
fn transformed(sums: &[f64], scored: &Predictions, row: usize) -> [f64; 4] {
    let wanted: Vec<f64> = match (&scored.probabilities, &scored.raw, &scored.margin) {
        (Some(shares), ..) => {
            let count = shares.labels.len();
            let all = &shares.values[row * count..(row + 1) * count];
            if sums.len() == 1 { vec![all[count - 1]] } else { all.to_vec() }
        }
        (_, Some(raw), _) if sums.len() > 1 => raw.values[row * raw.width..][..sums.len()].to_vec(),
        (_, _, Some(margin)) => vec![margin.value(row)],
        _ => vec![scored.prediction.value(row)],
    };
    let logistic: Vec<f64> = sums.iter().map(|sum| 1.0 / (1.0 + (-sum).exp())).collect();
    let total: f64 = logistic.iter().sum();
    let most = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = sums.iter().map(|sum| (sum - most).exp()).collect();
    let of_powers: f64 = powers.iter().sum();
    let forms = [
        sums.to_vec(),
        logistic.clone(),
        logistic.iter().map(|share| share / total).collect(),
        powers.iter().map(|power| power / of_powers).collect(),
    ];
    let off = |found: Vec<f64>| found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    forms.map(off)
}

/// The raw scores that contributions are of.
fn raw(model: &dyn Model, scored: &Predictions, outputs: usize, row: usize, output: usize) -> f64 {
    let about = model.description();
    let shares = about.flavor == "spark"
        && ["RandomForestClassificationModel", "DecisionTreeClassificationModel"].contains(&about.objective.as_str());
    if let (true, Some(shares)) = (shares, &scored.probabilities) {
        return shares.values[row * shares.labels.len() + if outputs == 1 { 1 } else { output }];
    }
    match (&scored.raw, &scored.margin) {
        (Some(raw), _) if outputs > 1 => raw.values[row * raw.width + output],
        (_, Some(margin)) => margin.value(row),
        _ => scored.prediction.value(row),
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "says how much it compared")]
fn contributions_add_up_to_the_raw_score() {
    let Some(root) = folder("contributions_add_up_to_the_raw_score", "INSIGHTERA_JUDGE_MODELS") else { return };
    let (mut explained_models, mut of_onnx, mut rows_seen) = (0, 0, 0);
    let (mut refused, mut wrong) = (Vec::new(), Vec::new());
    let mut largest = 0f64;
    for (file, path) in models_of_judge(&root) {
        let Ok(model) = load(&Artifact::read(&path).unwrap()) else { continue };
        let rows = read_parquet(&root.join(format!("{}.rows.parquet", stem(&file))));
        let found = match explained(model.as_ref(), &rows) {
            Ok(found) => found,
            Err(e) => {
                refused.push(format!("{file}: {e}"));
                continue;
            }
        };
        let scored = model.score(&rows).unwrap();
        assert_eq!(found.rows(), rows.num_rows(), "{file}");
        if model.description().flavor == "onnx" {
            let mut worst = [0f64; 4];
            for row in 0..found.rows() {
                let values: Vec<&[f64]> = (0..found.outputs).map(|output| found.of(row, output)).collect();
                let sums: Vec<f64> = values.iter().map(|values| values.iter().sum()).collect();
                let scale = values.iter().flat_map(|values| *values).fold(1f64, |most, value| most.max(value.abs()));
                // Infinite features of linear models have no sum.
                if sums.iter().all(|sum| sum.is_finite()) {
                    let off = transformed(&sums, &scored, row);
                    worst.iter_mut().zip(off).for_each(|(worst, off)| *worst = worst.max(off / scale));
                }
            }
            let best = worst.into_iter().fold(f64::INFINITY, f64::min);
            if best > 1e-5 || best.is_nan() {
                wrong.push(format!("{file}: off by {worst:?}"));
            }
            of_onnx += 1;
            explained_models += 1;
            rows_seen += found.rows();
            continue;
        }
        // XGBoost adds the leaves in single precision.
        let limit = if model.description().flavor == "xgboost" { 1e-5 } else { 1e-11 };
        for row in 0..found.rows() {
            for output in 0..found.outputs {
                let values = found.of(row, output);
                let (sum, wanted) =
                    (values.iter().sum::<f64>(), raw(model.as_ref(), &scored, found.outputs, row, output));
                let scale = values.iter().fold(1f64, |most, value| most.max(value.abs()));
                let off = (sum - wanted).abs() / scale;
                // Infinite features of linear models have no sum.
                if off.is_nan() && (sum.is_nan() || sum == wanted) && !wanted.is_finite() {
                    continue;
                }
                largest = largest.max(off);
                if off > limit || off.is_nan() {
                    wrong.push(format!("{file} row {row} output {output}: {sum} instead of {wanted}"));
                }
            }
        }
        wrong.truncate(50);
        explained_models += 1;
        rows_seen += found.rows();
    }
    println!(
        "{explained_models} models ({of_onnx} ONNX), {rows_seen} rows add up within {largest:e}; refused: {refused:?}"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let no_form =
        ["linear trees", "contributions of this ONNX model are not supported: ", "is a vector, of which a reason"];
    // A stage or estimator that mixes columns, and no other, has no contributions.
    let no_stage =
        ["DCT", "FeatureHasher", "Interaction", "Normalizer", "PCAModel", "PolynomialExpansion", "SQLTransformer"];
    let no_model = [
        "AFTSurvivalRegressionModel",
        "BisectingKMeansModel",
        "FMClassificationModel",
        "FMRegressionModel",
        "GaussianMixtureModel",
        "GeneralizedLinearRegressionModel",
        "IsotonicRegressionModel",
        "KMeansModel",
        "MultilayerPerceptronClassificationModel",
        "NaiveBayesModel",
        "OneVsRestModel",
    ];
    let of_spark = |line: &str| {
        let refused =
            |kind: &str, names: &[&str]| names.iter().any(|name| line.contains(&format!("{kind} {name} are")));
        refused("the Spark ML stage", &no_stage) || refused("the spark model", &no_model)
    };
    let allowed = |line: &String| no_form.iter().any(|kind| line.contains(kind)) || of_spark(line);
    assert!(refused.iter().all(allowed), "{}", refused.join("\n"));
    assert!(explained_models >= 20 && of_onnx >= 20, "only {explained_models} models were explained, {of_onnx} ONNX");
}

#[test]
fn reasons_name_the_columns_and_the_values_of_the_rows() {
    let Some(root) = folder("reasons_name_the_columns_and_the_values_of_the_rows", "INSIGHTERA_JUDGE_MODELS") else {
        return;
    };
    let model = load(&Artifact::read(&root.join("labels_json.json")).unwrap()).unwrap();
    let rows = read_parquet(&root.join("labels_json.rows.parquet"));
    let found = model.contributions(&rows).unwrap();
    let lists = top_reasons(model.description(), &found, &model.score(&rows).unwrap(), 2, "risk");
    assert_eq!((lists.len(), lists.value_type()), (rows.num_rows(), DataType::Utf8));
    let town = rows.column_by_name("town").unwrap().as_string::<i32>().clone();
    let at = found.features.iter().position(|name| name == "town").unwrap();
    let mut named = 0;
    for row in 0..rows.num_rows() {
        let values = found.of(row, 0);
        let largest = values[..values.len() - 1].iter().fold(0f64, |most, value| most.max(value.abs()));
        let top = found.top(2, row, 0);
        assert!(top.len() <= 2 && top.iter().all(|reason| reason.contribution != 0.0));
        assert_eq!(top[0].contribution.abs(), largest, "row {row}");
        if top[0].feature == "town" {
            let shown = if town.is_null(row) { "missing" } else { town.value(row) };
            let direction = if values[at] > 0.0 { "raises" } else { "lowers" };
            let wanted = format!("town is {shown} ({direction} the risk)");
            assert_eq!(lists.value(row).as_string::<i32>().value(0), wanted);
            named += 1;
        }
    }
    assert!(named > 100, "the town matters most in {named} rows only");
}

#[test]
fn a_damaged_model_that_loads_is_explained_or_refused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../insightera/assets/university");
    let list: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.join("models/models.json")).unwrap()).unwrap();
    let models = list.as_array().or_else(|| list["models"].as_array()).unwrap();
    let mut cases: Vec<(Artifact, RecordBatch)> = models
        .iter()
        .map(|m| {
            let expected = format!("expected/{}_v{}.parquet", m["name"].as_str().unwrap(), m["version"]);
            let path = root.join("models").join(m["path"].as_str().unwrap());
            (Artifact::read(&path).unwrap(), read_parquet(&root.join(expected)))
        })
        .collect();
    if let Some(judged) = folder("a_damaged_model_that_loads_is_explained_or_refused", "INSIGHTERA_JUDGE_MODELS") {
        for name in ["lightgbm_binary", "lightgbm_pandas", "lightgbm_multiclass"] {
            let rows = read_parquet(&judged.join(format!("{name}.rows.parquet")));
            cases.push((Artifact::read(&judged.join(format!("{name}.txt"))).unwrap(), rows));
        }
    }
    let (mut state, mut explained, mut refused) = (7u64, 0, 0);
    let mut next = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    for (artifact, rows) in cases {
        let rows = rows.slice(0, rows.num_rows().min(5));
        let files: Vec<_> = artifact.files().iter().filter(|(_, bytes)| bytes.len() > 8).collect();
        for _ in 0..40 {
            let (name, bytes) = files[next(files.len())];
            let mut bad = bytes.to_vec();
            let at = next(bad.len());
            bad[at] = if bad[at].is_ascii_digit() { b'0' + next(10) as u8 } else { bad[at] ^ (1 << next(8)) };
            let mut all = artifact.files().clone();
            all.insert(name.clone(), bad.into());
            let Ok(model) = load(&Artifact::from_files(all).unwrap()) else { continue };
            match model.contributions(&rows) {
                Ok(found) => {
                    assert_eq!(found.values.len(), rows.num_rows() * found.outputs * (found.features.len() + 1));
                    explained += 1;
                }
                Err(e) => {
                    assert!(!e.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(explained > 50, "{explained} explained, {refused} refused");
}
