//! `ASOF JOIN … MATCH_CONDITION (…) ON …`: to every row of the left side the
//! one row of the right side that was the newest then.
//!
//! Words: the *match condition* compares a value of the left row with one of
//! the right row by `>=`, `>`, `<=` or `<`; the closest right row for which it
//! holds is the *match*. `ON` is a conjunction of equalities, or left out.
//! Further comparisons behind `AND` in the match condition must hold as well:
//! `MATCH_CONDITION (l.t >= f.feature_time AND l.t >= f.known_time)`.
//!
//! Guarantees:
//! - Every left row comes out once; without a match the right columns are null.
//! - Null keys and null times match nothing.
//! - Of several closest rows the one whose further comparisons are closest
//!   wins, then the one whose other columns, in their order, are largest, so
//!   that the order in which files are read changes nothing.
//!
//! Flow: [`fold`] makes each such join a table factor of its own, which the
//! query engine hands to `plan`; that makes the `node`, and from the node
//! makes the operator of `exec`, which keeps the right side of each partition
//! in memory, sorted by time within each key (`insightera_entities::as_of`).

mod exec;
mod node;
mod plan;
mod pushdown;
mod syntax;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::optimizer::Optimizer;

pub(crate) use node::AsOfJoin;
use plan::{Plans, Relations};
use pushdown::PushDown;
pub(super) use syntax::fold;

/// A session that can plan and run as-of joins.
pub(super) fn build(builder: SessionStateBuilder) -> DfResult<SessionState> {
    // Right behind the rule that brings filters down to the join: later ones
    // put projections between.
    let mut rules = Optimizer::default().rules;
    let behind = rules.iter().position(|rule| rule.name() == "push_down_filter").map_or(rules.len(), |at| at + 1);
    rules.insert(behind, Arc::new(PushDown));
    let mut state = builder.with_query_planner(Arc::new(Plans)).with_optimizer_rules(rules).build();
    state.register_relation_planner(Arc::new(Relations))?;
    Ok(state)
}
