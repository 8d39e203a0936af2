//! `CALL system.procedure(…)`: maintenance with Spark's arguments and result
//! columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::change::{TARGET, register, template};
use super::{QueryResult, count, int, long, row, rows};
use crate::lake::maintain::expire::{self, Rules};
use crate::lake::maintain::orphans::{self, Search};
use crate::lake::maintain::{manifests, rewrite};
use crate::lake::refs::{self, Reach};
use crate::lake::scan::Scan;
use crate::lake::{Lake, TableName};
use crate::sql::statement::Call;
use crate::sql::{query, travel};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Runs a procedure.
pub(super) async fn call(workspace: &Workspace, zone: &str, call: &Call) -> Result<QueryResult> {
    let lake = workspace.lake();
    let name = call.table()?;
    let context = crate::sql::session(workspace, zone)?;
    match call.procedure {
        "ancestors_of" => ancestors(lake, &name, call.number("snapshot_id")),
        "expire_snapshots" => {
            let rules = Rules {
                older_than_ms: time(&context, call, "older_than").await?,
                retain_last: positive(call, "retain_last")?,
                retain_most: None,
                snapshot_ids: call.numbers("snapshot_ids"),
            };
            let (_, removed) = expire::expire(lake, &name, &rules)?;
            row([
                ("deleted_data_files_count", count(removed.data_files)),
                ("deleted_position_delete_files_count", count(removed.position_delete_files)),
                ("deleted_equality_delete_files_count", count(removed.equality_delete_files)),
                ("deleted_manifest_files_count", count(removed.manifests)),
                ("deleted_manifest_lists_count", count(removed.manifest_lists)),
                ("deleted_statistics_files_count", count(removed.statistics_files)),
            ])
        }
        "remove_orphan_files" => {
            let mut search: Search = orphans::default_search(lake.clock().now_millis());
            if let Some(older_than) = time(&context, call, "older_than").await? {
                search.older_than_ms = older_than;
            }
            let found = orphans::find(lake, &name, search)?;
            if !call.flag("dry_run").unwrap_or(false) && !found.files.is_empty() {
                orphans::quarantine(lake, &name, &found)?;
            }
            let files = found.files.iter().map(|file| file.strip_prefix("file://").unwrap_or(file));
            rows([("orphan_file_location", Arc::new(StringArray::from_iter_values(files)))])
        }
        "rewrite_data_files" => {
            let options = options(call)?;
            let filter = match call.text("where") {
                Some(text) => Some(filter(workspace, &context, &name, text).await?),
                None => None,
            };
            let done = rewrite::rewrite(lake, &context, &name, &options, filter.as_ref()).await?;
            row([
                ("rewritten_data_files_count", int(done.rewritten_files)),
                ("added_data_files_count", int(done.added_files)),
                ("rewritten_bytes_count", count(done.rewritten_bytes)),
                ("failed_data_files_count", int(done.failed_files)),
                ("removed_delete_files_count", int(done.removed_delete_files)),
            ])
        }
        "rewrite_manifests" => {
            let spec = call.number("spec_id").map(i32::try_from).transpose();
            let spec = spec.map_err(|_| Error::invalid("procedure `rewrite_manifests`: `spec_id` is not an INT"))?;
            let done = manifests::rewrite(lake, &name, spec)?;
            row([("rewritten_manifests_count", int(done.rewritten)), ("added_manifests_count", int(done.added))])
        }
        "rollback_to_snapshot" => {
            let to = call.number("snapshot_id").unwrap_or_default();
            moved(refs::move_main(lake, &name, to, Reach::Ancestors)?.1, to)
        }
        "rollback_to_timestamp" => {
            let at = time(&context, call, "timestamp").await?.unwrap_or_default();
            let table = lake.table(&name)?;
            let ancestor = table.ancestry().find(|s| s.timestamp_ms() < at).map(|s| s.snapshot_id());
            let to = match ancestor {
                Some(to) => to,
                // Names what there is.
                None => travel::snapshot_at(&table, i64::MIN, call.time("timestamp").unwrap_or_default())?,
            };
            moved(refs::move_main(lake, &name, to, Reach::Ancestors)?.1, to)
        }
        "set_current_snapshot" => {
            let table = lake.table(&name)?;
            let to = match (call.number("snapshot_id"), call.text("ref")) {
                (Some(id), None) => id,
                (None, Some(reference)) => travel::snapshot_of_version(&table, &format!("'{reference}'"))?,
                _ => {
                    return Err(Error::invalid(
                        "procedure `set_current_snapshot`: either `snapshot_id` or `ref` is needed",
                    ));
                }
            };
            moved(refs::move_main(lake, &name, to, Reach::Any)?.1, to)
        }
        other => Err(Error::internal(format!("procedure `{other}` has no body"))),
    }
}

