use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;

use super::build;
use crate::Result;
use crate::sql::{parse, plan_error};

/// Key, time, a second time, and what else is in a row.
type Row = (Option<i64>, Option<i64>, Option<i64>, Option<i64>);

const COMPARE: [&str; 4] = [">=", ">", "<=", "<"];

fn table(rows: &[Row], pieces: usize) -> Arc<MemTable> {
    let batch = |rows: &[Row]| {
        let times = |of: fn(&Row) -> Option<i64>| {
            let values: TimestampMicrosecondArray = rows.iter().map(of).collect();
            Arc::new(values.with_timezone("UTC")) as Arc<dyn Array>
        };
        RecordBatch::try_from_iter_with_nullable([
            ("k", Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>()) as Arc<dyn Array>, true),
            ("t", times(|r| r.1), true),
            ("u", times(|r| r.2), true),
            ("w", Arc::new(rows.iter().map(|r| r.3).collect::<Int64Array>()) as Arc<dyn Array>, true),
        ])
        .unwrap()
    };
    let parts: Vec<Vec<RecordBatch>> =
        rows.chunks(rows.len().div_ceil(pieces).max(1)).map(|piece| vec![batch(piece)]).collect();
    let parts = if parts.is_empty() { vec![vec![batch(&[])]] } else { parts };
    Arc::new(MemTable::try_new(parts[0][0].schema(), parts).unwrap())
}

fn context(left: &[Row], right: &[Row], partitions: usize) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(4);
    let builder = SessionStateBuilder::new().with_config(config).with_default_features();
    let context = SessionContext::new_with_state(build(builder).unwrap());
    context.register_table("l", table(left, partitions)).unwrap();
    context.register_table("r", table(right, partitions)).unwrap();
    context
}

fn run(context: &SessionContext, sql: &str) -> Result<Vec<Vec<Option<i64>>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (statement, _) = parse("sql", sql)?;
        let failed = |e| plan_error("sql", sql, e);
        let plan = context.state().statement_to_plan(statement).await.map_err(failed)?;
        let batches = context.execute_logical_plan(plan).await.map_err(failed)?.collect().await.map_err(failed)?;
        let mut rows = Vec::new();
        for batch in batches {
            let columns: Vec<_> = batch.columns().iter().map(|c| cast(c, &DataType::Int64).unwrap()).collect();
            let value =
                |c: &Arc<dyn Array>, row: usize| c.is_valid(row).then(|| c.as_primitive::<Int64Type>().value(row));
            rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|c| value(c, row)).collect::<Vec<_>>()));
        }
        rows.sort();
        Ok(rows)
    })
}

fn holds(left: i64, compare: &str, right: i64) -> bool {
    match compare {
        ">=" => left >= right,
        ">" => left > right,
        "<=" => left <= right,
        _ => left < right,
    }
}

/// Every pair of rows is looked at.
fn naive(left: &[Row], right: &[Row], keyed: bool, first: &str, second: Option<&str>) -> Vec<Vec<Option<i64>>> {
    let mut rows: Vec<Vec<Option<i64>>> = left
        .iter()
        .map(|l| {
            let fits = |r: &&Row| {
                let same = !keyed || (l.0.is_some() && l.0 == r.0);
                let in_time = matches!((l.1, r.1), (Some(a), Some(b)) if holds(a, first, b));
                same && in_time && second.is_none_or(|s| matches!((l.1, r.2), (Some(a), Some(b)) if holds(a, s, b)))
            };
            let near = |time: Option<i64>, compare: &str| time.map(|t| if compare.starts_with('>') { t } else { -t });
            let best = right
                .iter()
                .filter(fits)
                .max_by_key(|r| (near(r.1, first), second.map(|s| near(r.2, s)), r.0, r.1, r.2, r.3));
            let matched = best.map_or([None; 4], |r| [r.0, r.1, r.2, r.3]);
            [l.0, l.1, l.2, l.3].into_iter().chain(matched).collect()
        })
        .collect();
    rows.sort();
    rows
}

