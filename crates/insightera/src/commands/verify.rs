//! `verify`: does the table say what the features say?

use insightera_engine::Workspace;
use insightera_engine::score::{self, VerifyReport};

use super::Answer;
use super::plan::entities;
use super::several::{self, Outcomes};
use crate::cli::ReportFormat;
use crate::printer::Printer;
use crate::progress::Bars;
use crate::resolve::Selection;
use crate::text;

/// Verifies one pipeline or all; what is not right gives exit status 1.
pub async fn verify(
    workspace: &Workspace,
    selection: &Selection,
    format: ReportFormat,
    printer: &Printer,
) -> anyhow::Result<Answer> {
    let outcomes = outcomes(workspace, several::names(workspace, selection), &Bars::new(printer)).await;
    let wrong = outcomes.iter().any(|(_, outcome)| outcome.as_ref().is_ok_and(|report| !report.ok));
    let mut answer = several::answer(outcomes, selection, format, printer, render)?;
    if wrong {
        answer.exit_code = answer.exit_code.max(1);
        printer.hint("`insightera plan PIPELINE` says why, `insightera run PIPELINE` scores what is missing or stale");
    }
    Ok(answer)
}

/// The reports of verifications.
pub async fn outcomes(workspace: &Workspace, names: Vec<String>, bars: &Bars) -> Outcomes<VerifyReport> {
    several::in_parallel(names, |name| {
        let (workspace, bar) = (workspace.clone(), bars.bar(&name));
        async move {
            bar.stage("verify", None);
            let report = score::verify(&workspace, &name).await;
            bar.finish();
            Ok(report?)
        }
    })
    .await
}

fn render(outcomes: &Outcomes<VerifyReport>) -> String {
    outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).map(block).collect()
}

/// A report for reading.
fn block(report: &VerifyReport) -> String {
    if report.ok {
        return format!("{}: ok, {}, each with one current prediction\n", report.pipeline, entities(report.entities));
    }
    let mut text = format!(
        "{}: not right, {} of {} current, {} missing, {} stale, {} duplicate, {} extra\n",
        report.pipeline,
        text::count(report.current),
        entities(report.entities),
        text::count(report.missing),
        text::count(report.stale),
        text::count(report.duplicate),
        text::count(report.extra)
    );
    for (what, key) in &report.named {
        text.push_str(&format!("  {what:<9} {key}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_counted_and_named() {
        let mut report = VerifyReport {
            ok: false,
            pipeline: "risk".into(),
            entities: 10,
            suppressed: 0,
            current: 8,
            missing: 1,
            stale: 1,
            duplicate: 0,
            extra: 0,
            named: vec![("stale".into(), "nim=7".into())],
        };
        let text = block(&report);
        assert!(text.contains("8 of 10 entities current, 1 missing, 1 stale, 0 duplicate, 0 extra"), "{text}");
        assert!(text.ends_with("  stale     nim=7\n"), "{text}");
        report.ok = true;
        assert_eq!(block(&report), "risk: ok, 10 entities, each with one current prediction\n");
    }
}
