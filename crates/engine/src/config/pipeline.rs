//! `pipelines/NAME.toml`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use insightera_core::validate_name;
use serde::Serialize;

use super::document::{Document, read_text};
use super::partition::PartitionTransform;
use super::section::{Located, Section};
use super::settings::{split_table, time_zone};
use super::stream::StreamPipeline;
use crate::Result;

/// A configured flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pipeline {
    /// The file's name without `.toml`.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// What it is for.
    pub description: Option<String>,
    /// What scores; `None` is a rule in SQL.
    pub model: Option<ModelRef>,
    /// The columns that say what a prediction is about; at least one.
    pub entity_key: Vec<String>,
    /// What goes in.
    pub features: Features,
    /// What comes out.
    pub output: Output,
}

/// How a pipeline runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineKind {
    /// In runs over all changed entities.
    Batch,
    /// For ever, event by event.
    Stream,
}

/// A model by name and selector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelRef {
    /// The registered model.
    pub name: String,
    /// Which of its versions.
    pub selector: Selector,
    /// Whether each prediction says why.
    pub explain: Option<Explain>,
}

/// The reasons that come with a prediction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explain {
    /// How many, at most.
    pub top: usize,
    /// The word for what is scored, as in `raises the risk`.
    pub score: String,
}

/// Which version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// The version that an alias points to.
    Alias(String),
    /// A fixed version.
    Version(u64),
}

/// What goes into a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Features {
    /// The text of the query.
    pub sql: String,
    /// The file the text came from, if it is not inline.
    pub sql_file: Option<PathBuf>,
    /// The column that says when a feature became true.
    pub feature_time: Option<String>,
    /// The column that says when a feature became known; for Parquet inputs
    /// also the word `feature_time`.
    pub known_time: Option<String>,
    /// Columns whose change scores nothing again.
    pub unhashed: Vec<String>,
    /// How changed entities are found.
    pub strategy: Strategy,
    /// What a new model version does to old rows.
    pub on_model_change: OnModelChange,
    /// What two rows of one entity mean.
    pub duplicates: Duplicates,
    /// The zone of inputs without one.
    pub time_zone: String,
}

/// How changed entities are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// `Snapshot` where it is exact, else `Hash`.
    Auto,
    /// Candidates from the diffs of the inputs' snapshots.
    Snapshot,
    /// All features are evaluated and compared.
    Hash,
    /// Rows from the largest consumed feature time on.
    Timestamp,
    /// Every entity is scored.
    Full,
}

/// What a new model version does to rows of an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnModelChange {
    /// They are scored again.
    Rescore,
    /// They stay current.
    NewOnly,
}

/// What two rows of one entity mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// The run stops.
    Error,
    /// The row with the latest feature time wins.
    Latest,
}

/// What comes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    /// The table's namespace.
    pub namespace: String,
    /// The table's name in it.
    pub table: String,
    /// The partition spec of a new table.
    pub partition_by: Vec<PartitionTransform>,
    /// Properties of a new table.
    pub properties: BTreeMap<String, String>,
    /// Column name and SQL expression, in the order of the file.
    pub columns: Vec<(String, String)>,
}

const STRATEGIES: &[(&str, Strategy)] = &[
    ("auto", Strategy::Auto),
    ("snapshot", Strategy::Snapshot),
    ("hash", Strategy::Hash),
    ("timestamp", Strategy::Timestamp),
    ("full", Strategy::Full),
];
const ON_MODEL_CHANGE: &[(&str, OnModelChange)] =
    &[("rescore", OnModelChange::Rescore), ("new_only", OnModelChange::NewOnly)];
const DUPLICATES: &[(&str, Duplicates)] = &[("error", Duplicates::Error), ("latest", Duplicates::Latest)];

