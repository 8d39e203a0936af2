//! Feature views: the newest features of an entity that were true and known at
//! a time.
//!
//! A view is a table with one row per entity, of now or of the time that
//! `AS OF` names. On the right of an as-of join, `ASOF JOIN feature_views.v f
//! MATCH_CONDITION (l.t >= f.feature_time)`, it is of each left row's own
//! time: the join compares the known time as well, without being asked to.
//!
//! `feature_status` says what the features are: `fresh`; `expired`, older than
//! the view's time-to-live and therefore null; `missing`, there was no row;
//! `unavailable`, the snapshots of that time have been expired.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DataFusionError, Result as DfResult, ScalarValue, TableReference, plan_err};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, Operator, TableProviderFilterPushDown, TableType, binary_expr, cast, ident,
    lit, when,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;

use super::plan_error;
use crate::config::{FEATURE_VIEWS, FeatureView, KnownTime};
use crate::lake::scan::Scan;
use crate::lake::{Table, TableName, history};
use crate::{Error, Result};

/// The column that says whether the features are to be used.
pub(crate) const STATUS: &str = "feature_status";
/// Behind a view's name: only rows that the table had then, besides what the
/// known time says. No file of a view can have such a name.
pub(crate) const COMMITTED: &str = "@committed";
const FROM: &str = "__known_from";
/// The last time that also has a number of nanoseconds, since a statement may
/// compare with those: 2262-04-11.
const LATEST: i64 = i64::MAX / 1000;
const UNTIL: &str = "__known_until";

/// A feature view in a session.
#[derive(Debug, Clone)]
pub(crate) struct FeatureViewTable {
    view: Arc<FeatureView>,
    features: Vec<String>,
    /// Of now, or of the time that was asked for.
    current: Arc<ViewTable>,
    /// The rows that the table has now.
    scan: Arc<LogicalPlan>,
    /// Where the rows of all times are, if the commit says when they were known.
    past: Past,
    /// Whether the commit says it besides the known time.
    committed: bool,
    /// Whether the statement names a time for all rows.
    pinned: bool,
}

/// What a view is over.
#[derive(Debug, Clone)]
pub(crate) enum Past {
    /// A Parquet folder, which knows no commits.
    Folder,
    /// A table with its history.
    Table(Box<Table>),
    /// A table that stands at one snapshot, as in a pipeline.
    Pinned,
}

/// Rows that an as-of join looks into.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The rows.
    pub plan: LogicalPlan,
    /// Since when they tell all, where snapshots before have been expired.
    since: Option<i64>,
}

impl FeatureViewTable {
    /// The view over its table, which must be registered in `context` as the
    /// view's own name for it, as it was at `at` (microseconds since the
    /// epoch).
    ///
    /// # Errors
    /// When the view names a column that is not there, or needs the commit
    /// times of something that has none.
    pub async fn new(context: &SessionContext, view: FeatureView, past: Past, at: i64) -> Result<Self> {
        let base = TableName::parse(&view.table)?;
        let what = format!("{FEATURE_VIEWS}/{}.toml", view.name);
        let failed = |e| plan_error(&what, "", e);
        let reference = TableReference::partial(base.namespace.clone(), base.name.clone());
        let provider = context.table_provider(reference.clone()).await.map_err(failed)?;
        let schema = provider.schema();
        let features = columns(&view, &schema)?;
        let mut known = Vec::new();
        match &view.known_time {
            KnownTime::Commit if matches!(past, Past::Folder) => {
                return Err(Error::invalid(format!(
                    "{what}: `{base}` is a Parquet folder, which does not say when a row became known"
                ))
                .hint("name the column in `known_time`, or write `known_time = \"feature_time\"` if features are known at once"));
            }
            KnownTime::Column(column) => known.push(column.clone()),
            KnownTime::Commit | KnownTime::FeatureTime => {}
        }
        let all: Vec<String> = [&view.key[..], &features, std::slice::from_ref(&view.feature_time), &known].concat();
        let select = |names: &[String]| names.iter().map(ident).collect::<Vec<_>>();
        let scan = LogicalPlanBuilder::scan(reference, provider_as_source(provider), None)
            .and_then(|plan| plan.project(select(&all)))
            .and_then(LogicalPlanBuilder::build)
            .map_err(failed)?;
        let current = newest(&view, &features, scan.clone(), at).map_err(failed)?;
        let current = Arc::new(ViewTable::new(current, None));
        Ok(Self {
            view: Arc::new(view),
            features,
            current,
            scan: Arc::new(scan),
            past,
            committed: false,
            pinned: false,
        })
    }

    /// The same view, with only those rows that the table had.
    #[must_use]
    pub fn committed(self) -> Self {
        Self { committed: true, ..self }
    }

    /// The same view, at a time that the statement names.
    #[must_use]
    pub fn pinned(self) -> Self {
        Self { pinned: true, ..self }
    }

    fn by_commits(&self) -> bool {
        self.committed || self.view.known_time == KnownTime::Commit
    }

    /// The view as it is declared.
    pub fn view(&self) -> &FeatureView {
        &self.view
    }

