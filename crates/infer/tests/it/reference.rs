//! Reference models with the outputs of the libraries that made them.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::Float64Type;
use insightera_infer::{Artifact, load};

use crate::{assert_close, folder, numbers, read_parquet, ulps};

#[test]
fn xgboost_margins_are_the_librarys_to_the_bit() {
    let Some(root) = folder("xgboost_margins_are_the_librarys_to_the_bit", "INSIGHTERA_TEST_REFERENCE") else { return };
    let rows = read_parquet(&root.join("models/inputs.parquet"));
    let wanted = read_parquet(&root.join("models/expected.parquet"));
    for file in ["xgb.json", "xgb.ubj"] {
        let model = load(&Artifact::read(&root.join("models").join(file)).unwrap()).unwrap();
        let scored = model.score(&rows).unwrap();
        let (margin, probability) = (scored.margin.unwrap(), scored.probability.unwrap());
        let schema = wanted.schema();
        let name = |part: &str| {
            let found =
                schema.fields().iter().map(|f| f.name().clone()).find(|n| n.contains("xgb") && n.contains(part));
            found.unwrap_or_else(|| panic!("no {part} in {schema:?}"))
        };
        let (margins, probabilities) = (numbers(&wanted, &name("margin")), numbers(&wanted, &name("pro")));
        for row in 0..rows.num_rows() {
            assert_eq!((margin.value(row) as f32).to_bits(), (margins.value(row) as f32).to_bits(), "{file} row {row}");
            assert!(ulps(probability.value(row), probabilities.value(row)) <= 2, "{file} row {row}");
        }
    }
}

#[test]
fn lightgbm_raw_scores_are_the_librarys_to_the_bit() {
    let Some(root) = folder("lightgbm_raw_scores_are_the_librarys_to_the_bit", "INSIGHTERA_TEST_REFERENCE") else {
        return;
    };
    let rows = read_parquet(&root.join("models/inputs.parquet"));
    let wanted = read_parquet(&root.join("models/expected.parquet"));
    let model = load(&Artifact::read(&root.join("models/lgb.txt")).unwrap()).unwrap();
    // It was trained on an array, whose columns LightGBM names itself.
    let names = model.signature().inputs.iter().map(|input| input.name.clone());
    let rows = RecordBatch::try_from_iter(names.zip(rows.columns().iter().cloned())).unwrap();
    let scored = model.score(&rows).unwrap();
    let (margin, probability) = (scored.margin.unwrap(), scored.probability.unwrap());
    let (margins, probabilities) = (numbers(&wanted, "lgb_raw"), numbers(&wanted, "lgb_probability"));
    for row in 0..rows.num_rows() {
        assert_eq!(margin.value(row).to_bits(), margins.value(row).to_bits(), "row {row}");
        let (found, wanted) = (probability.value(row), probabilities.value(row));
        assert!((found - wanted).abs() <= 1e-15 * wanted, "row {row}: {found} {wanted}");
    }
}

#[test]
fn spark_models_score_as_spark_does() {
    let Some(root) = folder("spark_models_score_as_spark_does", "INSIGHTERA_TEST_REFERENCE") else { return };
    let root = root.join("sparkml");
    let rows = read_parquet(&root.join("inputs.parquet"));
    let mut models = 0;
    for entry in std::fs::read_dir(&root).unwrap().flatten().filter(|e| e.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        let expected = root.join(format!("{name}.expected.parquet"));
        if !expected.exists() {
            continue;
        }
        let model = load(&Artifact::read(&entry.path()).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let wanted = read_parquet(&expected);
        let scored = model.score(&rows).unwrap_or_else(|e| panic!("{name}: {e}"));
        // Spark wrote the rows in any order.
        let places: HashMap<i64, usize> =
            numbers(&rows, "id").values().iter().enumerate().map(|(row, id)| (*id as i64, row)).collect();
        let ids = numbers(&wanted, "id");
        assert_eq!(ids.len(), rows.num_rows(), "{name}");
        let in_order = |values: &dyn Fn(usize) -> f64| {
            Float64Array::from_iter_values(ids.values().iter().map(|id| values(places[&(*id as i64)])))
        };
        let predictions = in_order(&|row| scored.prediction.value(row));
        assert_close(
            &name,
            &predictions,
            &numbers(&wanted, "prediction"),
            if scored.probabilities.is_some() { 0.0 } else { 1e-12 },
        );
        if let Some(classes) = &scored.probabilities {
            let lists = wanted.column_by_name("probability").unwrap().as_list::<i32>();
            let count = classes.labels.len();
            for class in 0..count {
                let found = in_order(&|row| classes.values[row * count + class]);
                let wanted = Float64Array::from_iter_values(
                    (0..lists.len()).map(|row| lists.value(row).as_primitive::<Float64Type>().value(class)),
                );
                assert_close(&name, &found, &wanted, 1e-12);
            }
        }
        models += 1;
    }
    assert!(models >= 5, "only {models} models found");
}