/// The keys of a pipeline file.
const SECTIONS: &[(&str, &[&str])] = &[
    ("", &["kind", "description", "model", "entity", "features", "output"]),
    ("model", &["name", "alias", "version", "explain"]),
    ("model.explain", &["top", "score"]),
    ("entity", &["key"]),
    (
        "features",
        &[
            "sql",
            "sql_file",
            "feature_time",
            "known_time",
            "unhashed",
            "strategy",
            "on_model_change",
            "duplicates",
            "time_zone",
        ],
    ),
    ("output", &["table", "partition_by", "properties", "columns"]),
];

/// Columns that every prediction table has and the engine fills; a pipeline
/// cannot define them.
pub const RESERVED_COLUMNS: &[&str] =
    &["pipeline", "model_name", "run_id", "score_reason", "feature_hash", "definition_hash", "variant", "propensity"];

/// Columns that the engine may fill when the pipeline does not.
const IMPLICIT_COLUMNS: &[&str] =
    &["prediction_timestamp", "prediction_date", "model_version", "inference_type", "reasons"];

/// Reasons of a prediction; more than these nobody reads.
const MAX_REASONS: u64 = 20;

fn keys_of(section: &str) -> &'static [&'static str] {
    keys_in(SECTIONS, section)
}

/// The keys that `sections` lists of one section.
pub(super) fn keys_in(sections: &[(&str, &'static [&'static str])], section: &str) -> &'static [&'static str] {
    sections.iter().find(|(path, _)| *path == section).map_or(&[], |(_, keys)| keys)
}

impl Strategy {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        word(STRATEGIES, self)
    }
}

impl OnModelChange {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        word(ON_MODEL_CHANGE, self)
    }
}

impl Duplicates {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        word(DUPLICATES, self)
    }
}

fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], wanted: T) -> &'static str {
    words.iter().find(|(_, value)| *value == wanted).map_or("", |(word, _)| word)
}

impl Output {
    /// `namespace.table`
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.namespace, self.table)
    }
}

impl Pipeline {
    /// Reads the pipeline `name` from `file`; errors call the file `shown`.
    pub(super) fn read(name: &str, file: &Path, shown: String) -> Result<Self> {
        let document = Document::read(file, shown)?;
        let tree = document.parse()?;
        let top = Section::top(&document, &tree);
        if read_kind(&top)? == PipelineKind::Stream {
            let error = document.error_in_file(format!("`{name}` is a stream, not a batch pipeline"));
            return Err(error.hint(format!("`insightera stream {name}` runs it")));
        }
        top.allow(keys_of(""), SECTIONS)?;

        let entity = top.required_section("entity")?;
        let key = read_entity(&entity)?;
        let features = top.required_section("features")?;
        let output = top.required_section("output")?;
        Ok(Self {
            name: name.to_owned(),
            file: file.to_owned(),
            description: top.text("description")?.map(|text| text.value.to_owned()),
            model: top.section("model")?.map(|model| read_model(&model)).transpose()?,
            features: read_features(&features, &key, file, &document)?,
            output: read_output(&output, &entity, &key)?,
            entity_key: key.into_iter().map(|column| column.value.to_owned()).collect(),
        })
    }
}

/// How the pipeline in a file runs.
fn read_kind(top: &Section<'_>) -> Result<PipelineKind> {
    top.required_text("kind")?;
    let kinds = [("batch", PipelineKind::Batch), ("stream", PipelineKind::Stream)];
    Ok(top.choice("kind", &kinds, &["serve"])?.unwrap_or(PipelineKind::Batch))
}

impl PipelineKind {
    /// The kind of the pipeline in `file`; errors call the file `shown`.
    pub(super) fn of(file: &Path, shown: String) -> Result<Self> {
        let document = Document::read(file, shown)?;
        let tree = document.parse()?;
        read_kind(&Section::top(&document, &tree))
    }
}

