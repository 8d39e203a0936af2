//! `stream`: score events as they come; `stream status`: how far streams are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::json::LineDelimitedWriter;
use insightera_engine::Workspace;
use insightera_engine::config::PipelineKind;
use insightera_engine::notify::Warn;
use insightera_engine::stream::{
    self, Alert, Difference, LiveStatus, ReplayOptions, ReplayReport, ReplaySummary, Status, StreamOptions,
    StreamSummary, Told,
};

use super::{Answer, metrics, several};
use crate::cli::{ReportFormat, StatusFormat};
use crate::printer::Printer;
use crate::resolve::{ReplayBounds, Selection, StreamRun};
use crate::text;

/// Runs streams side by side until they end.
pub async fn run(workspace: &Workspace, command: &StreamRun, printer: &Printer) -> anyhow::Result<Answer> {
    let stop = Arc::new(AtomicBool::new(false));
    tokio::spawn(stop_on_signal(stop.clone(), printer.clone()));
    let names = names(workspace, &command.pipelines);
    let on_status: Option<Told<LiveStatus>> = match &command.metrics {
        Some(address) => Some(metrics::serve(workspace, &names, address, printer).await?),
        None => None,
    };
    let (told, warned) = (printer.clone(), printer.clone());
    let options = StreamOptions {
        until_end: command.until_end,
        partitions: command.partitions.clone(),
        stop,
        on_alert: Some(Arc::new(move |alert: &Alert| tell(alert, &told))),
        on_status,
        on_warning: Some(Arc::new(move |warning: &str| warned.warning(warning))),
    };
    let outcomes = several::in_parallel(names, |name| {
        let (workspace, options) = (workspace.clone(), options.clone());
        async move {
            let ended = stream::run(&workspace, &name, &options).await;
            // One that fails ends the others: nobody watches half of a system.
            if ended.is_err() {
                options.stop.store(true, Ordering::SeqCst);
            }
            Ok(ended?)
        }
    })
    .await;
    several::answer(outcomes, &Selection::All, command.format, printer, |outcomes| {
        outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).map(line).collect()
    })
}

/// The named streams, each once, or all.
fn names(workspace: &Workspace, pipelines: &[String]) -> Vec<String> {
    if pipelines.is_empty() {
        return workspace.project().names_of(PipelineKind::Stream).map(str::to_owned).collect();
    }
    let again = |(index, name): &(usize, &String)| pipelines[..*index].contains(name);
    pipelines.iter().enumerate().filter(|named| !again(named)).map(|(_, name)| name.clone()).collect()
}

/// Waits for Ctrl-C or SIGTERM. The second one ends the process at once.
async fn stop_on_signal(stop: Arc<AtomicBool>, printer: Printer) {
    signal().await;
    printer.message("stopping: what was read is committed first; once more stops at once");
    stop.store(true, Ordering::SeqCst);
    signal().await;
    std::process::exit(1);
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}

#[cfg(not(unix))]
async fn signal() {
    let _ = tokio::signal::ctrl_c().await;
}

/// An alert as lines of JSON on standard error.
fn tell(alert: &Alert, printer: &Printer) {
    let mut lines = LineDelimitedWriter::new(Vec::new());
    if lines.write(&alert.rows).and_then(|()| lines.finish()).is_ok() {
        for row in String::from_utf8_lossy(&lines.into_inner()).lines() {
            printer.message(&format!("alert `{}` of `{}`: {row}", alert.name, alert.pipeline));
        }
    }
}

/// What became of a stream, in one line.
pub fn line(summary: &StreamSummary) -> String {
    let counts = &summary.counts;
    let per_second = if summary.seconds > 0.0 { counts.events as f64 / summary.seconds } else { 0.0 };
    let latency = match (summary.latency_p50_ms, summary.latency_p99_ms) {
        (Some(p50), Some(p99)) => format!(", arrival to prediction p50 {p50:.1} ms, p99 {p99:.1} ms"),
        _ => String::new(),
    };
    let suppressed = match counts.suppressed {
        0 => String::new(),
        n => format!(", {} of erased entities", text::count(n)),
    };
    format!(
        "{}: {} events, {} predictions, {} filtered{suppressed}, {} late, {} dead letters, {} alerts, {} commits, {:.1} s, {} events/s{latency}\n",
        summary.pipeline,
        text::count(counts.events),
        text::count(counts.rows),
        text::count(counts.filtered),
        text::count(counts.late),
        text::count(counts.dead),
        text::count(counts.alerts),
        text::count(summary.commits),
        summary.seconds,
        text::count(per_second as u64),
    )
}

