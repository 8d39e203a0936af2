//! `sql`: statements from the command line, a file, standard input or a prompt.

mod prompt;
mod statements;

use std::io::Read;
use std::path::Path;

use insightera_engine::sql::{QueryResult, Shell};
use insightera_engine::{Error, Result, Workspace};

use super::Answer;
use crate::cli::Format;
use crate::printer::Printer;
use crate::progress::Bars;
use crate::resolve::{Shown, SqlSource};
use crate::text;

/// Runs the statements of a source.
pub async fn sql(workspace: &Workspace, source: &SqlSource, shown: Shown, printer: &Printer) -> anyhow::Result<Answer> {
    let text = match source {
        SqlSource::Prompt => return prompt::prompt(workspace, shown, printer).await,
        SqlSource::Statement(text) => text.clone(),
        SqlSource::File(path) => read_file(path)?,
        SqlSource::Input => read_input()?,
    };
    let statements = statements::split(&text);
    if statements.is_empty() {
        return Err(Error::invalid("there is no SQL statement")
            .hint("`insightera sql \"SELECT 1\"`; on a terminal `insightera sql` alone is a prompt")
            .into());
    }
    if statements.len() > 1 && shown.format != Format::Table {
        return Err(Error::invalid(format!(
            "there are {} statements, and only the first could be answered as data",
            statements.len()
        ))
        .hint("with --format json or csv give one statement at a time")
        .into());
    }
    let mut answers = Vec::new();
    let mut shell = Shell::new(workspace);
    for statement in statements {
        let bar = Bars::new(printer).bar("sql");
        bar.stage("query", None);
        let start = workspace.clock().monotonic_seconds();
        let result = shell.run(&statement).await;
        let took = workspace.clock().monotonic_seconds() - start;
        bar.finish();
        let mut result = result?;
        let limit = shown.limit.unwrap_or(usize::MAX);
        let rows = cut(&mut result, limit);
        if shown.timing {
            printer.message(&format!("{rows} rows in {took:.6} s"));
        }
        if rows > limit {
            printer.message(&format!("the first {limit} of {} rows are shown", text::count(rows as u64)));
        }
        answers.push(rendered(&result, shown.format)?);
    }
    Ok(Answer::done(answers.join("\n")))
}

/// Leaves the first rows; how many there were.
fn cut(result: &mut QueryResult, limit: usize) -> usize {
    let rows = result.batches.iter().map(|batch| batch.num_rows()).sum();
    let mut left = limit;
    for batch in &mut result.batches {
        *batch = batch.slice(0, left.min(batch.num_rows()));
        left -= batch.num_rows();
    }
    rows
}

fn rendered(result: &QueryResult, format: Format) -> Result<String> {
    match format {
        Format::Table => text::batches_table(&result.schema, &result.batches, usize::MAX),
        Format::Json => text::batches_json(&result.batches),
        Format::Csv => text::batches_csv(&result.schema, &result.batches),
    }
}

fn read_file(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("there is no file `{}`", path.display())),
        _ => Error::unavailable(format!("the file `{}` cannot be read", path.display())).cause(e),
    })
}

fn read_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|e| Error::unavailable("standard input cannot be read").cause(e))?;
    Ok(text)
}