fn moved(before: Option<i64>, to: i64) -> Result<QueryResult> {
    row([("previous_snapshot_id", long(before)), ("current_snapshot_id", long(Some(to)))])
}

fn ancestors(lake: &Lake, name: &TableName, from: Option<i64>) -> Result<QueryResult> {
    let table = lake.table(name)?;
    let Some(from) = from.or_else(|| table.current_snapshot_id()) else {
        return rows([
            ("snapshot_id", Arc::new(Int64Array::from(Vec::<i64>::new()))),
            ("timestamp", Arc::new(Int64Array::from(Vec::<i64>::new()))),
        ]);
    };
    let metadata = table.metadata();
    let mut next = Some(travel::snapshot_of_version(&table, &from.to_string())?);
    let (mut ids, mut times) = (Vec::new(), Vec::new());
    while let Some(snapshot) = next.and_then(|id| metadata.snapshot_by_id(id)) {
        ids.push(snapshot.snapshot_id());
        times.push(snapshot.timestamp_ms());
        next = snapshot.parent_snapshot_id().filter(|id| !ids.contains(id));
    }
    rows([("snapshot_id", Arc::new(Int64Array::from(ids))), ("timestamp", Arc::new(Int64Array::from(times)))])
}

async fn time(context: &SessionContext, call: &Call, name: &str) -> Result<Option<i64>> {
    match call.time(name) {
        Some(text) => query::evaluate_time(context, text).await.map(Some),
        None => Ok(None),
    }
}

fn positive(call: &Call, name: &str) -> Result<Option<usize>> {
    match call.number(name) {
        None => Ok(None),
        Some(number) => match usize::try_from(number) {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(Error::invalid(format!("procedure `{}`: `{name}` is {number}, not 1 or more", call.procedure))),
        },
    }
}

/// The `options` map of `rewrite_data_files`, with Iceberg's keys.
fn options(call: &Call) -> Result<rewrite::Options> {
    let mut options = rewrite::Options::default();
    let mut left: BTreeMap<String, String> = call.map("options");
    let wrong = |key: &str, value: &str, wanted: &str| {
        Error::invalid(format!("procedure `rewrite_data_files`: option `{key}` is `{value}`, not {wanted}"))
    };
    let mut number = |key: &str| -> Result<Option<u64>> {
        match left.remove(key) {
            None => Ok(None),
            Some(value) => match value.parse::<u64>() {
                Ok(number) if number > 0 => Ok(Some(number)),
                _ => Err(wrong(key, &value, "a number of 1 or more")),
            },
        }
    };
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    options.target_bytes = number("target-file-size-bytes")?;
    options.min_bytes = number("min-file-size-bytes")?;
    options.max_bytes = number("max-file-size-bytes")?;
    options.min_input_files = number("min-input-files")?.map_or(options.min_input_files, size);
    options.delete_file_threshold = number("delete-file-threshold")?.map_or(options.delete_file_threshold, size);
    options.max_group_bytes = number("max-file-group-size-bytes")?.unwrap_or(options.max_group_bytes);
    options.max_commits = number("partial-progress.max-commits")?.map_or(options.max_commits, size);
    number("max-concurrent-file-group-rewrites")?;
    let mut flag = |key: &str| -> Result<Option<bool>> {
        match left.remove(key).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(value) => Err(wrong(key, value, "true or false")),
        }
    };
    options.rewrite_all = flag("rewrite-all")?.unwrap_or(false);
    options.partial_progress = flag("partial-progress.enabled")?.unwrap_or(false);
    flag("remove-dangling-deletes")?;
    if flag("use-starting-sequence-number")? == Some(false) {
        return Err(Error::invalid("procedure `rewrite_data_files`: `use-starting-sequence-number` cannot be false")
            .hint("rows that are deleted by value meanwhile would come back"));
    }
    if let Some(key) = left.keys().next() {
        const KNOWN: [&str; 12] = [
            "target-file-size-bytes",
            "min-file-size-bytes",
            "max-file-size-bytes",
            "min-input-files",
            "delete-file-threshold",
            "max-file-group-size-bytes",
            "max-concurrent-file-group-rewrites",
            "partial-progress.enabled",
            "partial-progress.max-commits",
            "rewrite-all",
            "remove-dangling-deletes",
            "use-starting-sequence-number",
        ];
        let error = Error::invalid(format!("procedure `rewrite_data_files` has no option `{key}`"));
        return Err(match insightera_core::closest(key, KNOWN) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("its options are {}", KNOWN.join(", "))),
        });
    }
    match call.text("strategy").map(str::to_ascii_lowercase).as_deref() {
        None | Some("binpack" | "sort") => {}
        Some(other) => {
            return Err(Error::invalid(format!("procedure `rewrite_data_files`: strategy `{other}` is not known"))
                .hint("use binpack or sort"));
        }
    }
    let sorted = call.text("strategy").is_some_and(|s| s.eq_ignore_ascii_case("sort"));
    match call.text("sort_order") {
        Some(text) => options.sort = Some(sort_keys(text)?),
        None if sorted => {
            return Err(Error::invalid("procedure `rewrite_data_files`: the strategy sort needs a `sort_order`")
                .hint("for example sort_order => 'nim ASC NULLS FIRST'"));
        }
        None => {}
    }
    Ok(options)
}