impl StreamPipeline {
    /// Reads the stream `name` from `file`; errors call the file `shown`.
    pub(super) fn read_file(name: &str, file: &Path, shown: String) -> Result<Self> {
        let document = Document::read(file, shown)?;
        let tree = document.parse()?;
        let top = Section::top(&document, &tree);
        if read_kind(&top)? != PipelineKind::Stream {
            let error = document.error_in_file(format!("`{name}` is a batch pipeline, not a stream"));
            return Err(error.hint(format!("`insightera run {name}` runs it")));
        }
        Self::read(name, file, &document, &top)
    }
}

pub(super) fn read_model(section: &Section<'_>) -> Result<ModelRef> {
    section.allow(keys_of("model"), SECTIONS)?;
    let name = checked_name(section, "model", section.required_text("name")?)?;
    let alias = section.text("alias")?;
    let version = section.integer("version", 1..=i64::MAX as u64)?;
    let selector = match (alias, version) {
        (Some(_), Some(version)) => {
            let message = "a model has `alias` or `version`, not both";
            return Err(section.error(&version.span, message).hint("remove one of the two"));
        }
        (None, Some(version)) => Selector::Version(version.value),
        (Some(alias), None) => Selector::Alias(checked_name(section, "model alias", alias)?),
        (None, None) => Selector::Alias("production".to_owned()),
    };
    let explain = section.section("explain")?.map(|explain| read_explain(&explain)).transpose()?;
    Ok(ModelRef { name, selector, explain })
}

fn read_explain(section: &Section<'_>) -> Result<Explain> {
    section.allow(keys_of("model.explain"), SECTIONS)?;
    let top = section.integer("top", 1..=MAX_REASONS)?.map_or(3, |top| top.value as usize);
    let score = section.text("score")?.map_or("score", |score| score.value).to_owned();
    Ok(Explain { top, score })
}

pub(super) fn read_entity<'d>(section: &Section<'d>) -> Result<Vec<Located<&'d str>>> {
    section.allow(keys_of("entity"), SECTIONS)?;
    let Some(key) = section.text_list("key")? else {
        return Err(section.missing("key").hint("`key = [\"nim\"]` names the columns a prediction is about"));
    };
    if key.is_empty() {
        let span = section.find("key").map_or(0..0, |entry| entry.span.clone());
        return Err(section.error(&span, "`key` needs at least one column"));
    }
    refuse_twice(section, &key)?;
    Ok(key)
}

fn read_features(section: &Section<'_>, key: &[Located<&str>], file: &Path, document: &Document) -> Result<Features> {
    section.allow(keys_of("features"), SECTIONS)?;
    let (sql, sql_file) = read_sql(section, file, document)?;
    let column = |name: &str| -> Result<Option<String>> {
        let Some(text) = section.text(name)? else { return Ok(None) };
        if key.iter().any(|column| column.value == text.value) {
            let message = format!("`{name}` is `{}`, which is in the entity key", text.value.escape_debug());
            return Err(section.error(&text.span, message));
        }
        Ok(Some(text.value.to_owned()))
    };
    let feature_time = column("feature_time")?;
    let known_time = column("known_time")?;
    let unhashed = section.text_list("unhashed")?.unwrap_or_default();
    refuse_twice(section, &unhashed)?;
    let strategy = section.choice("strategy", STRATEGIES, &[])?.unwrap_or(Strategy::Auto);
    let duplicates = section.choice("duplicates", DUPLICATES, &[])?.unwrap_or(Duplicates::Error);
    for (name, needs) in [
        ("strategy", (strategy == Strategy::Timestamp).then_some("timestamp")),
        ("duplicates", (duplicates == Duplicates::Latest).then_some("latest")),
    ] {
        if let (Some(value), None, Some(entry)) = (needs, &feature_time, section.find(name)) {
            let message = format!("`{name} = \"{value}\"` needs `feature_time`");
            let hint = "add `feature_time = \"COLUMN\"`, the column that says when a feature became true";
            return Err(section.error(&entry.span, message).hint(hint));
        }
    }
    Ok(Features {
        sql,
        sql_file,
        feature_time,
        known_time,
        unhashed: unhashed.into_iter().map(|column| column.value.to_owned()).collect(),
        strategy,
        on_model_change: section.choice("on_model_change", ON_MODEL_CHANGE, &[])?.unwrap_or(OnModelChange::Rescore),
        duplicates,
        time_zone: time_zone(section)?.unwrap_or_else(|| "UTC".to_owned()),
    })
}