    /// The rows that an as-of join looks into, under the name that the
    /// statement gives them.
    ///
    /// # Errors
    /// When a manifest cannot be read, or a pipeline would need the history of
    /// a table that it has pinned.
    pub fn rows(&self, name: TableReference) -> DfResult<Rows> {
        if self.pinned {
            return plan_err!(
                "an ASOF JOIN reads the feature view `{0}` at the time of each left row: take AS OF behind `{0}` out",
                self.view.name
            );
        }
        let mut since = None;
        let plan = match (self.by_commits(), &self.past) {
            (true, Past::Table(table)) => {
                let history = history::history(table).map_err(external)?;
                since = history.since.filter(|_| history.expired);
                let names: Vec<String> = self.scan.schema().fields().iter().map(|f| f.name().clone()).collect();
                ever(&self.view, table, &history, &names)?
            }
            (true, _) => {
                return plan_err!(
                    "the feature view `{}` goes by the commits of `{}`, of which a pipeline sees one: name a \
                     `known_time` column in the view, or join the view without ASOF",
                    self.view.name,
                    self.view.table
                );
            }
            (false, _) => self.scan.as_ref().clone(),
        };
        let plan = LogicalPlanBuilder::from(plan).alias(name)?.build()?;
        Ok(Rows { plan, since })
    }

    /// What the match condition of such a join must say besides `moment >=
    /// feature_time`: that the row was known.
    pub fn known_at(&self, moment: &Expr, name: &TableReference) -> Vec<Expr> {
        let right = |column: &str| Expr::Column(Column::new(Some(name.clone()), column));
        let mut known = Vec::new();
        if let KnownTime::Column(column) = &self.view.known_time {
            known.push(binary_expr(moment.clone(), Operator::GtEq, right(column)));
        }
        if self.by_commits() {
            known.push(binary_expr(moment.clone(), Operator::GtEq, right(FROM)));
            known.push(binary_expr(moment.clone(), Operator::Lt, right(UNTIL)));
        }
        known
    }

    /// The join's columns with the view's own in place of the rows': features
    /// that are older than the time-to-live are null.
    pub fn outcome(
        &self,
        joined: LogicalPlan,
        rows: &Rows,
        moment: &Expr,
        name: &TableReference,
    ) -> DfResult<LogicalPlan> {
        let right = |column: &str| Expr::Column(Column::new(Some(name.clone()), column));
        let left = joined.schema().iter().filter(|(q, _)| *q != Some(name)).map(Expr::from);
        let mut columns: Vec<Expr> = left.collect();
        let time = right(&self.view.feature_time);
        let (fresh, status) = self.status(rows, &time, moment)?;
        for key in &self.view.key {
            columns.push(right(key));
        }
        for feature in &self.features {
            columns.push(only(&fresh, right(feature))?.alias_qualified(Some(name.clone()), feature));
        }
        columns.push(time);
        if let KnownTime::Column(known) = &self.view.known_time {
            columns.push(right(known));
        }
        columns.push(status.alias_qualified(Some(name.clone()), STATUS));
        LogicalPlanBuilder::from(joined).project(columns)?.build()
    }