/// Scores dead letters that can be read now.
pub async fn replay_dead_letters(
    workspace: &Workspace,
    pipelines: &[String],
    format: ReportFormat,
    printer: &Printer,
) -> anyhow::Result<Answer> {
    let mut outcomes = Vec::new();
    for name in names(workspace, pipelines) {
        let (own, warned) = (name.clone(), printer.clone());
        let warn: Warn = Arc::new(move |why: &str| warned.warning(&format!("{own}: stays a dead letter: {why}")));
        let done = stream::replay_dead_letters(workspace, &name, Some(&warn)).await;
        outcomes.push((name, done.map_err(anyhow::Error::from)));
    }
    several::answer(outcomes, &Selection::All, format, printer, |outcomes| {
        let done = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
        let line = |done: &ReplaySummary| {
            format!(
                "{}: {} dead letters, {} scored, {} late, {} filtered, {} stay\n",
                done.pipeline,
                text::count(done.letters),
                text::count(done.scored),
                text::count(done.late),
                text::count(done.filtered),
                text::count(done.unreadable)
            )
        };
        done.map(line).collect()
    })
}

/// Computes once more what a stream computed; what differs gives exit status 1,
/// unless another model was asked for.
pub async fn replay(
    workspace: &Workspace,
    pipeline: &str,
    bounds: ReplayBounds,
    format: ReportFormat,
    printer: &Printer,
) -> anyhow::Result<Answer> {
    let warned = printer.clone();
    let ReplayBounds { from, to, as_model, into } = bounds;
    let on_warning: Option<Warn> = Some(Arc::new(move |warning: &str| warned.warning(warning)));
    let options = ReplayOptions { from, to, as_model, into, on_warning };
    let report = stream::replay(workspace, pipeline, &options).await?;
    let mut answer = match format {
        ReportFormat::Json => Answer::json(&report)?,
        ReportFormat::Table => Answer::done(replayed(&report)),
    };
    if report.same_model && !report.ok() {
        answer.exit_code = 1;
        printer.hint("the rows differ from what the stream wrote: one of them is wrong, or something that is no input of the replay decided");
    }
    Ok(answer)
}

/// A replay, for reading.
fn replayed(report: &ReplayReport) -> String {
    let versions: Vec<&str> = report.versions.iter().map(String::as_str).collect();
    let mut text = format!(
        "{}: {} events, {} predictions, {} late, {} dead letters, by version {}{}\n",
        report.pipeline,
        text::count(report.counts.events),
        text::count(report.counts.rows),
        text::count(report.counts.late),
        text::count(report.counts.dead),
        versions.join(", "),
        if report.same_model { " as then" } else { ", which is not what scored then" },
    );
    for (partition, (from, to)) in &report.ranges {
        text.push_str(&format!("  partition {partition}: offsets {from} to {to}\n"));
    }
    if let (Some(into), Some(snapshot)) = (&report.into, report.snapshot_id) {
        text.push_str(&format!("  into {into}, commit {snapshot}\n"));
    }
    if let Some(found) = &report.compared {
        text.push_str(&format!(
            "  against {}: {} equal, {} different, {} only in the table, {} only in the replay, {} twice in the table\n",
            report.table,
            text::count(found.equal),
            text::count(found.different),
            text::count(found.missing),
            text::count(found.extra),
            text::count(found.repeated),
        ));
        for (column, rows) in &found.by_column {
            text.push_str(&format!("  {column} differs in {} rows\n", text::count(*rows)));
        }
        for Difference { partition, offset, column, table, replay } in &found.named {
            let column = column.as_deref().unwrap_or("table");
            text.push_str(&format!("  partition {partition}, offset {offset}: {column} {table}, replay {replay}\n"));
        }
        if !report.left_out.is_empty() {
            text.push_str(&format!("  not compared: {}\n", report.left_out.join(", ")));
        }
    }
    text
}

