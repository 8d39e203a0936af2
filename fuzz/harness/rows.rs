//! Rows for a model that loaded, and what must hold of its predictions.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array,
    NullArray, StringArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use insightera_infer::{Input, InputKind, Model, Predictions, RowPrediction, Scratch};

/// A model that wants more columns is only described: the rows would be what
/// takes the memory.
const MAX_COLUMNS: usize = 2000;
/// More than a block of either kernel.
const MANY: usize = 261;

const NUMBERS: [Option<f64>; 16] = [
    Some(0.0),
    Some(f64::NAN),
    None,
    Some(f64::INFINITY),
    Some(f64::NEG_INFINITY),
    Some(1.0),
    Some(-0.0),
    Some(2.0),
    Some(1e300),
    Some(-1e300),
    Some(5e-324),
    Some(3.0),
    Some(-1.5),
    Some(2_147_483_648.0),
    Some(16_777_216.0),
    Some(0.7),
];
const LABELS: [Option<&str>; 8] =
    [Some("a"), None, Some("b"), Some("x"), Some("c"), Some(""), Some("y"), Some("\u{1F600}z")];

/// Scores a few rows, as the model wants them, and one of them alone.
pub fn glance(model: &dyn Model) {
    if model.signature().inputs.len() > MAX_COLUMNS {
        return;
    }
    let rows = 9;
    let batch = wanted(model, rows, &NUMBERS, &LABELS);
    let Ok(all) = model.score(&batch) else { return };
    check(model, &all, rows);
    let part = model.score(&batch.slice(3, 1)).expect("a part of rows that were scored is scored");
    check(model, &part, 1);
    same(&part, &all, 3, 1);
}

/// Rows as the model wants them, of these values.
fn wanted(model: &dyn Model, rows: usize, numbers: &[Option<f64>], labels: &[Option<&str>]) -> RecordBatch {
    let columns = model.signature().inputs.iter().enumerate().map(|(at, input)| match input.kind {
        InputKind::Numeric => number_column(at, rows, numbers),
        InputKind::Categorical => label_column(at, rows, labels),
    });
    batch(model, columns.collect(), rows)
}

/// One row by itself, as in a batch, where all columns are numbers.
fn alone(model: &dyn Model, all: &Predictions, batch: &RecordBatch, scratch: &mut Scratch) {
    // Of two columns with one name it is the first.
    let value = |input: &Input| {
        let numbers = batch.column_by_name(&input.name).expect("a column of the model").as_primitive::<Float64Type>();
        if numbers.is_null(0) { f64::NAN } else { numbers.value(0) }
    };
    let row: Vec<f64> = model.signature().inputs.iter().map(value).collect();
    let mut found = RowPrediction::default();
    model.score_row(&row, scratch, &mut found).expect("a row that was scored is scored by itself");
    let equal = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    assert!(equal(found.prediction, all.prediction.value(0)), "a row scores differently by itself");
    for (found, all) in [(found.margin, &all.margin), (found.probability, &all.probability)] {
        let all = all.as_ref().map(|all| all.value(0));
        assert!(found.is_some() == all.is_some(), "a row by itself has other parts");
        assert!(found.zip(all).is_none_or(|(a, b)| equal(a, b)), "a row scores differently by itself");
    }
}

/// Scores rows of every kind.
pub fn score(model: &dyn Model) {
    let inputs = &model.signature().inputs;
    std::hint::black_box(format!("{:?}", model.description()));
    if inputs.len() > MAX_COLUMNS {
        return;
    }
    // As the model wants them: with everything, then with what is known only.
    for (numbers, labels) in [(&NUMBERS[..], &LABELS[..]), (&NUMBERS[5..8], &LABELS[..1])] {
        let rows = if inputs.len() * MANY < 20_000 { MANY } else { 9 };
        let batch = wanted(model, rows, numbers, labels);
        let Ok(all) = model.score(&batch) else { continue };
        check(model, &all, rows);
        for (from, count) in [(0, 1), (rows - 3, 3), (1, rows.min(150) - 1)] {
            let part = model.score(&batch.slice(from, count)).expect("a part of rows that were scored is scored");
            check(model, &part, count);
            same(&part, &all, from, count);
        }
        let none = model.score(&batch.slice(0, 0)).expect("no rows are scored");
        check(model, &none, 0);
        if !inputs.is_empty() && inputs.iter().all(|input| input.kind == InputKind::Numeric) {
            let mut scratch = Scratch::default();
            for row in [0, 5] {
                let one = batch.slice(row, 1);
                // NaN and null are the same to a row by itself, and to few models else.
                let one = without_nan(&one);
                if let Ok(all) = model.score(&one) {
                    alone(model, &all, &one, &mut scratch);
                }
            }
        }
    }
    // Of types that are refused, or cast.
    for kind in 0..9 {
        let rows = 4;
        let columns = (0..inputs.len()).map(|at| strange_column(if kind < 8 { kind } else { at % 8 }, rows));
        if let Ok(predictions) = model.score(&batch(model, columns.collect(), rows)) {
            check(model, &predictions, rows);
        }
    }
    if !inputs.is_empty() {
        let lacking = RecordBatch::new_empty(Arc::new(Schema::new(vec![Field::new("other", DataType::Null, true)])));
        assert!(model.score(&lacking).is_err(), "a column is missing and nothing is said");
    }
}