/// The query, inline or from a file next to the pipeline's.
pub(super) fn read_sql(section: &Section<'_>, file: &Path, document: &Document) -> Result<(String, Option<PathBuf>)> {
    let inline = section.text("sql")?;
    let named = match (inline, section.text("sql_file")?) {
        (Some(_), Some(named)) => {
            let message = "the features have `sql` or `sql_file`, not both";
            return Err(section.error(&named.span, message).hint("remove one of the two"));
        }
        (None, None) => {
            let hint = "write `sql = \"\"\"SELECT ...\"\"\"` or `sql_file = \"NAME.sql\"`";
            return Err(section.missing("sql").hint(hint));
        }
        (Some(inline), None) if !is_file_name(inline.value) => return Ok((inline.value.to_owned(), None)),
        (Some(named), None) | (None, Some(named)) => named,
    };
    let path = file.parent().unwrap_or(Path::new("")).join(named.value);
    let shown = Path::new(document.shown()).with_file_name(named.value).display().to_string();
    let text = read_text(&path, &shown).map_err(|error| {
        let hint = error.get_hint().map(str::to_owned);
        let kind = error.kind();
        let located = section.error(&named.span, error.to_string());
        let mut located = crate::Error::new(kind, located.to_string()).cause(error);
        if let Some(hint) = hint {
            located = located.hint(hint);
        }
        located
    })?;
    if text.trim().is_empty() {
        return Err(section.error(&named.span, format!("{shown}: the file is empty")));
    }
    Ok((text, Some(path)))
}

/// `sql = "dropout.sql"` names a file: no query is one word that ends so.
fn is_file_name(text: &str) -> bool {
    text.to_ascii_lowercase().ends_with(".sql") && !text.contains(char::is_whitespace)
}

pub(super) fn read_output(section: &Section<'_>, entity: &Section<'_>, key: &[Located<&str>]) -> Result<Output> {
    section.allow(keys_of("output"), SECTIONS)?;
    let name = section.required_text("table")?;
    let (namespace, table) = split_table(name.value).map_err(|message| section.error(&name.span, message))?;
    let columns = read_columns(&section.required_section("columns")?)?;
    for column in key {
        if !columns.iter().any(|(name, _)| name == column.value) {
            let message = format!("the key column `{}` is not in [output.columns]", column.value.escape_debug());
            let hint =
                format!("add `{0} = \"{0}\"` there: the table must say what a prediction is about", column.value);
            return Err(entity.error(&column.span, message).hint(hint));
        }
    }
    let partition_by = read_partitions(section, &columns)?;
    let mut properties = BTreeMap::new();
    if let Some(table) = section.section("properties")? {
        read_properties(&table, &mut properties)?;
    }
    Ok(Output { namespace, table, partition_by, properties, columns })
}

fn read_columns(section: &Section<'_>) -> Result<Vec<(String, String)>> {
    let mut columns: Vec<(String, String)> = Vec::with_capacity(section.entries().len());
    for entry in section.entries() {
        check_column(section, entry.key, &entry.key_span)?;
        if let Some((earlier, _)) = columns.iter().find(|(name, _)| name.eq_ignore_ascii_case(entry.key)) {
            let message = format!("the column `{}` is there already, as `{earlier}`", entry.key);
            return Err(section.error(&entry.key_span, message).hint("column names differ by more than their case"));
        }
        if !entry.value.is_str() {
            return Err(section.wrong_type(entry, "an SQL expression in quotes"));
        }
        let expression = section.text_of(entry)?;
        columns.push((entry.key.to_owned(), expression.value.to_owned()));
    }
    if columns.is_empty() {
        return Err(section.error_here("[output.columns] needs at least one column"));
    }
    Ok(columns)
}

