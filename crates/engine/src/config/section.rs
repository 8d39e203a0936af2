//! One table of a parsed file, read key by key with errors that point.

use std::ops::Range;

use insightera_core::closest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Document;
use crate::{Error, Result};

/// A table of the file: its entries in the order of the file.
#[derive(Debug)]
pub(super) struct Section<'d> {
    document: &'d Document,
    path: String,
    span: Option<Range<usize>>,
    entries: Vec<Entry<'d>>,
}

/// One key and its value.
#[derive(Debug)]
pub(super) struct Entry<'d> {
    pub(super) key: &'d str,
    pub(super) key_span: Range<usize>,
    pub(super) value: &'d DeValue<'d>,
    pub(super) span: Range<usize>,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<'d> Section<'d> {
    /// The whole file.
    pub(super) fn top(document: &'d Document, tree: &'d Spanned<DeTable<'d>>) -> Self {
        Self::new(document, String::new(), None, tree.get_ref())
    }

    fn new(document: &'d Document, path: String, span: Option<Range<usize>>, table: &'d DeTable<'d>) -> Self {
        let mut entries: Vec<Entry<'d>> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().as_ref(),
                key_span: key.span(),
                value: value.get_ref(),
                span: value.span(),
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_span.start);
        Self { document, path, span, entries }
    }

    /// `[features]`, or `the file` at the top.
    pub(super) fn title(&self) -> String {
        if self.path.is_empty() { "the top level of the file".to_owned() } else { format!("[{}]", self.path) }
    }

    /// The entries in the order of the file.
    pub(super) fn entries(&self) -> &[Entry<'d>] {
        &self.entries
    }

    /// An error at `span`.
    pub(super) fn error(&self, span: &Range<usize>, message: impl AsRef<str>) -> Error {
        self.document.error(span.clone(), message)
    }

    /// An error about the section as a whole.
    pub(super) fn error_here(&self, message: impl AsRef<str>) -> Error {
        match &self.span {
            Some(span) => self.document.error(span.clone(), message),
            None => self.document.error_in_file(message),
        }
    }

    /// Refuses every key that is not in `allowed`. `sections` lists the keys of
    /// all sections, so that a key in the wrong place is told its place.
    pub(super) fn allow(&self, allowed: &[&str], sections: &[(&str, &[&str])]) -> Result<()> {
        let Some(entry) = self.entries.iter().find(|entry| !allowed.contains(&entry.key)) else {
            return Ok(());
        };
        let error =
            self.error(&entry.key_span, format!("unknown key `{}` in {}", entry.key.escape_debug(), self.title()));
        let elsewhere = sections.iter().find(|(path, keys)| *path != self.path && keys.contains(&entry.key));
        Err(match (closest(entry.key, allowed.iter().copied()), elsewhere) {
            (Some(near), _) => error.hint(format!("did you mean `{near}`?")),
            (None, Some(("", _))) => {
                error.hint(format!("`{}` belongs at the top of the file, before the first section", entry.key))
            }
            (None, Some((path, _))) => error.hint(format!("`{}` belongs in [{path}]", entry.key)),
            (None, None) => error.hint(format!("the keys of {} are {}", self.title(), quoted(allowed))),
        })
    }

    /// The entry of `key`, if the file has it.
    pub(super) fn find(&self, key: &str) -> Option<&Entry<'d>> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The table `key`.
    pub(super) fn section(&self, key: &str) -> Result<Option<Section<'d>>> {
        self.find(key).map(|entry| self.subsection(entry)).transpose()
    }

    /// The table in `entry`.
    pub(super) fn subsection(&self, entry: &Entry<'d>) -> Result<Section<'d>> {
        let path = if self.path.is_empty() { entry.key.to_owned() } else { format!("{}.{}", self.path, entry.key) };
        match entry.value {
            DeValue::Table(table) => Ok(Section::new(self.document, path, Some(entry.key_span.clone()), table)),
            _ => Err(self.wrong_type(entry, &format!("a section `[{path}]`"))),
        }
    }

    /// The table `key`, which must be there.
    pub(super) fn required_section(&self, key: &str) -> Result<Section<'d>> {
        match self.section(key)? {
            Some(section) => Ok(section),
            None => {
                let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
                Err(self.error_here(format!("the section [{path}] is missing")))
            }
        }
    }

    /// A string that is not blank.
    pub(super) fn text(&self, key: &str) -> Result<Option<Located<&'d str>>> {
        self.find(key).map(|entry| self.text_of(entry)).transpose()
    }

    /// A string that is not blank and must be there.
    pub(super) fn required_text(&self, key: &str) -> Result<Located<&'d str>> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    /// The string in `entry`, which must not be blank.
    pub(super) fn text_of(&self, entry: &Entry<'d>) -> Result<Located<&'d str>> {
        let DeValue::String(text) = entry.value else {
            return Err(self.wrong_type(entry, "a string"));
        };
        if text.trim().is_empty() {
            return Err(self.error(&entry.span, format!("`{}` is empty", entry.key.escape_debug())));
        }
        Ok(Located { value: text.as_ref(), span: entry.span.clone() })
    }

    /// An array of strings, none blank, none twice.
    pub(super) fn text_list(&self, key: &str) -> Result<Option<Vec<Located<&'d str>>>> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        let DeValue::Array(array) = entry.value else {
            return Err(self.wrong_type(entry, "an array of strings, as in `[\"a\", \"b\"]`"));
        };
        let mut list: Vec<Located<&'d str>> = Vec::with_capacity(array.len());
        for item in array {
            let DeValue::String(text) = item.get_ref() else {
                let message = format!("`{key}` must hold strings, found {}", described(item.get_ref()));
                return Err(self.error(&item.span(), message));
            };
            if text.trim().is_empty() {
                return Err(self.error(&item.span(), format!("`{key}` holds an empty string")));
            }
            if list.iter().any(|seen| seen.value == text.as_ref()) {
                return Err(self.error(&item.span(), format!("`{key}` names `{}` twice", text.escape_debug())));
            }
            list.push(Located { value: text.as_ref(), span: item.span() });
        }
        Ok(Some(list))
    }

    /// An integer within `range`.
    pub(super) fn integer(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<Located<u64>>> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        let DeValue::Integer(integer) = entry.value else {
            return Err(self.wrong_type(entry, "an integer"));
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(value) if range.contains(&value) => Ok(Some(Located { value, span: entry.span.clone() })),
            _ => {
                let limits = match *range.end() {
                    u64::MAX => format!("{} or more", range.start()),
                    end => format!("from {} to {end}", range.start()),
                };
                Err(self.error(&entry.span, format!("`{key}` must be {limits}, found {integer}")))
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        entry.value.as_bool().map(Some).ok_or_else(|| self.wrong_type(entry, "true or false"))
    }

    /// One of a closed set of words; `reserved` are words for later versions.
    pub(super) fn choice<T: Copy>(&self, key: &str, values: &[(&str, T)], reserved: &[&str]) -> Result<Option<T>> {
        let Some(found) = self.text(key)? else { return Ok(None) };
        if let Some((_, value)) = values.iter().find(|(name, _)| *name == found.value) {
            return Ok(Some(*value));
        }
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        if reserved.contains(&found.value) {
            let error = self.error(&found.span, format!("`{key} = \"{}\"` is not supported yet", found.value));
            return Err(error.hint(format!("this version supports {}", quoted(&names))));
        }
        let message = format!("`{}` is not a value of `{key}`", found.value.escape_debug());
        let error = self.error(&found.span, message);
        let valid = format!("the values of `{key}` are {}", quoted(&names));
        Err(match closest(found.value, names.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`? {valid}")),
            None => error.hint(valid),
        })
    }

    /// The error of a required key that is not there.
    pub(super) fn missing(&self, key: &str) -> Error {
        self.error_here(format!("`{key}` is missing in {}", self.title()))
    }

    /// The error of a value of the wrong type.
    pub(super) fn wrong_type(&self, entry: &Entry<'_>, expected: &str) -> Error {
        let found = described(entry.value);
        self.error(&entry.span, format!("`{}` must be {expected}, found {found}", entry.key.escape_debug()))
    }
}

/// `an integer`, `a string`, ...
fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// `` `a`, `b` ``
pub(super) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