fn rows(most: usize) -> impl Strategy<Value = Vec<Row>> {
    use proptest::option::weighted;
    let row = (weighted(0.9, 0i64..4), weighted(0.9, -3i64..4), weighted(0.9, -3i64..4), weighted(0.8, 0i64..3));
    proptest::collection::vec(row, 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn an_as_of_join_answers_what_looking_at_every_pair_does(
        left in rows(24),
        right in rows(40),
        keyed in any::<bool>(),
        first in 0usize..4,
        second in proptest::option::of(0usize..4),
        partitions in 1usize..4,
    ) {
        let (first, second) = (COMPARE[first], second.map(|s| COMPARE[s]));
        let and = second.map(|s| format!(" AND l.t {s} r.u")).unwrap_or_default();
        let on = if keyed { "ON l.k = r.k" } else { "" };
        let sql = format!("SELECT l.*, r.* FROM l ASOF JOIN r MATCH_CONDITION (l.t {first} r.t{and}) {on}");
        let answer = run(&context(&left, &right, partitions), &sql).unwrap();
        prop_assert_eq!(answer, naive(&left, &right, keyed, first, second));
    }

    #[test]
    fn a_filter_above_an_as_of_join_does_not_change_the_matches(left in rows(20), right in rows(30), k in 0i64..4) {
        let sql = "SELECT l.*, r.* FROM l ASOF JOIN r MATCH_CONDITION (l.t >= r.t) ON l.k = r.k";
        let sql = format!("{sql} WHERE l.k = {k} AND (r.w IS NULL OR r.w < 2) AND l.w > 0");
        let answer = run(&context(&left, &right, 2), &sql).unwrap();
        let wanted = naive(&left, &right, true, ">=", None);
        let kept = |row: &&Vec<Option<i64>>| row[0] == Some(k) && row[7].is_none_or(|w| w < 2) && row[3] > Some(0);
        prop_assert_eq!(answer, wanted.iter().filter(kept).cloned().collect::<Vec<_>>());
    }
}

fn small() -> SessionContext {
    let left = [(Some(1), Some(10), None, Some(100)), (Some(2), Some(10), None, Some(200))];
    let right =
        [(Some(1), Some(5), Some(1), Some(1)), (Some(1), Some(9), Some(11), Some(2)), (Some(2), Some(11), None, None)];
    context(&left, &right, 2)
}

#[test]
fn the_sides_of_a_match_condition_may_be_swapped() {
    let sql = "SELECT l.w, r.w FROM l ASOF JOIN r MATCH_CONDITION (r.t <= l.t) ON r.k = l.k";
    assert_eq!(run(&small(), sql).unwrap(), [[Some(100), Some(2)], [Some(200), None]]);
}

#[test]
fn using_gives_the_key_once() {
    let sql = "SELECT * FROM l ASOF JOIN r MATCH_CONDITION (l.t >= r.t) USING (k)";
    let rows = run(&small(), sql).unwrap();
    assert_eq!(rows[0].len(), 7);
    let sql = "SELECT k, r.w FROM l ASOF JOIN r MATCH_CONDITION (l.t >= r.t) USING (k)";
    assert_eq!(run(&small(), sql).unwrap(), [[Some(1), Some(2)], [Some(2), None]]);
}

#[test]
fn as_of_joins_stand_among_other_joins_in_subqueries_and_in_common_tables() {
    let chain = "SELECT a.w, b.w, c.w, d.w FROM l a JOIN l b ON a.k = b.k
        ASOF JOIN r c MATCH_CONDITION (a.t >= c.t) ON a.k = c.k
        ASOF JOIN r d MATCH_CONDITION (b.t < d.t + INTERVAL '2 microseconds') ON b.k = d.k LEFT JOIN r e ON e.k = a.w";
    let wanted = [[Some(100), Some(100), Some(2), Some(2)], [Some(200), Some(200), None, None]];
    assert_eq!(run(&small(), chain).unwrap(), wanted);
    let nested = "WITH m AS (SELECT l.k, r.w FROM l ASOF JOIN (SELECT * FROM r WHERE w < 2) r \
        MATCH_CONDITION (l.t >= r.t) ON l.k = r.k) SELECT k, w FROM m WHERE k IN (SELECT k FROM (l ASOF JOIN r \
        MATCH_CONDITION (l.t > r.t) USING (k)))";
    assert_eq!(run(&small(), nested).unwrap(), [[Some(1), Some(1)], [Some(2), None]]);
}

#[test]
fn a_literal_may_stand_for_the_left_time() {
    let sql =
        "SELECT l.w, r.w FROM l ASOF JOIN r MATCH_CONDITION (TIMESTAMP '1970-01-01 00:00:00.000006Z' >= r.t) USING (k)";
    assert_eq!(run(&small(), sql).unwrap(), [[Some(100), Some(1)], [Some(200), None]]);
}

#[test]
fn what_is_no_as_of_join_is_refused_with_the_reason() {
    for (clause, part) in [
        ("MATCH_CONDITION (l.t = r.t) ON l.k = r.k", "by >=, >, <= or <"),
        ("MATCH_CONDITION (l.t >= l.u) ON l.k = r.k", "l.t >= l.u"),
        ("MATCH_CONDITION (l.t >= r.t OR l.t > r.u) ON l.k = r.k", "does not"),
        ("MATCH_CONDITION (l.t >= r.t) ON l.k > r.k", "made of equalities"),
        ("MATCH_CONDITION (l.t >= r.t) ON l.k = r.k OR l.w = r.w", "made of equalities"),
        ("MATCH_CONDITION (l.t >= r.t) USING (nim)", "nim"),
        ("MATCH_CONDITION (CAST(l.t AS VARCHAR) >= CAST(r.t AS VARCHAR)) ON l.k = r.k", "dates, times or numbers"),
        ("ON l.k = r.k", "MATCH_CONDITION"),
    ] {
        let error = run(&small(), &format!("SELECT * FROM l ASOF JOIN r {clause}")).unwrap_err().to_string();
        assert!(error.contains(part), "{clause}: {error}");
    }
}

#[test]
fn explain_shows_the_operator_and_filters_below_it() {
    let context = small();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sql = "SELECT l.w FROM l ASOF JOIN r MATCH_CONDITION (l.t >= r.t) ON l.k = r.k WHERE l.k = 1";
    let shown = runtime.block_on(async {
        let (statement, _) = parse("sql", sql).unwrap();
        let plan = context.state().statement_to_plan(statement).await.unwrap();
        context.state().optimize(&plan).unwrap().display_indent().to_string()
    });
    let filters = shown.lines().filter(|line| line.contains("= Int64(1)")).count();
    assert!(shown.contains("AsOfJoin: on=[l.k = r.k], match=[l.t >= r.t]") && filters == 2, "{shown}");
}
