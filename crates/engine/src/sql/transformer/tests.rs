use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int64Type};
use insightera_infer::{InputKind, SqlStage};

use super::Statements;

fn rows(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn doubles(values: &[Option<f64>]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

/// What an expression over the column `x` makes, null as none.
fn found(expression: &str, x: &[Option<f64>]) -> Vec<Option<f64>> {
    let statement = format!("SELECT *, {expression} AS y FROM __THIS__");
    let made = Statements::default().run(&statement, &rows(vec![("x", doubles(x))])).unwrap();
    let made = arrow::compute::cast(made.column(0), &arrow::datatypes::DataType::Float64).unwrap();
    made.as_primitive::<Float64Type>().iter().collect()
}

#[test]
fn numbers_are_sparks_and_not_the_engines() {
    let one = |expression: &str, x: f64| found(expression, &[Some(x)])[0];
    assert_eq!(one("x / 0", 1.0), None);
    assert_eq!(one("x % -0.0", 1.0), None);
    assert_eq!(one("3 / 2", 1.0), Some(1.5));
    assert_eq!(one("ln(x)", -1.0), None);
    assert_eq!(one("log(x)", 1.0), Some(0.0));
    assert_eq!(one("pow(x, 2) + sqrt(16)", 3.0), Some(13.0));
    assert_eq!(one("CASE WHEN x = 0.0 THEN 1 ELSE 2 END", -0.0), Some(1.0));
    assert_eq!(one("if(x > 1e300, 1, 2)", f64::NAN), Some(1.0));
    assert_eq!(one("if(sqrt(x) > 1e300, 1, 2)", -1.0), Some(1.0));
    assert_eq!(one("if(x = x, 1, 2)", -f64::NAN), Some(1.0));
    assert_eq!(one("floor(x) + ceil(x)", 2.5), Some(5.0));
    assert_eq!(one("coalesce(nullif(x, 2), 7)", 2.0), Some(7.0));
    assert_eq!(one("if(x BETWEEN 1 AND 2 AND x NOT IN (1.5), 1, 0)", 1.5), Some(0.0));
    assert_eq!(found("x * 2 + 1", &[Some(0.5), None]), [Some(2.0), None]);
    assert_eq!(found("isnan(x)", &[Some(f64::NAN), None]), [Some(1.0), Some(0.0)]);
}

#[test]
fn columns_keep_their_kinds_and_integers_stay_whole() {
    let engine = Statements::default();
    let statement = "select *, n % 4 as rest, case when `town` in ('Batu', \"Malang\") then 1 else 0 end as near, \
                     upper(town) as big, __THIS__.n as copy from __THIS__";
    let plan = engine.plan(statement).unwrap();
    let reads: Vec<(&str, InputKind)> = plan.reads.iter().map(|input| (input.name.as_str(), input.kind)).collect();
    assert_eq!(reads, [("n", InputKind::Numeric), ("town", InputKind::Categorical)]);
    assert_eq!(plan.makes, ["rest", "near", "big", "copy"]);
    let table = rows(vec![
        ("n", Arc::new(Int32Array::from(vec![7, -7]))),
        ("town", Arc::new(StringArray::from(vec![Some("Batu"), None]))),
    ]);
    let made = engine.run(statement, &table).unwrap();
    let whole = |name: &str| made.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
    assert_eq!((whole("rest"), whole("near"), whole("copy")), (vec![3, -3], vec![1, 0], vec![7, -7]));
    assert_eq!(made.column_by_name("big").unwrap().as_string::<i32>().value(0), "BATU");
}

#[test]
fn what_is_not_a_function_of_one_row_is_refused_by_name() {
    let refused = |statement: &str, says: &str| {
        let error = Statements::default().plan(statement).unwrap_err();
        assert!(error.contains(says), "{statement}: {error}");
    };
    refused("SELECT *, x AS y FROM __THIS__ WHERE x > 1", "WHERE, which drops rows");
    refused("SELECT *, x AS y FROM __THIS__ ORDER BY x", "ORDER BY");
    refused("SELECT *, x AS y FROM __THIS__ LIMIT 3", "LIMIT");
    refused("SELECT DISTINCT x + 1 AS y FROM __THIS__", "DISTINCT");
    refused("SELECT sum(x) AS y FROM __THIS__", "the function `sum`");
    refused("SELECT x + 1 AS y FROM __THIS__ GROUP BY x", "groups");
    refused("SELECT *, row_number() OVER (ORDER BY x) AS y FROM __THIS__", "combines rows");
    refused("SELECT *, x AS y FROM other", "`__THIS__`");
    refused("SELECT *, x AS y FROM __THIS__ JOIN other ON true", "another number of tables");
    refused("SELECT *, (SELECT 1) AS y FROM __THIS__", "is not supported");
    refused("SELECT *, x + 1 FROM __THIS__", "AS name");
    refused("SELECT *, rand() AS y FROM __THIS__", "the function `rand`");
    refused("SELECT *, round(x, 2) AS y FROM __THIS__", "the function `round`");
    refused("SELECT *, 3 * 0.1 AS y FROM __THIS__", "arithmetic of decimals");
    refused("SELECT *, x AS y, x AS y FROM __THIS__", "`y` twice");
    refused("SELECT * FROM __THIS__", "makes no column");
    refused("DELETE FROM __THIS__", "not one SELECT");
    let engine = Statements::default();
    let table = rows(vec![("n", Arc::new(Int32Array::from(vec![1])) as ArrayRef)]);
    let error = engine.run("SELECT *, n * 0.5 AS y FROM __THIS__", &table).unwrap_err();
    assert!(error.contains("arithmetic of decimals"), "{error}");
}
