//! `run`: score what changed, commit once.

use insightera_engine::Workspace;
use insightera_engine::score::{self, Maintained, RunOptions, RunReport, RunStatus};

use super::Answer;
use super::plan::{entities, model, reasons, strategy};
use super::several::{self, Outcomes};
use crate::cli::ReportFormat;
use crate::printer::Printer;
use crate::progress::Bars;
use crate::resolve::Selection;
use crate::text;

/// Runs one pipeline, or all side by side.
pub async fn run(
    workspace: &Workspace,
    selection: &Selection,
    options: &RunOptions,
    format: ReportFormat,
    printer: &Printer,
) -> anyhow::Result<Answer> {
    let outcomes = outcomes(workspace, several::names(workspace, selection), options, &Bars::new(printer)).await;
    several::answer(outcomes, selection, format, printer, |outcomes| match selection {
        Selection::One(_) => outcomes.iter().filter_map(|(_, o)| o.as_ref().ok()).map(|r| block(r, printer)).collect(),
        Selection::All => summary(outcomes),
    })
}

/// The reports of runs.
pub async fn outcomes(
    workspace: &Workspace,
    names: Vec<String>,
    options: &RunOptions,
    bars: &Bars,
) -> Outcomes<RunReport> {
    several::in_parallel(names, |name| {
        let (workspace, bar, options) = (workspace.clone(), bars.bar(&name), options.clone());
        async move {
            let report = score::run(&workspace, &name, &options, &bar.reporter()).await;
            bar.finish();
            Ok(report?)
        }
    })
    .await
}

/// One line per pipeline.
pub fn summary(outcomes: &Outcomes<RunReport>) -> String {
    if outcomes.is_empty() {
        return String::new();
    }
    let header = ["pipeline", "status", "entities", "scored", "skipped", "removed", "time", "rows/s"];
    let right = [false, false, true, true, true, true, true, true];
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|(name, outcome)| match outcome {
            Ok(report) => vec![
                name.clone(),
                status(report.status).to_owned(),
                text::count(report.entities),
                text::count(report.scored),
                text::count(report.skipped),
                text::count(report.removed),
                text::seconds(report.seconds),
                rate(report).map_or_else(|| "-".into(), text::count),
            ],
            Err(_) => [&[name.clone(), "failed".into()][..], &vec!["-".to_owned(); 6]].concat(),
        })
        .collect();
    text::columns(&header, &right, &rows)
}

fn status(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Committed => "committed",
        RunStatus::Unchanged => "unchanged",
    }
}

/// Scored rows per second of the whole run.
fn rate(report: &RunReport) -> Option<u64> {
    (report.scored > 0 && report.seconds > 0.0).then(|| (report.scored as f64 / report.seconds) as u64)
}

/// A report for reading.
fn block(report: &RunReport, printer: &Printer) -> String {
    let written = report.scored + report.removed;
    let what = match report.status {
        RunStatus::Committed => format!("{} of {} written", text::count(written), entities(report.entities)),
        RunStatus::Unchanged => format!("nothing to score, {} are as they were", entities(report.entities)),
    };
    let mut lines = vec![printer.heading(&format!("{}: {what}", report.pipeline))];
    let mut add = |name: &str, value: String| lines.push(format!("  {name:<9} {value}"));
    if let Some(as_of) = &report.as_of {
        add("as of", format!("{as_of}, into {}", report.table));
    } else if written > 0 {
        add("why", reasons(&report.reasons));
    }
    add("model", model(report.model.as_ref().map(|m| (m.name.as_str(), m.version))));
    add("strategy", strategy(report.strategy, report.why_not_snapshot.as_deref()));
    if let Some(id) = report.snapshot_id {
        add("snapshot", format!("{id}, {} written", text::bytes(report.bytes_written)));
    }
    if let Some(dropped) = report.dropped_by_joins.filter(|n| *n > 0) {
        add("dropped", format!("{} have no partner in another input", entities(dropped)));
    }
    if report.null_keys > 0 {
        add("ignored", format!("{} feature rows with a null key", text::count(report.null_keys)));
    }
    if report.suppressed > 0 {
        add("erased", format!("{} feature rows of erased entities are not scored", text::count(report.suppressed)));
    }
    if !report.added_columns.is_empty() {
        add("added", format!("the columns {}", report.added_columns.join(", ")));
    }
    match &report.maintenance {
        Some(Maintained::Done(done)) => add(
            "maintained",
            format!(
                "{} files became {}, {} snapshots expired",
                done.rewritten_files, done.added_files, done.expired_snapshots
            ),
        ),
        Some(Maintained::Failed(why)) => add("maintained", format!("no: {why}")),
        None => {}
    }
    let rate = rate(report).map(|rate| format!(", {} rows/s", text::count(rate))).unwrap_or_default();
    add("time", format!("{}{rate}", text::seconds(report.seconds)));
    add("run id", report.run_id.clone());
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use insightera_engine::score::Reasons;
    use std::collections::BTreeMap;

    fn report() -> RunReport {
        RunReport {
            pipeline: "risk".into(),
            run_id: "0199".into(),
            as_of: None,
            table: "ml.risk".into(),
            status: RunStatus::Committed,
            snapshot_id: Some(7),
            committed_at: None,
            entities: 2000,
            scored: 1000,
            skipped: 1000,
            removed: 1,
            reasons: Reasons(BTreeMap::from([("update", 1000), ("removed", 1)])),
            dropped_by_joins: Some(3),
            null_keys: 0,
            suppressed: 0,
            model: None,
            strategy: "hash",
            why_not_snapshot: Some("there is a LIMIT".into()),
            added_columns: Vec::new(),
            seconds: 2.0,
            stages: BTreeMap::new(),
            bytes_written: 12_345,
            maintenance: None,
        }
    }

    #[test]
    fn a_report_says_what_and_why_and_how_fast() {
        let text = block(&report(), &Printer::plain());
        for line in [
            "risk: 1,001 of 2,000 entities written",
            "  why       removed 1, update 1,000",
            "  strategy  hash; not snapshot, because there is a LIMIT",
            "  snapshot  7, 12.3 kB written",
            "  dropped   3 entities have no partner in another input",
            "  time      2.00 s, 500 rows/s",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nin\n{text}");
        }
    }

    #[test]
    fn the_summary_has_a_line_for_a_failed_run() {
        let failed = anyhow::Error::from(insightera_engine::Error::invalid("x"));
        let text = summary(&vec![("risk".into(), Ok(report())), ("bad".into(), Err(failed))]);
        assert_eq!(text.lines().count(), 4);
        assert!(text.lines().last().unwrap().starts_with("bad       failed"), "{text}");
    }

    #[test]
    fn the_json_of_a_run_has_the_fields_of_the_contract() {
        let value = serde_json::to_value(report()).unwrap();
        for field in [
            "pipeline",
            "run_id",
            "status",
            "snapshot_id",
            "entities",
            "scored",
            "skipped",
            "removed",
            "reasons",
            "dropped_by_joins",
            "model",
            "seconds",
            "stages",
        ] {
            assert!(value.get(field).is_some(), "{field}");
        }
        assert_eq!(value["status"], "committed");
    }
}
