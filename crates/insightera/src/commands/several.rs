//! One pipeline or all of them, side by side; one that fails does not stop
//! the others.

use std::future::Future;

use anyhow::anyhow;
use insightera_engine::Workspace;
use insightera_engine::config::PipelineKind;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{Answer, json_text};
use crate::cli::ReportFormat;
use crate::failure;
use crate::printer::Printer;
use crate::resolve::Selection;

/// The outcome of every pipeline, by name.
pub type Outcomes<T> = Vec<(String, anyhow::Result<T>)>;

/// The names of a selection of batch pipelines. That a project has none is said by the caller.
pub fn names(workspace: &Workspace, selection: &Selection) -> Vec<String> {
    match selection {
        Selection::One(name) => vec![name.clone()],
        Selection::All => workspace.project().names_of(PipelineKind::Batch).map(str::to_owned).collect(),
    }
}

/// Runs `work` for all names, each as a task of its own; in the order of the
/// names.
pub async fn in_parallel<T, W, F>(names: Vec<String>, work: W) -> Outcomes<T>
where
    T: Send + 'static,
    W: Fn(String) -> F,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (index, name) in names.iter().enumerate() {
        let future = work(name.clone());
        tasks.spawn(async move { (index, future.await) });
    }
    let mut outcomes: Vec<Option<anyhow::Result<T>>> = names.iter().map(|_| None).collect();
    while let Some(joined) = tasks.join_next().await {
        if let Ok((index, outcome)) = joined {
            outcomes[index] = Some(outcome);
        }
    }
    let of = |outcome: Option<_>| outcome.unwrap_or_else(|| Err(anyhow!("the task stopped with a panic")));
    names.into_iter().zip(outcomes.into_iter().map(of)).collect()
}

/// The answer to outcomes: JSON as one object or an array, else the text that
/// `render` makes of those that succeeded. Errors go to standard error; the
/// worst decides the exit status.
pub fn answer<T: Serialize>(
    outcomes: Outcomes<T>,
    selection: &Selection,
    format: ReportFormat,
    printer: &Printer,
    render: impl Fn(&Outcomes<T>) -> String,
) -> anyhow::Result<Answer> {
    if *selection != Selection::All {
        let one: anyhow::Result<Outcomes<T>> =
            outcomes.into_iter().map(|(name, outcome)| Ok((name, Ok(outcome?)))).collect();
        let one = one?;
        return match (format, one.first()) {
            (ReportFormat::Json, Some((_, Ok(report)))) => Answer::json(report),
            _ => Ok(Answer::done(render(&one))),
        };
    }
    if outcomes.is_empty() {
        printer.warning("the project has no pipelines: a pipeline is a file `pipelines/NAME.toml`");
    }
    let exit_code = report_failures(&outcomes, printer);
    let text = match format {
        ReportFormat::Json => json_text(&objects(&outcomes)?)?,
        ReportFormat::Table => render(&outcomes),
    };
    Ok(Answer { text, exit_code })
}

/// Prints the errors and says the worst exit status.
pub fn report_failures<T>(outcomes: &Outcomes<T>, printer: &Printer) -> u8 {
    let mut worst = 0;
    for (name, outcome) in outcomes {
        if let Err(error) = outcome {
            let message = failure::message(error);
            // Most messages name the pipeline or its file themselves.
            let named = message.contains(&format!("`{name}`")) || message.contains(&format!("{name}.toml"));
            let prefix = if named { String::new() } else { format!("pipeline `{name}`: ") };
            printer.error(&format!("{prefix}{message}"));
            if let Some(hint) = failure::hint(error) {
                printer.hint(&hint);
            }
            worst = worst.max(failure::exit_code(error));
        }
    }
    worst
}

/// Reports and failures as JSON.
fn objects<T: Serialize>(outcomes: &Outcomes<T>) -> anyhow::Result<Vec<serde_json::Value>> {
    outcomes
        .iter()
        .map(|(name, outcome)| match outcome {
            Ok(report) => Ok(serde_json::to_value(report)?),
            Err(error) => Ok(failure::object(name, error)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use insightera_engine::Error;

    fn outcomes() -> Outcomes<u32> {
        vec![
            ("a".into(), Ok(1)),
            ("b".into(), Err(Error::invalid("wrong").into())),
            ("c".into(), Err(Error::internal("broken").into())),
        ]
    }

    #[test]
    fn the_worst_failure_decides_the_exit_status_and_all_are_shown() {
        let answer =
            answer(outcomes(), &Selection::All, ReportFormat::Json, &Printer::plain(), |_| String::new()).unwrap();
        assert_eq!(answer.exit_code, 2);
        let value: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(value[0], 1);
        assert_eq!((&value[1]["pipeline"], &value[1]["error"]), (&"b".into(), &"wrong".into()));
    }

    #[test]
    fn a_single_failure_is_the_error_of_the_command() {
        let one = outcomes().into_iter().skip(1).take(1).collect();
        let selection = Selection::One("b".into());
        let error = answer::<u32>(one, &selection, ReportFormat::Json, &Printer::plain(), |_| String::new());
        assert_eq!(failure::exit_code(&error.unwrap_err()), 1);
    }

    #[tokio::test]
    async fn a_panic_in_one_task_leaves_the_others() {
        let done = in_parallel(vec!["good".into(), "bad".into()], |name: String| async move {
            assert!(name != "bad", "on purpose");
            Ok(name)
        })
        .await;
        assert_eq!(done[0].1.as_deref().ok(), Some("good"));
        assert!(done[1].1.is_err());
    }
}
