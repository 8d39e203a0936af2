//! What the demo shows, in about one screen.

use std::path::Path;

use insightera_engine::score::{self, RunOptions, RunStatus};
use insightera_engine::{Error, Workspace, sql};

use super::folder::{Finished, Marker};
use super::{assets, gold, live};
use crate::commands::plan;
use crate::commands::several::{self, report_failures};
use crate::commands::{Answer, run, stream, verify};
use crate::printer::Printer;
use crate::progress::Bars;
use crate::resolve::{Demo, Selection};
use crate::text;
use crate::university::{NextDaySummary, University};

/// The pipeline that the story follows.
const PIPELINE: &str = "dropout_risk";

/// Its predictions.
const TABLE: &str = "ml_predictions.dropout_risk_predictions";

/// The predictions at every event.
const LIVE_TABLE: &str = "ml_predictions.dropout_risk_predictions_realtime";

/// The payments that somebody should look at.
const ALERTS: &str = "ml_predictions.anomaly_alerts";

/// Builds the university, scores it, lets a day pass, scores it again, and
/// then scores what happens.
pub async fn tell(
    workspace: &Workspace,
    university: &University,
    demo: &Demo,
    printer: &Printer,
    bars: &Bars,
) -> anyhow::Result<Finished> {
    let start = workspace.clock().monotonic_seconds();
    build(workspace, university, printer, bars)?;
    let day_one_snapshot = day_one(workspace, printer, bars).await?;
    next_day(workspace, university, printer, bars).await?;
    let student = compare(workspace, day_one_snapshot, printer).await?;
    if demo.events_for > 0 {
        events(workspace, university, demo, printer, bars).await?;
    }
    let finished = Finished { day_one_snapshot, student };
    let seconds = text::seconds(workspace.clock().monotonic_seconds() - start);
    printer.data(&format!(
        "\n{}{}",
        next_steps(&demo.dir, &finished, printer),
        printer.dim(&format!("all this took {seconds}\n"))
    ))?;
    Ok(finished)
}

fn build(workspace: &Workspace, university: &University, printer: &Printer, bars: &Bars) -> anyhow::Result<()> {
    let start = workspace.clock().monotonic_seconds();
    let bar = bars.bar("building");
    let rows = gold::write(workspace, university, &bar)?;
    bar.stage("models", None);
    let versions = assets::register_models(workspace.registry().as_ref())?;
    bar.finish();
    let heading = format!(
        "A university with {} students, {} units, {} researchers, {} payments (seed {})",
        text::count(university.students),
        text::count(university.units),
        text::count(university.researchers),
        text::count(university.transactions),
        university.seed
    );
    let tables = university.tables().len() - gold::parquet_folders(university).len();
    printer.data(&format!(
        "{}\n  {tables} Iceberg tables and {} Parquet folders with {} rows, {versions} model versions, made in {}\n",
        printer.heading(&heading),
        gold::parquet_folders(university).len(),
        text::count(rows),
        text::seconds(workspace.clock().monotonic_seconds() - start)
    ))?;
    Ok(())
}

/// Scores everything; says the snapshot of the dropout predictions.
async fn day_one(workspace: &Workspace, printer: &Printer, bars: &Bars) -> anyhow::Result<i64> {
    let outcomes =
        run::outcomes(workspace, several::names(workspace, &Selection::All), &RunOptions::default(), bars).await;
    printer.data(&format!("\n{}\n{}", printer.heading("Day one: insightera run --all"), run::summary(&outcomes)))?;
    stop_on_failure(&outcomes, printer)?;
    let ours = outcomes.iter().filter(|(name, _)| name == PIPELINE).find_map(|(_, o)| o.as_ref().ok()?.snapshot_id);
    ours.ok_or_else(|| Error::internal(format!("the first run of `{PIPELINE}` committed nothing")).into())
}

