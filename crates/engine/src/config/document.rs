//! A configuration file: its text, and errors that point into it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use crate::{Error, Result};

/// A configuration or SQL file larger than this is not one.
const MAX_BYTES: u64 = 4 << 20;

/// Lines longer than this are shown as a window around the error.
const SHOWN_CHARS: usize = 120;

/// The text of a file and the name under which errors show it.
#[derive(Debug)]
pub(super) struct Document {
    shown: String,
    text: String,
}

impl Document {
    /// Reads `path`; errors call it `shown`.
    pub(super) fn read(path: &Path, shown: impl Into<String>) -> Result<Self> {
        let shown = shown.into();
        let text = read_text(path, &shown)?;
        Ok(Self { shown, text })
    }

    /// The file's name in messages.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The parse tree with positions.
    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'_>>> {
        DeTable::parse(&self.text).map_err(|error| {
            let message = error.message().replace('\n', "; ");
            match error.span() {
                Some(span) => self.error(span, format!("not valid TOML: {message}")),
                None => self.error_in_file(format!("not valid TOML: {message}")),
            }
        })
    }

    /// An error about the file as a whole.
    pub(super) fn error_in_file(&self, message: impl AsRef<str>) -> Error {
        Error::invalid(format!("{}: {}", self.shown, message.as_ref()))
    }

    /// An error at a byte range of the text: position, message, and the line
    /// with a caret under it.
    pub(super) fn error(&self, span: Range<usize>, message: impl AsRef<str>) -> Error {
        let place = Place::of(&self.text, span);
        let mut text = format!("{}:{}:{}: {}", self.shown, place.line, place.column, message.as_ref());
        place.draw(&mut text);
        Error::invalid(text)
    }
}

/// Where a byte range begins, counted in characters from 1.
struct Place<'t> {
    line: usize,
    column: usize,
    content: &'t str,
    carets: usize,
}

impl<'t> Place<'t> {
    fn of(text: &'t str, span: Range<usize>) -> Self {
        let floor = |index: usize| (0..=index.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let start = floor(span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let content = text[line_start..line_end].trim_end_matches('\r');
        let end = floor(span.end).clamp(start, line_start.max(start).max(line_end));
        Self {
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            content,
            carets: text[start..end].trim_end().chars().count().max(1),
        }
    }

    /// Appends the line and carets, `compiler style`; control characters are
    /// made harmless, tabs are kept so that the carets stay aligned.
    fn draw(&self, out: &mut String) {
        let characters: Vec<char> = self
            .content
            .chars()
            .map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
            .collect();
        let before = self.column - 1;
        let first = if characters.len() > SHOWN_CHARS { before.saturating_sub(SHOWN_CHARS / 2) } else { 0 };
        let last = characters.len().min(first + SHOWN_CHARS);
        let window: String = characters.get(first..last).unwrap_or_default().iter().collect();
        let padding: String = characters
            .get(first..before.min(characters.len()))
            .unwrap_or_default()
            .iter()
            .map(|c| if *c == '\t' { '\t' } else { ' ' })
            .collect();
        let carets = "^".repeat(self.carets.min(last.saturating_sub(before).max(1)));
        let gutter = self.line.to_string();
        let blank = " ".repeat(gutter.len());
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{blank} |\n{gutter} | {window}\n{blank} | {padding}{carets}");
    }
}

/// The UTF-8 text of a file without its byte order mark.
pub(super) fn read_text(path: &Path, shown: &str) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| read_error(shown, error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::invalid(format!("{shown}: larger than {} MiB", MAX_BYTES >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::invalid(format!("{shown}:{line}: not UTF-8 text")).hint("save the file with the encoding UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn read_error(shown: &str, error: io::Error) -> Error {
    let failure = match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!("{shown}: no such file")),
        io::ErrorKind::IsADirectory => Error::invalid(format!("{shown}: a folder, not a file")),
        _ => Error::unavailable(format!("{shown}: cannot be read")),
    };
    failure.cause(error)
}
