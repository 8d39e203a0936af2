//! One row at a time, judged by the libraries' own scores.

use std::sync::Arc;

use arrow::array::{Array, Float64Array, RecordBatch};
use insightera_infer::{Artifact, InputKind, Model, RowScorer, load};

use crate::{folder, numbers, read_parquet};

/// A model's inputs, row by row, in an order of our own with a column more.
fn scattered(model: &dyn Model, rows: &RecordBatch) -> (Vec<String>, Vec<Vec<f64>>) {
    let mut names: Vec<String> = model.signature().inputs.iter().map(|input| input.name.clone()).collect();
    names.reverse();
    let columns: Vec<Float64Array> = names.iter().map(|name| numbers(rows, name)).collect();
    let value = |column: &Float64Array, row| if column.is_null(row) { f64::NAN } else { column.value(row) };
    let of_row = |row| std::iter::once(7.0).chain(columns.iter().map(|c| value(c, row))).collect();
    names.insert(0, "not of the model".into());
    (names, (0..rows.num_rows()).map(of_row).collect())
}

fn scorer(model: &Arc<dyn Model>, names: &[String]) -> RowScorer {
    RowScorer::new(model.clone(), &names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

#[test]
fn a_row_by_itself_has_the_librarys_margin() {
    let Some(root) = folder("a_row_by_itself_has_the_librarys_margin", "INSIGHTERA_TEST_REFERENCE") else { return };
    let rows = read_parquet(&root.join("models/inputs.parquet"));
    let wanted = read_parquet(&root.join("models/expected.parquet"));
    for (file, margin) in [("xgb.ubj", "xgb_margin"), ("lgb.txt", "lgb_raw")] {
        let model = load(&Artifact::read(&root.join("models").join(file)).unwrap()).unwrap();
        let names = model.signature().inputs.iter().map(|input| input.name.clone());
        let rows = RecordBatch::try_from_iter(names.zip(rows.columns().iter().cloned())).unwrap();
        let (names, values) = scattered(model.as_ref(), &rows);
        let mut scorer = scorer(&model, &names);
        let margins = numbers(&wanted, margin);
        for (row, values) in values.iter().enumerate() {
            let found = scorer.score(values).unwrap().margin.unwrap();
            assert_eq!(found.to_bits(), margins.value(row).to_bits(), "{file} row {row}");
        }
    }
}

#[test]
fn a_row_by_itself_scores_as_in_a_batch_for_every_judged_model() {
    let test = "a_row_by_itself_scores_as_in_a_batch_for_every_judged_model";
    let Some(root) = folder(test, "INSIGHTERA_JUDGE_MODELS") else { return };
    let mut models = 0;
    for entry in std::fs::read_dir(&root).unwrap().flatten() {
        let file = entry.file_name().into_string().unwrap();
        let name = [".json", ".ubj", ".txt", ".onnx", ".cbm"]
            .iter()
            .fold(file.as_str(), |name, end| name.trim_end_matches(end));
        if file.ends_with(".parquet") {
            continue;
        }
        let Ok(model) = load(&Artifact::read(&entry.path()).unwrap()) else { continue };
        if model.signature().inputs.iter().any(|input| input.kind == InputKind::Categorical) {
            continue;
        }
        let rows = read_parquet(&root.join(format!("{name}.rows.parquet"))).slice(0, 500);
        let is_vector = |name: &str| rows.column_by_name(name).is_some_and(|column| column.data_type().is_nested());
        if model.signature().inputs.iter().any(|input| is_vector(&input.name)) {
            continue;
        }
        // A row by itself has one way to say that a value is missing.
        let column = |name| numbers(&rows, name).iter().map(|v| v.filter(|v| !v.is_nan())).collect::<Float64Array>();
        let doubles = model.signature().inputs.iter().map(|i| (&i.name, Arc::new(column(&i.name)) as _));
        let rows = RecordBatch::try_from_iter(doubles).unwrap();
        let Ok(batch) = model.score(&rows) else { continue };
        let (names, values) = scattered(model.as_ref(), &rows);
        let mut scorer = scorer(&model, &names);
        // NaN has no sign that matters.
        let bit = |value: f64| if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
        let bits = |value: Option<f64>| value.map(bit);
        let at = |column: &Option<Float64Array>, row| column.as_ref().map(|c| bit(c.value(row)));
        for (row, values) in values.iter().enumerate() {
            let found = scorer.score(values).unwrap();
            assert_eq!(bit(found.prediction), bit(batch.prediction.value(row)), "{file} row {row}");
            assert_eq!(bits(found.margin), at(&batch.margin, row), "{file} row {row}");
            assert_eq!(bits(found.probability), at(&batch.probability, row), "{file} row {row}");
            let wanted = batch.probabilities.as_ref().map_or(&[][..], |classes| {
                let count = classes.labels.len();
                &classes.values[row * count..(row + 1) * count]
            });
            let all = |values: &[f64]| values.iter().map(|value| bit(*value)).collect::<Vec<_>>();
            assert_eq!(all(&found.probabilities), all(wanted), "{file} row {row}");
        }
        models += 1;
    }
    assert!(models >= 5, "only {models} models found");
}

#[test]
fn a_row_of_another_width_or_without_a_column_is_refused() {
    let test = "a_row_of_another_width_or_without_a_column_is_refused";
    let Some(root) = folder(test, "INSIGHTERA_TEST_REFERENCE") else { return };
    let model = load(&Artifact::read(&root.join("models/xgb.ubj")).unwrap()).unwrap();
    let names: Vec<String> = model.signature().inputs.iter().map(|input| input.name.clone()).collect();
    assert!(scorer(&model, &names).score(&vec![0.0; names.len() - 1]).is_err());
    let known: Vec<&str> = names.iter().skip(1).map(String::as_str).collect();
    let error = RowScorer::new(model.clone(), &known).unwrap_err();
    assert!(error.to_string().contains(&format!("`{}`", names[0])), "{error}");
}

#[test]
fn a_record_scores_as_its_row_in_any_order_of_its_names() {
    let Some(root) = folder("a_record_scores_as_its_row_in_any_order_of_its_names", "INSIGHTERA_TEST_REFERENCE") else {
        return;
    };
    let rows = read_parquet(&root.join("models/inputs.parquet"));
    let model = load(&Artifact::read(&root.join("models/xgb.ubj")).unwrap()).unwrap();
    let (names, values) = scattered(model.as_ref(), &rows);
    let mut scorer = scorer(&model, &names);
    for (row, values) in values.iter().take(300).enumerate() {
        let wanted = scorer.score(values).unwrap().clone();
        let mut record: Vec<(&str, f64)> = names.iter().map(String::as_str).zip(values.iter().copied()).collect();
        for round in 0..3 {
            assert_eq!(*scorer.score_record(&record).unwrap(), wanted, "row {row}, round {round}");
            record.rotate_left(5);
            record.insert(round, ("nobody's", 1.0));
        }
    }
    let lacking = [(names[1].as_str(), 1.0), (names[2].as_str(), 2.0)];
    let error = scorer.score_record(&lacking).unwrap_err();
    assert!(error.to_string().contains("the record lacks the model's column `"), "{error}");
    // What an earlier record had is forgotten.
    let all: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
    scorer.score_record(&all).unwrap();
    assert!(scorer.score_record(&all[..all.len() - 1]).is_err());
}