async fn next_day(
    workspace: &Workspace,
    university: &University,
    printer: &Printer,
    bars: &Bars,
) -> anyhow::Result<()> {
    let bar = bars.bar("a day passes");
    let day = university.next_day();
    gold::apply(workspace, university, &day)?;
    bar.stage("plan", None);
    let plan = score::plan(workspace, PIPELINE, &RunOptions::default()).await?;
    bar.finish();
    let NextDaySummary { changed, added, withdrawn } = day.summary;
    let heading = format!(
        "The next day: {} students have new grades or attendance, {} arrived, {} withdrew",
        text::count(changed),
        text::count(added),
        text::count(withdrawn)
    );
    printer.data(&format!("\n{}\n{}", printer.heading(&heading), plan::block(&plan, printer)))?;

    let outcomes =
        run::outcomes(workspace, several::names(workspace, &Selection::All), &RunOptions::default(), bars).await;
    stop_on_failure(&outcomes, printer)?;
    let (ours, others): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|(name, _)| name == PIPELINE);
    let unchanged = others.iter().filter(|(_, o)| o.as_ref().is_ok_and(|r| r.status == RunStatus::Unchanged)).count();
    let verified = verify::outcomes(workspace, several::names(workspace, &Selection::All), bars).await;
    stop_on_failure(&verified, printer)?;
    let right = verified.iter().filter(|(_, o)| o.as_ref().is_ok_and(|r| r.ok)).count();
    printer.data(&format!(
        "\n{}\n{}the other {} pipelines: {unchanged} unchanged, nothing scored; insightera verify --all: {right} of {} right\n",
        printer.heading("insightera run --all"),
        run::summary(&ours),
        others.len(),
        verified.len()
    ))?;
    if right != verified.len() {
        return Err(Error::internal("the predictions are not what the features say")
            .hint("`insightera verify --all` names them")
            .into());
    }
    Ok(())
}

/// Shows what changed; says the student whose risk rose most.
async fn compare(workspace: &Workspace, day_one: i64, printer: &Printer) -> anyhow::Result<String> {
    let by_category = format!(
        "SELECT risk_category AS risk, count(one) AS day_one, count(two) AS day_two, count(two) - count(one) AS change \
         FROM (SELECT risk_category, risk_score, 1 AS one, NULL AS two FROM {TABLE} VERSION AS OF {day_one} \
         UNION ALL SELECT risk_category, risk_score, NULL, 1 FROM {TABLE}_current) \
         GROUP BY risk_category ORDER BY min(risk_score)"
    );
    let rose_most = format!(
        "SELECT two.nim FROM {TABLE}_current AS two JOIN {TABLE} VERSION AS OF {day_one} AS one ON one.nim = two.nim \
         ORDER BY two.dropout_probability - one.dropout_probability DESC, two.nim LIMIT 1"
    );
    let student = first_value(workspace, &rose_most).await?;
    printer.data(&format!(
        "\n{}\n{}\n{}\n{}",
        printer.heading(&format!("Two days of predictions in one query (day one is VERSION AS OF {day_one})")),
        table(workspace, &by_category).await?,
        printer.heading(&format!("The student whose risk rose most, {student}")),
        table(workspace, &history_of(&student)).await?
    ))?;
    Ok(student)
}

/// Scores events as they come, and shows them beside the nightly predictions.
async fn events(
    workspace: &Workspace,
    university: &University,
    demo: &Demo,
    printer: &Printer,
    bars: &Bars,
) -> anyhow::Result<()> {
    // Someone who was always there, and whom the model sees between the risks.
    let regular = format!(
        "SELECT known.nim FROM {TABLE}_current AS known \
         JOIN student_features.attendance_features AS attendance ON attendance.nim = known.nim \
         ORDER BY coalesce(attendance.attendance_rate_7d, 0) DESC, abs(known.dropout_probability - 0.25), known.nim \
         LIMIT 1"
    );
    let absent = first_value(workspace, &regular).await?;
    let outcomes = live::events(workspace, university, &demo.dir, &absent, demo.events_for, bars).await?;
    stop_on_failure(&outcomes, printer)?;
    let lines: String = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).map(stream::line).collect();
    let unusual = format!(
        "SELECT entity_id AS unit, round(z_score, 1) AS z_score, anomaly_reason FROM {ALERTS} \
         ORDER BY z_score DESC LIMIT 3"
    );
    printer.data(&format!(
        "\n{}\n{lines}{}\n{}\n{}",
        printer.heading(&format!("{} seconds of events: insightera stream", demo.events_for)),
        table(workspace, &unusual).await?,
        printer.heading(&format!(
            "Student {absent} misses {} lectures: every event beside the night's prediction",
            live::ABSENCES
        )),
        table(workspace, &events_of(&absent)).await?,
    ))?;
    Ok(())
}

