//! Models that the libraries trained for this run, with their own scores.

use arrow::array::Array;
use insightera_infer::{Artifact, load};

use crate::{folder, numbers, read_parquet, ulps};

/// Per model `NAME`: `NAME.json|ubj` or a folder, `NAME.rows.parquet` with the
/// inputs and the columns `expected_margin`, `expected_prediction`,
/// `expected_probability`, `expected_probability_<class>` as far as they apply.
#[test]
fn every_judged_model_scores_as_its_library_does() {
    let Some(root) = folder("every_judged_model_scores_as_its_library_does", "INSIGHTERA_JUDGE_MODELS") else { return };
    let mut models = 0;
    for entry in std::fs::read_dir(&root).unwrap().flatten() {
        let path = entry.path();
        let file = entry.file_name().into_string().unwrap();
        if file.ends_with(".rows.parquet") {
            continue;
        }
        let name = file.trim_end_matches(".json").trim_end_matches(".ubj").to_owned();
        let rows = read_parquet(&root.join(format!("{name}.rows.parquet")));
        let model = load(&Artifact::read(&path).unwrap()).unwrap_or_else(|e| panic!("{file}: {e}"));
        let scored = model.score(&rows).unwrap_or_else(|e| panic!("{file}: {e}"));
        let exact = model.description().flavor == "xgboost";
        let check = |what: &str, found: f64, wanted: f64| {
            let good = if exact {
                ulps(found, wanted) <= 2
            } else {
                (found - wanted).abs() <= 1e-12 * wanted.abs().max(1e-12)
            };
            assert!(good, "{file} {what}: {found} instead of {wanted}");
        };
        if rows.column_by_name("expected_margin").is_some() {
            let (found, wanted) = (scored.margin.clone().unwrap(), numbers(&rows, "expected_margin"));
            for row in 0..found.len() {
                assert_eq!(
                    (found.value(row) as f32).to_bits(),
                    (wanted.value(row) as f32).to_bits(),
                    "{file} margin of row {row}"
                );
            }
        }
        if rows.column_by_name("expected_probability").is_some() {
            let (found, wanted) = (scored.probability.clone().unwrap(), numbers(&rows, "expected_probability"));
            (0..found.len()).for_each(|row| check("probability", found.value(row), wanted.value(row)));
        }
        if rows.column_by_name("expected_prediction").is_some() {
            let wanted = numbers(&rows, "expected_prediction");
            (0..wanted.len()).for_each(|row| check("prediction", scored.prediction.value(row), wanted.value(row)));
        }
        if let Some(classes) = &scored.probabilities {
            for (class, label) in classes.labels.iter().enumerate() {
                let column = format!("expected_probability_{label}");
                if rows.column_by_name(&column).is_some() {
                    let wanted = numbers(&rows, &column);
                    (0..wanted.len()).for_each(|row| {
                        check(&column, classes.values[row * classes.labels.len() + class], wanted.value(row))
                    });
                }
            }
        }
        models += 1;
    }
    assert!(models >= 6, "only {models} models found");
}