    fn status(&self, rows: &Rows, time: &Expr, moment: &Expr) -> DfResult<(Expr, Expr)> {
        let (fresh, status) = freshness(&self.view, time, moment)?;
        let Some(since) = rows.since else { return Ok((fresh, status)) };
        let lost = instant(moment).lt(lit(ScalarValue::TimestampMicrosecond(Some(since), Some("UTC".into()))));
        let fresh = fresh.and(lost.clone().is_not_true());
        Ok((fresh, when(lost, lit("unavailable")).otherwise(status)?))
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The features: those that the view names, else all columns that are neither
/// key nor time.
fn columns(view: &FeatureView, schema: &SchemaRef) -> Result<Vec<String>> {
    let mut times = vec![&view.feature_time];
    if let KnownTime::Column(known) = &view.known_time {
        times.push(known);
    }
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    for wanted in view.key.iter().chain(times.iter().copied()).chain(view.columns.iter().flatten()) {
        if !names.contains(&wanted.as_str()) {
            let file = view.file.display();
            let error = Error::invalid(format!("{file}: `{}` has no column `{wanted}`", view.table));
            return Err(match insightera_core::closest(wanted, names.iter().copied()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("its columns are {}", names.join(", "))),
            });
        }
    }
    if names.contains(&STATUS) {
        return Err(Error::invalid(format!("`{}` has a column `{STATUS}`, which a feature view adds", view.table))
            .hint("rename the column"));
    }
    let is_feature = |name: &&&str| !view.key.iter().chain(times.iter().copied()).any(|taken| taken == **name);
    Ok(match &view.columns {
        Some(named) => named.clone(),
        None => names.iter().filter(is_feature).map(|name| (*name).to_owned()).collect(),
    })
}

/// A time in microseconds UTC, whatever its type.
pub(crate) fn instant(time: &Expr) -> Expr {
    cast(time.clone(), DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
}

/// Whether features of `time` are to be used at `moment`, and the word for it.
fn freshness(view: &FeatureView, time: &Expr, moment: &Expr) -> DfResult<(Expr, Expr)> {
    let there = time.clone().is_not_null();
    let fresh = match view.ttl_micros {
        None => there.clone(),
        Some(ttl) => {
            let span = lit(ScalarValue::new_interval_mdn(0, 0, ttl.saturating_mul(1000)));
            let ends = binary_expr(instant(time), Operator::Plus, span);
            there.clone().and(instant(moment).lt_eq(ends))
        }
    };
    let status = when(fresh.clone(), lit("fresh")).when(there, lit("expired")).otherwise(lit("missing"))?;
    Ok((fresh, status))
}

fn only(fresh: &Expr, column: Expr) -> DfResult<Expr> {
    when(fresh.clone(), column).end()
}

/// One row per entity: the newest that was true and known at `at`.
fn newest(view: &FeatureView, features: &[String], rows: LogicalPlan, at: i64) -> DfResult<LogicalPlan> {
    use datafusion::logical_expr::ExprFunctionExt;
    let at = lit(ScalarValue::TimestampMicrosecond(Some(at), Some("UTC".into())));
    let time = ident(&view.feature_time);
    let mut there = instant(&time).lt_eq(at.clone());
    let mut order = vec![time.clone().sort(false, false)];
    for key in &view.key {
        there = there.and(ident(key).is_not_null());
    }
    if let KnownTime::Column(known) = &view.known_time {
        there = there.and(instant(&ident(known)).lt_eq(at.clone()));
        order.push(ident(known).sort(false, false));
    }
    order.extend(features.iter().map(|f| ident(f).sort(false, false)));
    let newest = datafusion::functions_window::expr_fn::row_number()
        .partition_by(view.key.iter().map(ident).collect())
        .order_by(order)
        .build()?
        .alias("__newest");
    let (fresh, status) = freshness(view, &time, &at)?;
    let mut columns: Vec<Expr> = view.key.iter().map(ident).collect();
    for feature in features {
        columns.push(only(&fresh, ident(feature))?.alias(feature));
    }
    columns.push(time);
    if let KnownTime::Column(known) = &view.known_time {
        columns.push(ident(known));
    }
    columns.push(status.alias(STATUS));
    LogicalPlanBuilder::from(rows)
        .filter(there)?
        .window(vec![newest])?
        .filter(ident("__newest").eq(lit(1u64)))?
        .project(columns)?
        .build()
}

/// All rows that the table ever had, with the times between which they could
/// be read.
fn ever(view: &FeatureView, table: &Table, history: &history::History, columns: &[String]) -> DfResult<LogicalPlan> {
    let whole = Scan::table(table.clone(), table.current_snapshot_id()).map_err(external)?;
    let stamp = |micros: i64| lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
    let mut all: Option<LogicalPlanBuilder> = None;
    for period in &history.periods {
        let scan: Arc<dyn TableProvider> = Arc::new(whole.clone().of_files(period.files.clone()));
        let name = TableReference::partial(FEATURE_VIEWS, view.name.clone());
        let selected = columns.iter().map(ident);
        let times = [stamp(period.from).alias(FROM), stamp(period.until.min(LATEST)).alias(UNTIL)];
        let piece = LogicalPlanBuilder::scan(name, provider_as_source(scan), None)?
            .project(selected.chain(times).collect::<Vec<_>>())?;
        all = Some(match all {
            None => piece,
            Some(before) => before.union(piece.build()?)?,
        });
    }
    match all {
        Some(plan) => plan.build(),
        // A table without rows yet.
        None => {
            let name = TableReference::partial(FEATURE_VIEWS, view.name.clone());
            let times = [stamp(0).alias(FROM), stamp(LATEST).alias(UNTIL)];
            LogicalPlanBuilder::scan(name, provider_as_source(Arc::new(whole)), None)?
                .project(columns.iter().map(ident).chain(times).collect::<Vec<_>>())?
                .build()
        }
    }
}

/// The moment that a match condition compares with a view's feature time.
///
/// # Errors
/// When it compares anything else.
pub(crate) fn moment(view: &FeatureView, condition: &Expr, name: &TableReference) -> DfResult<Expr> {
    let wanted = Expr::Column(Column::new(Some(name.clone()), view.feature_time.clone()));
    if let Expr::BinaryExpr(comparison) = condition {
        let (left, right) = (comparison.left.as_ref(), comparison.right.as_ref());
        match comparison.op {
            Operator::GtEq | Operator::Gt if *right == wanted => return Ok(left.clone()),
            Operator::LtEq | Operator::Lt if *left == wanted => return Ok(right.clone()),
            _ => {}
        }
    }
    plan_err!(
        "the MATCH_CONDITION of the feature view `{0}` is `time >= {name}.{1}`, with the time of the left row; it \
         compares the known time by itself",
        view.name,
        view.feature_time
    )
}

#[async_trait]
impl TableProvider for FeatureViewTable {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        self.current.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        self.current.get_logical_plan()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        self.current.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.current.scan(state, projection, filters, limit).await
    }
}