pub(super) fn check_column(section: &Section<'_>, name: &str, span: &Range<usize>) -> Result<()> {
    validate_name("column", name).map_err(|error| section.error(span, error.to_string()))?;
    if name.contains('.') {
        let message = format!("the column `{name}` has a dot in its name, which is how SQL writes a table's column");
        return Err(section.error(span, message));
    }
    if let Some(reserved) = RESERVED_COLUMNS.iter().find(|reserved| reserved.eq_ignore_ascii_case(name)) {
        let message = format!("the column `{reserved}` is filled by insightera in every prediction table");
        return Err(section.error(span, message).hint("remove it, or give it another name"));
    }
    Ok(())
}

fn read_partitions(section: &Section<'_>, columns: &[(String, String)]) -> Result<Vec<PartitionTransform>> {
    let mut partitions: Vec<PartitionTransform> = Vec::new();
    for text in section.text_list("partition_by")?.unwrap_or_default() {
        let partition = PartitionTransform::parse(text.value)
            .map_err(|(message, hint)| section.error(&text.span, message).hint(hint))?;
        let known = |name: &&str| *name == partition.column();
        let names = || columns.iter().map(|(name, _)| name.as_str());
        if !names().chain(RESERVED_COLUMNS.iter().chain(IMPLICIT_COLUMNS).copied()).any(|name| known(&name)) {
            let message = format!("the partition column `{}` is not in [output.columns]", partition.column());
            let error = section.error(&text.span, message);
            return Err(match insightera_core::closest(partition.column(), names()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("the columns are {}", super::section::quoted(&names().collect::<Vec<_>>()))),
            });
        }
        if partitions.contains(&partition) {
            return Err(section.error(&text.span, format!("`partition_by` has `{partition}` twice")));
        }
        partitions.push(partition);
    }
    Ok(partitions)
}

/// Properties are strings; numbers and booleans are written as such. A nested
/// table comes from a name with dots that is not in quotes.
fn read_properties(section: &Section<'_>, properties: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in section.entries() {
        if entry.value.is_table() {
            let error = section.error(&entry.key_span, format!("`{}` is not in quotes", entry.key.escape_debug()));
            return Err(error.hint("write a property as `\"write.parquet.compression-codec\" = \"zstd\"`"));
        }
        let text = match (entry.value.as_bool(), entry.value.as_integer()) {
            (Some(value), _) => value.to_string(),
            (None, Some(integer)) if integer.radix() == 10 => integer.as_str().to_owned(),
            _ => section.text_of(entry)?.value.to_owned(),
        };
        if entry.key.to_ascii_lowercase().starts_with("insightera.") {
            let message = format!("the property `{}` belongs to insightera", entry.key.escape_debug());
            return Err(section.error(&entry.key_span, message).hint("remove it"));
        }
        properties.insert(entry.key.to_owned(), text);
    }
    Ok(())
}

fn checked_name(section: &Section<'_>, what: &'static str, text: Located<&str>) -> Result<String> {
    validate_name(what, text.value).map_err(|error| section.error(&text.span, error.to_string()))?;
    Ok(text.value.to_owned())
}

/// Column names that differ only by case are one column to most readers.
fn refuse_twice(section: &Section<'_>, columns: &[Located<&str>]) -> Result<()> {
    for (index, column) in columns.iter().enumerate() {
        if columns[..index].iter().any(|earlier| earlier.value.eq_ignore_ascii_case(column.value)) {
            let message = format!("the column `{}` is there twice", column.value.escape_debug());
            return Err(section.error(&column.span, message));
        }
    }
    Ok(())
}
