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
use crate::resolve::SqlSource;
use crate::text;

/// Runs the statements of a source.
pub async fn sql(
    workspace: &Workspace,
    source: &SqlSource,
    format: Format,
    printer: &Printer,
) -> anyhow::Result<Answer> {
    let text = match source {
        SqlSource::Prompt => return prompt::prompt(workspace, format, printer).await,
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
    if statements.len() > 1 && format != Format::Table {
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
        let result = shell.run(&statement).await;
        bar.finish();
        answers.push(rendered(&result?, format)?);
    }
    Ok(Answer::done(answers.join("\n")))
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
