//! The SQL prompt.

use insightera_engine::sql::Shell;
use insightera_engine::{Error, Workspace};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::super::Answer;
use super::statements::{is_blank, take_complete};
use super::{cut, rendered};
use crate::cli::Format;
use crate::failure;
use crate::printer::Printer;
use crate::resolve::Shown;
use crate::text;

/// More rows than these are counted, not shown, unless `--limit` says otherwise;
/// `--format` and a statement on the command line show all.
const SHOWN_ROWS: usize = 100;

const HELP: &str = "\
statements end with `;`
\\d         tables, inputs and what they hold
\\d TABLE   the columns of a table
\\q         quit (or Ctrl-D)";

/// Reads and runs statements until the end of input.
pub async fn prompt(workspace: &Workspace, shown: Shown, printer: &Printer) -> anyhow::Result<Answer> {
    let cannot = |e: ReadlineError| Error::unavailable("the prompt cannot be started").cause(e);
    let mut editor = DefaultEditor::new().map_err(cannot)?;
    let history = workspace.cache().join("sql_history");
    // A history that cannot be read or kept is no reason to stop.
    let _ = std::fs::create_dir_all(workspace.cache());
    let _ = editor.load_history(&history);
    printer.message("SQL over the lake; statements end with `;`, \\? for help, \\q to quit");
    let mut pending = String::new();
    let mut shell = Shell::new(workspace);
    loop {
        let line = match editor.readline(if pending.is_empty() { "insightera> " } else { "       ...> " }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(Error::unavailable("the terminal cannot be read").cause(error).into()),
        };
        if pending.is_empty() && line.trim_start().starts_with('\\') {
            let _ = editor.add_history_entry(line.trim());
            if !command(workspace, line.trim(), printer).await? {
                break;
            }
            continue;
        }
        pending.push_str(&line);
        pending.push('\n');
        let (complete, rest) = take_complete(&pending);
        let rest = if is_blank(rest) { String::new() } else { rest.to_owned() };
        if !complete.is_empty() {
            let _ = editor.add_history_entry(pending.trim());
        }
        pending = rest;
        for statement in complete.iter().filter(|statement| !is_blank(statement)) {
            match answer(workspace, &mut shell, statement, shown).await {
                Ok(text) => printer.data(&text)?,
                Err(error) => failure::report(printer, &error),
            }
        }
    }
    let _ = editor.save_history(&history);
    Ok(Answer::silent())
}

async fn answer(workspace: &Workspace, shell: &mut Shell<'_>, statement: &str, shown: Shown) -> anyhow::Result<String> {
    let start = workspace.clock().monotonic_seconds();
    let mut result = shell.run(statement).await?;
    let limit = shown.limit.unwrap_or(if shown.format == Format::Table { SHOWN_ROWS } else { usize::MAX });
    let rows = cut(&mut result, limit);
    if shown.format != Format::Table {
        return Ok(rendered(&result, shown.format)?);
    }
    let mut text = text::batches_table(&result.schema, &result.batches, limit)?;
    let shown = if rows > limit { format!(", the first {limit} shown") } else { String::new() };
    let time = text::seconds(workspace.clock().monotonic_seconds() - start);
    let noun = if rows == 1 { "row" } else { "rows" };
    text.push_str(&format!("({} {noun}{shown}, {time})\n", text::count(rows as u64)));
    Ok(text)
}

/// Runs a backslash command; `false` ends the prompt.
async fn command(workspace: &Workspace, line: &str, printer: &Printer) -> anyhow::Result<bool> {
    let mut words = line.trim_end_matches(';').split_whitespace();
    let outcome = match (words.next(), words.next()) {
        (Some("\\q" | "\\quit"), _) => return Ok(false),
        (Some("\\d"), None) => super::super::table::listing(workspace).await,
        (Some("\\d"), Some(table)) => super::super::table::description(workspace, table).await,
        (Some("\\?" | "\\h" | "\\help"), _) => Ok(format!("{HELP}\n")),
        (other, _) => Err(Error::invalid(format!("there is no command `{}`", other.unwrap_or_default()))
            .hint("\\? lists them")
            .into()),
    };
    match outcome {
        Ok(text) => printer.data(&text)?,
        Err(error) => failure::report(printer, &error),
    }
    Ok(true)
}