/// With null for NaN.
fn without_nan(rows: &RecordBatch) -> RecordBatch {
    let column = |column: &ArrayRef| -> ArrayRef {
        Arc::new(
            column.as_primitive::<Float64Type>().iter().map(|v| v.filter(|v| !v.is_nan())).collect::<Float64Array>(),
        )
    };
    RecordBatch::try_new(rows.schema(), rows.columns().iter().map(column).collect()).expect("the rows are a batch")
}

fn batch(model: &dyn Model, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let fields: Vec<Field> = model
        .signature()
        .inputs
        .iter()
        .zip(&columns)
        .map(|(input, column)| Field::new(&input.name, column.data_type().clone(), true))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).expect("the rows are a batch")
}

fn number_column(at: usize, rows: usize, values: &[Option<f64>]) -> ArrayRef {
    let values = (0..rows).map(|row| values[(row * (1 + at % 5) + at) % values.len()]);
    Arc::new(values.collect::<Float64Array>())
}

fn label_column(at: usize, rows: usize, values: &[Option<&str>]) -> ArrayRef {
    Arc::new((0..rows).map(|row| values[(row + at) % values.len()]).collect::<StringArray>())
}

fn strange_column(kind: usize, rows: usize) -> ArrayRef {
    match kind {
        0 => Arc::new(Int64Array::from_iter((0..rows as i64).map(|row| (row != 1).then_some(i64::MAX - row)))),
        1 => Arc::new(StringArray::from_iter((0..rows).map(|row| (row != 1).then_some("1.0")))),
        2 => Arc::new(BooleanArray::from_iter((0..rows).map(|row| (row != 1).then_some(row % 2 == 0)))),
        3 => {
            let labels: ArrayRef = Arc::new(StringArray::from_iter((0..rows).map(|row| (row != 1).then_some("a"))));
            let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
            cast(&labels, &kind).expect("strings become a dictionary")
        }
        4 => Arc::new(Float32Array::from_iter((0..rows).map(|row| (row != 1).then_some(f32::MAX)))),
        5 => Arc::new(NullArray::new(rows)),
        6 => Arc::new(Date32Array::from_iter_values(0..rows as i32)),
        _ if rows % 2 == 1 => new_null_array(&DataType::LargeUtf8, rows),
        _ => {
            let digits = (0..rows as i128).map(|row| Some(10i128.pow(37) - row));
            Arc::new(Decimal128Array::from_iter(digits).with_precision_and_scale(38, 2).expect("a decimal"))
        }
    }
}

/// Every part has the size that its row count and the classes say.
fn check(model: &dyn Model, predictions: &Predictions, rows: usize) {
    assert_eq!(predictions.prediction.len(), rows, "a prediction a row");
    assert_eq!(predictions.prediction.null_count(), 0, "no prediction is null");
    for part in [&predictions.probability, &predictions.margin].into_iter().flatten() {
        assert_eq!(part.len(), rows, "a probability or margin a row");
    }
    if let Some(raw) = &predictions.raw {
        assert_eq!(raw.values.len(), rows * raw.width, "{} raw scores a row", raw.width);
    }
    if let Some(classes) = &predictions.probabilities {
        let count = classes.labels.len();
        assert!(count > 0, "probabilities of no classes");
        assert_eq!(classes.values.len(), rows * count, "{count} probabilities a row");
        assert_eq!(classes.labels.len(), model.description().labels.len(), "as many classes as it says to have");
        for class in predictions.prediction.values() {
            assert!(*class >= 0.0 && (*class as usize) < count, "class {class} of {count}");
        }
    }
}

/// The same bits, however rows are cut into batches.
fn same(part: &Predictions, all: &Predictions, from: usize, count: usize) {
    let equal = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let columns = [
        (Some(&part.prediction), Some(&all.prediction)),
        (part.probability.as_ref(), all.probability.as_ref()),
        (part.margin.as_ref(), all.margin.as_ref()),
    ];
    for (a, b) in columns {
        let (Some(a), Some(b)) = (a, b) else { continue };
        for row in 0..count {
            assert!(equal(a.value(row), b.value(from + row)), "row {} depends on its batch", from + row);
        }
    }
    if let (Some(a), Some(b)) = (&part.probabilities, &all.probabilities) {
        let width = a.labels.len();
        let b = &b.values[from * width..(from + count) * width];
        assert!(a.values.iter().zip(b).all(|(a, b)| equal(*a, *b)), "probabilities depend on the batch");
    }
}
