//! `plan`: what would a run score, and why?

use insightera_engine::Workspace;
use insightera_engine::score::{self, Consumed, Plan, Reasons, RunOptions};

use super::Answer;
use super::several::{self, Outcomes};
use crate::cli::ReportFormat;
use crate::printer::Printer;
use crate::progress::Bars;
use crate::resolve::Selection;
use crate::text;

/// Plans one pipeline or all.
pub async fn plan(
    workspace: &Workspace,
    selection: &Selection,
    format: ReportFormat,
    printer: &Printer,
) -> anyhow::Result<Answer> {
    let bars = Bars::new(printer);
    let outcomes = several::in_parallel(several::names(workspace, selection), |name| {
        let (workspace, bar) = (workspace.clone(), bars.bar(&name));
        async move {
            bar.stage("plan", None);
            let plan = score::plan(&workspace, &name, &RunOptions::default()).await;
            bar.finish();
            Ok(plan?)
        }
    })
    .await;
    several::answer(outcomes, selection, format, printer, |outcomes| render(outcomes, printer))
}

fn render(outcomes: &Outcomes<Plan>, printer: &Printer) -> String {
    let blocks: Vec<String> = outcomes.iter().filter_map(|(_, o)| o.as_ref().ok()).map(|p| block(p, printer)).collect();
    blocks.join("\n")
}

/// A plan for reading.
pub fn block(plan: &Plan, printer: &Printer) -> String {
    let mut lines = vec![printer.heading(&format!(
        "{}: a run would write {} of {}",
        plan.pipeline,
        text::count(plan.to_score),
        entities(plan.entities)
    ))];
    let mut add = |name: &str, value: String| lines.push(format!("  {name:<9} {value}"));
    add("why", reasons(&plan.reasons));
    add("model", model(plan.model.as_ref().map(|m| (m.name.as_str(), m.version))));
    add("strategy", strategy(plan.strategy, plan.why_not_snapshot.as_deref()));
    if let Some(miss) = &plan.can_miss {
        add("can miss", miss.clone());
    }
    if plan.to_score > 0 || plan.files > 0 {
        add("reads", format!("{} files, {}", text::count(plan.files), text::bytes(plan.bytes)));
    }
    for (name, consumed) in &plan.inputs {
        add("input", format!("{name} {}", input(consumed)));
    }
    if !plan.adds_columns.is_empty() {
        add("adds", format!("the columns {}", plan.adds_columns.join(", ")));
    }
    lines.join("\n") + "\n"
}

fn input(consumed: &Consumed) -> String {
    match consumed {
        Consumed::Iceberg { snapshot_id: Some(id), .. } => format!("at snapshot {id}"),
        Consumed::Iceberg { snapshot_id: None, .. } => "(empty)".into(),
        Consumed::Parquet { .. } => "(Parquet folder)".into(),
    }
}

/// `1 entity`, `2 entities`.
pub fn entities(number: u64) -> String {
    format!("{} {}", text::count(number), if number == 1 { "entity" } else { "entities" })
}

/// `insert 5, update 10`.
pub fn reasons(reasons: &Reasons) -> String {
    let words: Vec<String> =
        reasons.0.iter().map(|(reason, number)| format!("{reason} {}", text::count(*number))).collect();
    if words.is_empty() { "nothing changed".into() } else { words.join(", ") }
}

/// `name version 3`.
pub fn model(model: Option<(&str, u64)>) -> String {
    model.map_or_else(|| "none, a rule in SQL".into(), |(name, version)| format!("{name} version {version}"))
}

/// `hash: not snapshot, because …`.
pub fn strategy(strategy: &str, why_not_snapshot: Option<&str>) -> String {
    match why_not_snapshot {
        Some(why) => format!("{strategy}; not snapshot, because {why}"),
        None => strategy.to_owned(),
    }
}