fn sort_keys(text: &str) -> Result<Vec<rewrite::SortKey>> {
    let wrong = |why: String| {
        Error::invalid(format!("procedure `rewrite_data_files`: sort_order `{text}`: {why}"))
            .hint("write columns, each with ASC or DESC and NULLS FIRST or LAST: 'a DESC NULLS LAST, b'")
    };
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).try_with_sql(text).map_err(|e| wrong(e.to_string()))?;
    let keys = parser.parse_comma_separated(Parser::parse_order_by_expr).map_err(|e| wrong(e.to_string()))?;
    if parser.peek_token().token != datafusion::sql::sqlparser::tokenizer::Token::EOF {
        return Err(wrong(format!("`{}` is not expected", parser.peek_token())));
    }
    keys.into_iter()
        .map(|key| {
            let ast::Expr::Identifier(column) = &key.expr else {
                return Err(wrong(format!("`{}` is not a column", key.expr)));
            };
            let descending = key.options.asc == Some(false);
            let nulls_first = key.options.nulls_first.unwrap_or(!descending);
            Ok(rewrite::SortKey { column: column.value.clone(), descending, nulls_first })
        })
        .collect()
}

/// The `where` of `rewrite_data_files` as an expression over the table.
async fn filter(workspace: &Workspace, context: &SessionContext, name: &TableName, text: &str) -> Result<Expr> {
    let what = "procedure `rewrite_data_files`: where";
    let dialect = GenericDialect {};
    let wrong = |e: String| Error::invalid(format!("{what} `{text}`: {e}"));
    let mut parser = Parser::new(&dialect).try_with_sql(text).map_err(|e| wrong(e.to_string()))?;
    let condition = parser.parse_expr().map_err(|e| wrong(e.to_string()))?;
    if parser.peek_token().token != datafusion::sql::sqlparser::tokenizer::Token::EOF {
        return Err(wrong(format!("`{}` is not expected", parser.peek_token())));
    }
    let table = workspace.lake().table(name)?;
    let snapshot = table.current_snapshot_id();
    register(context, TARGET, Arc::new(Scan::table(table, snapshot)?))?;
    let label = super::change::quoted(&name.name);
    let statement =
        template(&format!("SELECT * FROM {TARGET} AS {label} WHERE __condition"), &[("__condition", &condition)])?;
    let mut plan = query::plan(workspace, context, text, statement, &[]).await.map_err(|e| wrong(e.to_string()))?;
    loop {
        match plan {
            LogicalPlan::Projection(inner) => plan = inner.input.as_ref().clone(),
            LogicalPlan::Filter(inner) => return unqualified(inner.predicate),
            _ => return Err(wrong("only the table's own columns and constants can stand in it".into())),
        }
    }
}

fn unqualified(filter: Expr) -> Result<Expr> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    let plain = filter.transform(|expression| {
        Ok(match expression {
            Expr::Column(column) => Transformed::yes(Expr::Column(datafusion::common::Column::from_name(column.name))),
            other => Transformed::no(other),
        })
    });
    plain.map(|found| found.data).map_err(|e| Error::internal(format!("a filter: {e}")))
}