/// A student's predictions at the first event and some later ones, with the
/// newest of the batch.
fn events_of(student: &str) -> String {
    format!(
        "SELECT live.event_timestamp, live.event_count_7d AS events_7d, \
         live.attendance_rate_7d_realtime AS attendance_7d, round(batch.dropout_probability, 3) AS last_night, \
         round(live.dropout_probability, 3) AS now, live.risk_category \
         FROM {LIVE_TABLE} AS live JOIN {TABLE}_current AS batch ON batch.nim = live.nim \
         WHERE live.nim = '{student}' AND live.event_count_7d IN (1, 4, 7, 10) ORDER BY live.event_timestamp"
    )
}

async fn first_value(workspace: &Workspace, statement: &str) -> anyhow::Result<String> {
    let result = sql::query(workspace, statement).await?;
    let csv = text::batches_csv(&result.schema, &result.batches)?;
    Ok(csv.lines().nth(1).unwrap_or_default().to_owned())
}

fn history_of(student: &str) -> String {
    format!(
        "SELECT prediction_timestamp, score_reason, risk_score, risk_category, model_version, feature_timestamp \
         FROM {TABLE} WHERE nim = '{student}' ORDER BY prediction_timestamp"
    )
}

async fn table(workspace: &Workspace, statement: &str) -> anyhow::Result<String> {
    let result = sql::query(workspace, statement).await?;
    Ok(text::batches_table(&result.schema, &result.batches, 20)?)
}

/// The errors are printed; the story cannot go on.
fn stop_on_failure<T>(outcomes: &several::Outcomes<T>, printer: &Printer) -> anyhow::Result<()> {
    match report_failures(outcomes, printer) {
        0 => Ok(()),
        code => {
            let kind =
                if code == 1 { insightera_core::ErrorKind::Invalid } else { insightera_core::ErrorKind::Internal };
            Err(Error::new(kind, "the demo stops here")
                .hint("`insightera demo` in the same folder starts it again")
                .into())
        }
    }
}

fn next_steps(dir: &Path, finished: &Finished, printer: &Printer) -> String {
    let Finished { day_one_snapshot, student } = finished;
    format!(
        "{}\n  cd {}\n  insightera table list\n  insightera model show student_dropout_risk_model\n  \
         insightera model promote student_dropout_risk_model 2      # then: plan, run, verify dropout_risk\n  \
         insightera table history {TABLE}\n  \
         insightera stream --until-end; insightera stream status     # after lines of your own in events/\n  \
         insightera sql \"SELECT * FROM {TABLE}_current WHERE nim = '{student}'\"\n  \
         insightera sql \"SELECT count(*) FROM {TABLE} VERSION AS OF {day_one_snapshot}\"\n  \
         cd - && insightera demo --clean --dir {}                   # removes it all\n",
        printer.heading("Try next"),
        dir.display(),
        dir.display()
    )
}

/// A finished demo: its state and what to try.
pub async fn again(workspace: &Workspace, dir: &Path, marker: &Marker, printer: &Printer) -> anyhow::Result<Answer> {
    let Some(finished) = &marker.finished else { return Ok(Answer::silent()) };
    let state = format!(
        "SELECT risk_category AS risk, count(*) AS students FROM {TABLE}_current GROUP BY 1 ORDER BY min(risk_score)"
    );
    let heading = format!(
        "`{}` holds this demo already: {} students, seed {}",
        dir.display(),
        text::count(marker.students),
        marker.seed
    );
    Ok(Answer::done(format!(
        "{}\n\n{}\n{}",
        printer.heading(&heading),
        table(workspace, &state).await?,
        next_steps(dir, finished, printer)
    )))
}
