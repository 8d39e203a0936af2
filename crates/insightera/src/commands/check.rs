//! `check`: are the pipelines right?

use insightera_engine::Workspace;
use insightera_engine::config::PipelineKind;
use insightera_engine::{score, stream};
use serde::Serialize;
use serde_json::{Value, json};

use super::several::{self, Outcomes};
use super::{Answer, json_text};
use crate::cli::ReportFormat;
use crate::failure;
use crate::printer::Printer;
use crate::text;

/// What there is to say about a pipeline that is right.
#[derive(Debug, Serialize)]
struct Checked {
    pipeline: String,
    table: String,
    table_exists: bool,
    model: Option<String>,
    strategy: &'static str,
    why_not_snapshot: Option<String>,
    inputs: Vec<String>,
    adds_columns: Vec<String>,
    warnings: Vec<String>,
}

/// Checks the named pipelines, or all; every failure is shown.
pub async fn check(
    workspace: &Workspace,
    pipelines: &[String],
    format: ReportFormat,
    printer: &Printer,
) -> anyhow::Result<Answer> {
    let all = || workspace.project().pipeline_names().map(str::to_owned).collect();
    let names = if pipelines.is_empty() { all() } else { pipelines.to_vec() };
    let outcomes = several::in_parallel(names, |name| {
        let workspace = workspace.clone();
        async move {
            let report = match workspace.project().kind(&name)? {
                PipelineKind::Batch => score::check(&workspace, &name).await?,
                PipelineKind::Stream => stream::check(&workspace, &name).await?,
            };
            Ok(Checked {
                pipeline: report.pipeline,
                table: report.table,
                table_exists: report.table_exists,
                model: report.model,
                strategy: report.strategy,
                why_not_snapshot: report.why_not_snapshot,
                inputs: report.inputs,
                adds_columns: report.adds_columns,
                warnings: report.warnings,
            })
        }
    })
    .await;
    if outcomes.is_empty() {
        printer.warning("the project has no pipelines: a pipeline is a file `pipelines/NAME.toml`");
    }
    if let ReportFormat::Json = format {
        let worst = outcomes.iter().filter_map(|(_, o)| o.as_ref().err()).map(failure::exit_code).max();
        return Ok(Answer { text: json_text(&objects(&outcomes)?)?, exit_code: worst.unwrap_or(0) });
    }
    let exit_code = several::report_failures(&outcomes, printer);
    // One failure alone is told by its message.
    let text = if outcomes.iter().any(|(_, o)| o.is_ok()) { render(&outcomes) } else { String::new() };
    Ok(Answer { text, exit_code })
}

fn objects(outcomes: &Outcomes<Checked>) -> anyhow::Result<Vec<Value>> {
    outcomes
        .iter()
        .map(|(name, outcome)| {
            let mut object = match outcome {
                Ok(report) => serde_json::to_value(report)?,
                Err(error) => failure::object(name, error),
            };
            if let Value::Object(fields) = &mut object {
                fields.insert("status".into(), json!(if outcome.is_ok() { "ok" } else { "failed" }));
            }
            Ok(object)
        })
        .collect()
}

fn render(outcomes: &Outcomes<Checked>) -> String {
    let mut notes = String::new();
    let mut rows = Vec::new();
    for (name, outcome) in outcomes {
        let Ok(report) = outcome else {
            rows.push(vec!["failed".into(), name.clone(), String::new(), String::new(), String::new()]);
            continue;
        };
        let table = if report.table_exists { report.table.clone() } else { format!("{} (new)", report.table) };
        let model = report.model.clone().unwrap_or_else(|| "a rule in SQL".into());
        rows.push(vec!["ok".into(), name.clone(), table, model, report.strategy.into()]);
        if let Some(why) = &report.why_not_snapshot {
            notes.push_str(&format!("{name}: not `snapshot`, because {why}\n"));
        }
        if !report.adds_columns.is_empty() {
            notes.push_str(&format!("{name}: the next run adds the columns {}\n", report.adds_columns.join(", ")));
        }
        for warning in &report.warnings {
            notes.push_str(&format!("{name}: warning: {warning}\n"));
        }
    }
    text::columns(&["status", "pipeline", "table", "model", "strategy"], &[], &rows) + &notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use insightera_engine::Error;

    #[test]
    fn every_pipeline_has_a_line_and_notes_say_why() {
        let report = Checked {
            pipeline: "risk".into(),
            table: "ml.risk".into(),
            table_exists: false,
            model: None,
            strategy: "hash",
            why_not_snapshot: Some("a LIMIT".into()),
            inputs: vec!["gold.a".into()],
            adds_columns: Vec::new(),
            warnings: Vec::new(),
        };
        let outcomes = vec![("risk".into(), Ok(report)), ("bad".into(), Err(Error::invalid("x").into()))];
        let text = render(&outcomes);
        assert!(text.contains("ok      risk      ml.risk (new)  a rule in SQL  hash\n"), "{text}");
        assert!(text.contains("failed  bad\n") && text.ends_with("risk: not `snapshot`, because a LIMIT\n"), "{text}");
        assert_eq!(objects(&outcomes).unwrap()[1]["status"], "failed");
    }
}
