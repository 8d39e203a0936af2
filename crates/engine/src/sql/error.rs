//! Errors of the SQL engine, told with the place in the text.

use datafusion::common::DataFusionError;
use insightera_core::ErrorKind;

use crate::Error;

/// Turns an error of planning or running `sql` into ours. `what` says which
/// text it was, for example a file.
pub fn plan_error(what: &str, sql: &str, error: DataFusionError) -> Error {
    if let Some(ours) = own_error(&error) {
        return ours;
    }
    let (text, place) = describe(&error);
    // A statement that ends too early is wrong at its end.
    let end = || {
        let last = sql.lines().count().max(1);
        (last, sql.lines().last().unwrap_or("").chars().count() + 1)
    };
    let place = place.or_else(|| text.ends_with("found: EOF").then(end));
    let mut message = format!("{what}: {text}");
    if let Some((line, column)) = place {
        message.push_str(&format!(" (line {line}, column {column})"));
        message.push_str(&format!("\n{}", location(sql, line, column)));
    }
    let kind = match error.find_root() {
        DataFusionError::Internal(_) => ErrorKind::Internal,
        DataFusionError::ResourcesExhausted(_) => ErrorKind::Unavailable,
        DataFusionError::ParquetError(_) | DataFusionError::ObjectStore(_) => ErrorKind::Data,
        _ => ErrorKind::Invalid,
    };
    let new = Error::new(kind, message);
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => {
            new.hint("raise `[run] memory` in insightera.toml, or lower `[run] threads`")
        }
        DataFusionError::ParquetError(_) => new.hint("a Parquet file is damaged: restore it or write it again"),
        _ => new,
    }
}

/// An error of ours that travelled through the engine.
fn own_error(error: &DataFusionError) -> Option<Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(ours) = current.downcast_ref::<Error>() {
            let copy = Error::new(ours.kind(), ours.to_string());
            return Some(match ours.get_hint() {
                Some(hint) => copy.hint(hint),
                None => copy,
            });
        }
        next = match current.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Context(_, inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
            _ => current.source(),
        };
    }
    None
}

fn describe(error: &DataFusionError) -> (String, Option<(usize, usize)>) {
    let text = error.strip_backtrace();
    let text = text.lines().next().unwrap_or_default();
    let mut text = text
        .trim_start_matches("SQL error: ")
        .trim_start_matches("External error: ")
        .trim_start_matches("Error during planning: ")
        .trim_start_matches("Schema error: ")
        .to_owned();
    for (from, to) in [("ParserError(\"", "\")"), ("TokenizerError(\"", "\")")] {
        if let Some(inner) = text.strip_prefix(from).and_then(|t| t.strip_suffix(to)) {
            text = format!("syntax error: {inner}");
        }
    }
    let place = place(&text)
        .or_else(|| error.diagnostic().and_then(|d| d.span).map(|s| (s.start.line as usize, s.start.column as usize)));
    if let Some(at) = text.find(" at Line:") {
        text.truncate(at);
    }
    (text, place)
}

/// `… at Line: 3, Column: 7` as the parser writes it.
fn place(text: &str) -> Option<(usize, usize)> {
    let rest = &text[text.rfind("Line: ")? + 6..];
    let (line, rest) = rest.split_once(", Column: ")?;
    let column: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((line.trim().parse().ok()?, column.parse().ok()?))
}

/// The line of `sql` with a caret under the column, both counted from 1.
pub fn location(sql: &str, line: usize, column: usize) -> String {
    let text = sql.lines().nth(line.saturating_sub(1)).unwrap_or("");
    let number = line.to_string();
    let pad = " ".repeat(number.len());
    format!("{pad} |\n{number} | {text}\n{pad} | {}^", " ".repeat(column.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_shows_its_line_and_a_caret() {
        let sql = "SELECT a\nFROM t WHER b = 1";
        let error = datafusion::sql::parser::DFParser::parse_sql(sql).unwrap_err();
        let shown = plan_error("pipelines/x.toml", sql, error).to_string();
        assert!(shown.contains("2 | FROM t WHER b = 1"), "{shown}");
        assert!(shown.lines().last().unwrap().ends_with('^'), "{shown}");
    }
}