/// How far streams are.
pub fn status(
    workspace: &Workspace,
    pipelines: &[String],
    format: StatusFormat,
    printer: &Printer,
) -> anyhow::Result<Answer> {
    let outcomes = names(workspace, pipelines)
        .into_iter()
        .map(|name| {
            let status = stream::status(workspace, &name);
            (name, status.map_err(anyhow::Error::from))
        })
        .collect();
    let report = match format {
        StatusFormat::Json => ReportFormat::Json,
        StatusFormat::Table | StatusFormat::Prometheus => ReportFormat::Table,
    };
    several::answer(outcomes, &Selection::All, report, printer, |outcomes| {
        let found = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
        match format {
            StatusFormat::Prometheus => stream::exposition(&found.cloned().collect::<Vec<_>>()),
            StatusFormat::Table | StatusFormat::Json => found.map(block).collect(),
        }
    })
}

fn block(status: &Status) -> String {
    let mut lines = format!("{}: table {}", status.pipeline, status.table);
    match (status.snapshot_id, status.committed_ms) {
        (Some(snapshot), Some(ms)) => {
            let when = chrono::DateTime::from_timestamp_millis(ms).map(|time| time.to_rfc3339()).unwrap_or_default();
            lines.push_str(&format!(", last commit {snapshot} at {when}\n"));
        }
        _ => lines.push_str(", nothing committed yet\n"),
    }
    match (&status.source_error, status.lag) {
        (Some(why), _) => lines.push_str(&format!("  how far it is behind is not known: {why}\n")),
        (None, Some(lag)) => {
            lines.push_str(&format!("  {} {} behind its source\n", text::count(lag.max(0) as u64), status.lag_unit));
        }
        (None, None) => {}
    }
    for partition in &status.partitions {
        let name = partition.name.clone().map(|name| format!(" ({name})")).unwrap_or_default();
        let lag = partition.lag.map(|lag| format!(", {} behind", text::count(lag.max(0) as u64)));
        lines.push_str(&format!(
            "  partition {}{name}: position {}{}, epoch {}\n",
            partition.partition,
            partition.position,
            lag.unwrap_or_default(),
            partition.epoch
        ));
    }
    for process in status.processes.iter().filter(|process| !process.partitions.is_empty()) {
        let name = |number: &u32| {
            let of = status.partitions.iter().find(|partition| partition.partition == *number);
            of.and_then(|partition| partition.name.clone()).unwrap_or_else(|| number.to_string())
        };
        let partitions: Vec<String> = process.partitions.iter().map(name).collect();
        lines.push_str(&format!("  process {} reads the partitions {}\n", process.process, partitions.join(", ")));
    }
    if let Some(live) = &status.live {
        let word = if live.ended { "ended" } else { "said last" };
        let when = chrono::DateTime::from_timestamp_micros(live.at).map(|time| time.to_rfc3339()).unwrap_or_default();
        lines.push_str(&format!(
            "  process {word} at {when}: {} events, {} predictions, {} late, {} dead letters, state {} bytes of {} keys\n",
            text::count(live.events),
            text::count(live.rows),
            text::count(live.late),
            text::count(live.dead),
            text::count(live.state_bytes),
            text::count(live.state_keys),
        ));
        if let Some(watermark) = live.watermark.and_then(chrono::DateTime::from_timestamp_micros) {
            lines.push_str(&format!("  watermark {}\n", watermark.to_rfc3339()));
        }
        if let (Some(p50), Some(p99)) = (live.latency_p50_ms, live.latency_p99_ms) {
            lines.push_str(&format!("  arrival to prediction: p50 {p50:.1} ms, p99 {p99:.1} ms\n"));
        }
    }
    // Of those that run, else of the last that ran.
    let running = status.processes.iter();
    let ended = status.live.iter().filter(|_| status.processes.is_empty());
    for news in running.chain(ended).flat_map(|process| &process.drift) {
        lines.push_str(&format!("  drift: {news}\n"));
    }
    lines
}
