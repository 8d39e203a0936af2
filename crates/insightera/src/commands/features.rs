//! `features`: list feature views, export training sets.

use insightera_engine::Workspace;
use insightera_engine::config::{FeatureView, KnownTime};
use insightera_engine::features::{self, ExportReport, Leak};
use serde_json::json;

use super::Answer;
use super::table::rendered;
use crate::cli::{Format, ReportFormat};
use crate::printer::Printer;
use crate::resolve::FeaturesCommand;
use crate::text;

/// Runs a command on features.
pub async fn features(workspace: &Workspace, command: FeaturesCommand, printer: &Printer) -> anyhow::Result<Answer> {
    match command {
        FeaturesCommand::List { format } => list(workspace, format),
        FeaturesCommand::Export { wanted, format } => {
            let report = features::export(workspace, &wanted).await?;
            let mut answer = match format {
                ReportFormat::Json => Answer::json(&report)?,
                ReportFormat::Table => Answer::done(render(&report)),
            };
            if !report.leaks.is_empty() {
                answer.exit_code = 1;
                printer.hint(
                    "nothing was written; a table that was filled in afterwards, whose known times are right, is \
                     exported with --trust-known-time",
                );
            }
            Ok(answer)
        }
    }
}

fn list(workspace: &Workspace, format: Format) -> anyhow::Result<Answer> {
    let project = workspace.project();
    let views = project.feature_view_names().map(|name| project.feature_view(name)).collect::<Result<Vec<_>, _>>()?;
    if format == Format::Json {
        let objects: Vec<_> = views
            .iter()
            .map(|view| {
                json!({
                    "view": view.name, "table": view.table, "key": view.key, "columns": view.columns,
                    "feature_time": view.feature_time, "known_time": known_time(view), "ttl_seconds": ttl_seconds(view),
                    "description": view.description,
                })
            })
            .collect();
        return Answer::json(&objects);
    }
    let header = ["view", "table", "key", "feature_time", "known_time", "ttl_seconds"];
    let rows: Vec<Vec<Option<String>>> = views
        .iter()
        .map(|view| {
            let (name, table, time) = (view.name.clone(), view.table.clone(), view.feature_time.clone());
            let texts = [name, table, view.key.join(","), time, known_time(view).to_owned()];
            texts.into_iter().map(Some).chain([ttl_seconds(view).map(|s| s.to_string())]).collect()
        })
        .collect();
    Ok(Answer::done(rendered(&header, &[false, false, false, false, false, true], rows, format)))
}

fn known_time(view: &FeatureView) -> &str {
    match &view.known_time {
        KnownTime::Column(column) => column,
        KnownTime::FeatureTime => "feature_time",
        KnownTime::Commit => "commit",
    }
}

fn ttl_seconds(view: &FeatureView) -> Option<i64> {
    view.ttl_micros.map(|micros| micros / 1_000_000)
}

fn render(report: &ExportReport) -> String {
    let what = match &report.output {
        Some(file) => {
            format!("{} with {} rows of {} columns", file.display(), text::count(report.rows), report.columns.len())
        }
        None => format!("{} rows, not written", text::count(report.rows)),
    };
    let mut lines = vec![what];
    for view in &report.views {
        let statuses: Vec<String> = view.statuses.iter().map(|(s, n)| format!("{s} {}", text::count(*n))).collect();
        lines.push(format!("  {:<12} {}", view.view, statuses.join(", ")));
        if let Some(why) = &view.unchecked {
            lines.push(format!("  {:<12} not compared with the commits: {why}", ""));
        }
    }
    lines.extend(report.leaks.iter().map(leak));
    lines.join("\n") + "\n"
}

fn leak(leak: &Leak) -> String {
    let what = match &leak.feature {
        Some(feature) => format!("{}.{feature}", leak.view),
        None => leak.view.clone(),
    };
    format!("leak: {what} {}: {} rows, first row {}", leak.kind.as_str(), text::count(leak.rows), leak.first_row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use insightera_engine::features::{LeakKind, ViewReport};

    #[test]
    fn a_report_names_each_leak_with_its_rows() {
        let report = ExportReport {
            output: None,
            rows: 1200,
            columns: Vec::new(),
            views: vec![ViewReport {
                view: "grades".into(),
                statuses: [("fresh".to_owned(), 1000), ("missing".to_owned(), 200)].into(),
                unchecked: None,
            }],
            leaks: vec![Leak {
                view: "grades".into(),
                feature: Some("gpa".into()),
                kind: LeakKind::Label,
                rows: 1000,
                first_row: 3,
            }],
        };
        let text = render(&report);
        assert_eq!(
            text,
            "1,200 rows, not written\n  grades       fresh 1,000, missing 200\n\
             leak: grades.gpa tells the label almost always: 1,000 rows, first row 3\n"
        );
    }
}
