//! `feature_views/NAME.toml`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::document::Document;
use super::section::Section;
use super::settings::split_table;
use crate::Result;

/// Features of an entity as they were at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FeatureView {
    /// The file's name without `.toml`.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// What it is for.
    pub description: Option<String>,
    /// The table or Parquet input with the rows, `namespace.table`.
    pub table: String,
    /// The columns that say whose features a row has; at least one.
    pub key: Vec<String>,
    /// The features; all other columns of the table where none are named.
    pub columns: Option<Vec<String>>,
    /// The column that says when the features became true.
    pub feature_time: String,
    /// When they became known.
    pub known_time: KnownTime,
    /// After how many microseconds features are no longer told.
    pub ttl_micros: Option<i64>,
}

/// When a row of features became known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownTime {
    /// A column says so.
    Column(String),
    /// When it became true.
    FeatureTime,
    /// When the commit that added it to the Iceberg table was made.
    Commit,
}

const KEYS: &[&str] = &["description", "table", "key", "columns", "feature_time", "known_time", "ttl"];
const SECTIONS: &[(&str, &[&str])] = &[("", KEYS)];

/// Words for spans of time, and their microseconds.
const UNITS: &[(&str, i64)] = &[
    ("second", 1_000_000),
    ("minute", 60_000_000),
    ("hour", 3_600_000_000),
    ("day", 86_400_000_000),
    ("week", 604_800_000_000),
];

impl FeatureView {
    /// Reads the view `name` from `file`; errors call the file `shown`.
    pub(super) fn read(name: &str, file: &Path, shown: String) -> Result<Self> {
        let document = Document::read(file, shown)?;
        let tree = document.parse()?;
        let top = Section::top(&document, &tree);
        top.allow(KEYS, SECTIONS)?;
        let table = top.required_text("table")?;
        split_table(table.value).map_err(|message| top.error(&table.span, message))?;
        let Some(key) = top.text_list("key")?.filter(|key| !key.is_empty()) else {
            return Err(top
                .missing("key")
                .hint("`key = [\"nim\"]` names the columns that say whose features a row has"));
        };
        let feature_time = top.required_text("feature_time")?;
        let known_time = match top.text("known_time")? {
            None => KnownTime::Commit,
            Some(word) if word.value == "feature_time" => KnownTime::FeatureTime,
            Some(column) => KnownTime::Column(column.value.to_owned()),
        };
        let columns = top.text_list("columns")?;
        for column in columns.iter().flatten() {
            let known = |name: &String| matches!(&known_time, KnownTime::Column(known) if known == name);
            let taken = key.iter().any(|k| k.value == column.value) || feature_time.value == column.value;
            if taken || known(&column.value.to_owned()) {
                let message = format!("`{}` is the key or a time, which every answer has", column.value.escape_debug());
                return Err(top.error(&column.span, message).hint("name only the features in `columns`"));
            }
        }
        let ttl_micros = match top.text("ttl")? {
            None => None,
            Some(text) => Some(parse_span(text.value).ok_or_else(|| {
                top.error(&text.span, format!("`{}` is not a span of time", text.value.escape_debug()))
                    .hint("write it as `\"90 days\"`, `\"12 hours\"` or `\"2 weeks\"`")
            })?),
        };
        let texts = |list: Vec<super::section::Located<&str>>| list.iter().map(|t| t.value.to_owned()).collect();
        Ok(Self {
            name: name.to_owned(),
            file: file.to_owned(),
            description: top.text("description")?.map(|text| text.value.to_owned()),
            table: table.value.to_owned(),
            key: texts(key),
            columns: columns.map(texts),
            feature_time: feature_time.value.to_owned(),
            known_time,
            ttl_micros,
        })
    }
}

/// `90 days` in microseconds.
fn parse_span(text: &str) -> Option<i64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('s').unwrap_or(&unit);
    let (_, micros) = UNITS.iter().find(|(word, _)| *word == unit)?;
    number.parse::<i64>().ok().filter(|n| *n > 0)?.checked_mul(*micros).filter(|m| *m < i64::MAX / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FeatureView> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grades.toml");
        std::fs::write(&file, text).unwrap();
        FeatureView::read("grades", &file, "feature_views/grades.toml".into())
    }

    const VIEW: &str = "table = \"gold.grades\"\nkey = [\"nim\"]\nfeature_time = \"at\"\n";

    #[test]
    fn a_view_has_a_table_a_key_and_a_time() {
        let view = read(VIEW).unwrap();
        assert_eq!((view.table.as_str(), view.key.len(), view.columns), ("gold.grades", 1, None));
        assert_eq!((view.known_time, view.ttl_micros), (KnownTime::Commit, None));
        let view = read(&format!("{VIEW}known_time = \"loaded\"\nttl = \"2 weeks\"\ncolumns = [\"gpa\"]")).unwrap();
        assert_eq!(view.known_time, KnownTime::Column("loaded".into()));
        assert_eq!(view.ttl_micros, Some(14 * 86_400_000_000));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, part) in [
            ("table = \"gold.grades\"\nfeature_time = \"at\"\n", "`key` is missing"),
            ("table = \"grades\"\nkey = [\"nim\"]\nfeature_time = \"at\"\n", "feature_views/grades.toml:1:9"),
            (&format!("{VIEW}ttl = \"soon\""), "`soon` is not a span of time"),
            (&format!("{VIEW}ttl = \"0 days\""), "feature_views/grades.toml:4:7"),
            (&format!("{VIEW}columns = [\"at\"]"), "`at` is the key or a time"),
            (&format!("{VIEW}tll = \"1 day\""), "unknown key `tll`"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
