//! A training set: label rows with the features of their moments.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::csv;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde::Serialize;

use super::leaks::{self, Columns, Leak};
use crate::config::{FEATURE_VIEWS, FeatureView, KnownTime};
use crate::lake::durable::io_error;
use crate::sql::{self, COMMITTED, STATUS};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// What to export.
#[derive(Debug, Clone)]
pub struct Export {
    /// The label rows: a table, or a query.
    pub labels: String,
    /// The column of their moment.
    pub time: String,
    /// The column that a model shall learn, if it is to be looked at.
    pub label: Option<String>,
    /// The feature views; at least one.
    pub views: Vec<String>,
    /// The file: `.parquet` or `.csv`.
    pub output: PathBuf,
    /// Believe the views' known times although the lake got the rows later.
    pub trust_known_time: bool,
}

/// What was exported, and what must not have been.
#[derive(Debug, Clone, Serialize)]
pub struct ExportReport {
    /// The file; none was written when there are leaks.
    pub output: Option<PathBuf>,
    /// Label rows.
    pub rows: u64,
    /// The columns of the file.
    pub columns: Vec<String>,
    /// What each view gave.
    pub views: Vec<ViewReport>,
    /// What nobody could have known.
    pub leaks: Vec<Leak>,
}

/// What a view gave.
#[derive(Debug, Clone, Serialize)]
pub struct ViewReport {
    /// The view.
    pub view: String,
    /// Rows by `feature_status`.
    pub statuses: BTreeMap<String, u64>,
    /// Why its known times could not be compared with the commits, if so.
    pub unchecked: Option<String>,
}

/// Joins, checks, and writes the file.
///
/// # Errors
/// When a table, a view or a column is not there, two columns would have one
/// name, or the file cannot be written. Leaks are in the report.
pub async fn export(workspace: &Workspace, wanted: &Export) -> Result<ExportReport> {
    let format = Format::of(&wanted.output)?;
    let views = wanted.views.iter().map(|name| workspace.project().feature_view(name)).collect::<Result<Vec<_>>>()?;
    if views.is_empty() {
        return Err(Error::invalid("a training set needs at least one feature view").hint("name them in --views"));
    }
    let labels = label_columns(workspace, wanted, &views).await?;
    let mut parts = Vec::with_capacity(views.len());
    for view in &views {
        parts.push(Part::new(workspace, view, wanted).await?);
    }
    let mut names: Vec<&String> = labels.iter().chain(parts.iter().flat_map(|p| &p.features)).collect();
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid(format!("two columns of the training set are named `{}`", twice[0]))
            .hint("leave one out of the view's `columns`, or rename it in a query after --labels"));
    }
    let sql = statement(wanted, &labels, &parts);
    let result = sql::query(workspace, &sql).await?;
    let all = concat_batches(&result.schema, &result.batches)
        .map_err(|e| Error::unavailable(format!("the training set is too large for memory: {e}")).cause(e))?;
    let mut found = Vec::new();
    for part in &parts {
        found.extend(leaks::times(&all, &part.columns(wanted))?);
    }
    if let Some(label) = &wanted.label {
        let features = parts.iter().flat_map(|p| p.features.iter().map(|f| (p.view.name.as_str(), f.as_str())));
        found.extend(leaks::labels(&all, label, &features.collect::<Vec<_>>())?);
    }
    let kept: Vec<usize> =
        (0..all.num_columns()).filter(|i| !all.schema().field(*i).name().starts_with(HELPER)).collect();
    let file = all.project(&kept).map_err(|e| Error::internal(e.to_string()).cause(e))?;
    let views = parts.iter().map(|part| part.report(&all)).collect();
    let output = if found.is_empty() { Some(write(&file, &wanted.output, format)?) } else { None };
    let columns = file.schema().fields().iter().map(|f| f.name().clone()).collect();
    Ok(ExportReport { output, rows: all.num_rows() as u64, columns, views, leaks: found })
}

/// Columns that are looked at and not written begin so.
const HELPER: &str = "__";

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The label rows as a table factor.
fn relation(labels: &str) -> String {
    let first = labels.split_whitespace().next().unwrap_or_default();
    let is_query = ["select", "with", "("].iter().any(|word| first.to_ascii_lowercase().starts_with(word));
    if is_query { format!("({labels})") } else { labels.to_owned() }
}

async fn label_columns(workspace: &Workspace, wanted: &Export, views: &[FeatureView]) -> Result<Vec<String>> {
    let sql = format!("SELECT * FROM {} LIMIT 0", relation(&wanted.labels));
    let schema = sql::query(workspace, &sql).await?.schema;
    let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
    let keys =
        views.iter().flat_map(|view| view.key.iter().map(|key| (key, format!("the key of the view `{}`", view.name))));
    let others = [(&wanted.time, "--time".to_owned())];
    let label = wanted.label.as_ref().map(|label| (label, "--label".to_owned()));
    for (column, role) in keys.chain(others).chain(label) {
        if !names.contains(column) {
            let error = Error::invalid(format!("the label rows have no column `{column}` ({role})"));
            return Err(match insightera_core::closest(column, names.iter().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean `{near}`? A query after --labels can rename it")),
                None => error.hint(format!("their columns are {}", names.join(", "))),
            });
        }
    }
    Ok(names)
}

/// One view in the statement.
struct Part {
    view: FeatureView,
    features: Vec<String>,
    /// Whether the rows that were there at the moment are looked up as well.
    compared: bool,
    unchecked: Option<String>,
}

impl Part {
    async fn new(workspace: &Workspace, view: &FeatureView, wanted: &Export) -> Result<Self> {
        let sql = format!("SELECT * FROM {FEATURE_VIEWS}.{} LIMIT 0", quote(&view.name));
        let schema = sql::query(workspace, &sql).await?.schema;
        let known = match &view.known_time {
            KnownTime::Column(known) => Some(known),
            _ => None,
        };
        let is_feature = |name: &&String| {
            !view.key.contains(name) && **name != view.feature_time && Some(*name) != known && *name != STATUS
        };
        let features = schema.fields().iter().map(|f| f.name()).filter(is_feature).cloned().collect();
        let folder = workspace.project().settings.inputs.contains_key(&view.table);
        let unchecked = match &view.known_time {
            KnownTime::Commit => None,
            _ if folder => Some(format!("`{}` is a Parquet folder, which knows no commits", view.table)),
            _ if wanted.trust_known_time => Some("the known times are trusted".to_owned()),
            _ => None,
        };
        let compared = view.known_time != KnownTime::Commit && unchecked.is_none();
        Ok(Self { view: view.clone(), features, compared, unchecked })
    }

    /// The alias of the view in the statement.
    fn alias(&self) -> String {
        format!("{HELPER}{}", self.view.name)
    }

    fn helper(&self, what: &str) -> String {
        format!("{HELPER}{}{HELPER}{what}", self.view.name)
    }

    fn status(&self) -> String {
        format!("{}_status", self.view.name)
    }

    fn columns<'a>(&'a self, wanted: &'a Export) -> Columns<'a> {
        Columns {
            view: &self.view.name,
            moment: &wanted.time,
            feature_time: self.helper("time"),
            known_time: matches!(self.view.known_time, KnownTime::Column(_)).then(|| self.helper("known")),
            late: self.compared.then(|| self.helper("late")),
        }
    }

    fn select(&self, out: &mut Vec<String>) {
        let alias = quote(&self.alias());
        for feature in &self.features {
            out.push(format!("{alias}.{}", quote(feature)));
        }
        out.push(format!("{alias}.{STATUS} AS {}", quote(&self.status())));
        out.push(format!("{alias}.{} AS {}", quote(&self.view.feature_time), quote(&self.helper("time"))));
        if let KnownTime::Column(known) = &self.view.known_time {
            out.push(format!("{alias}.{} AS {}", quote(known), quote(&self.helper("known"))));
        }
        if self.compared {
            let then = quote(&self.helper("then"));
            let differs = self.features.iter().map(|f| format!("{alias}.{0} IS DISTINCT FROM {then}.{0}", quote(f)));
            let differs: Vec<String> = std::iter::once(format!("{then}.{STATUS} <> 'fresh'")).chain(differs).collect();
            out.push(format!(
                "{alias}.{STATUS} = 'fresh' AND {then}.{STATUS} <> 'unavailable' AND ({}) AS {}",
                differs.join(" OR "),
                quote(&self.helper("late"))
            ));
        }
    }

    fn join(&self, wanted: &Export) -> String {
        let mut joins = vec![(quote(&self.view.name), quote(&self.alias()))];
        if self.compared {
            joins.push((quote(&format!("{}{COMMITTED}", self.view.name)), quote(&self.helper("then"))));
        }
        let joined = joins.into_iter().map(|(view, alias)| {
            let on: Vec<String> = self.view.key.iter().map(|k| format!("l.{0} = {alias}.{0}", quote(k))).collect();
            format!(
                " ASOF JOIN {FEATURE_VIEWS}.{view} {alias} MATCH_CONDITION (l.{} >= {alias}.{}) ON {}",
                quote(&wanted.time),
                quote(&self.view.feature_time),
                on.join(" AND ")
            )
        });
        joined.collect()
    }

    fn report(&self, all: &RecordBatch) -> ViewReport {
        let mut statuses = BTreeMap::new();
        if let Some(column) = all.column_by_name(&self.status())
            && let Ok(column) = arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8)
        {
            for status in column.as_string::<i32>().iter().flatten() {
                *statuses.entry(status.to_owned()).or_default() += 1;
            }
        }
        ViewReport { view: self.view.name.clone(), statuses, unchecked: self.unchecked.clone() }
    }
}

fn statement(wanted: &Export, labels: &[String], parts: &[Part]) -> String {
    let mut columns: Vec<String> = labels.iter().map(|name| format!("l.{}", quote(name))).collect();
    parts.iter().for_each(|part| part.select(&mut columns));
    let joins: String = parts.iter().map(|part| part.join(wanted)).collect();
    format!("SELECT {} FROM {} l{joins}", columns.join(", "), relation(&wanted.labels))
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Parquet,
    Csv,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("parquet") => Ok(Self::Parquet),
            Some("csv") => Ok(Self::Csv),
            _ => Err(Error::invalid(format!("`{}` is neither a .parquet nor a .csv file", path.display()))
                .hint("a training set is written as Parquet or CSV, by the ending of its name")),
        }
    }
}

/// Writes beside the file and renames, so that a file of that name is whole.
fn write(rows: &RecordBatch, path: &Path, format: Format) -> Result<PathBuf> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("export");
    let unfinished = folder.join(format!(".{name}.{}", uuid::Uuid::new_v4()));
    let written = encode(rows, &unfinished, format)
        .and_then(|()| std::fs::rename(&unfinished, path).map_err(|e| io_error("rename", path, e)));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&unfinished);
        return Err(error);
    }
    Ok(path.to_owned())
}

fn encode(rows: &RecordBatch, path: &Path, format: Format) -> Result<()> {
    let file = File::create(path).map_err(|e| io_error("create", path, e))?;
    let failed = |e: &dyn std::fmt::Display| Error::unavailable(format!("`{}` cannot be written: {e}", path.display()));
    let file = match format {
        Format::Parquet => {
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
            let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).map_err(|e| failed(&e))?;
            writer.write(rows).map_err(|e| failed(&e))?;
            writer.into_inner().map_err(|e| failed(&e))?
        }
        Format::Csv => {
            let mut writer = csv::WriterBuilder::new().with_header(true).build(file);
            writer.write(rows).map_err(|e| failed(&e))?;
            writer.into_inner()
        }
    };
    file.sync_all().map_err(|e| io_error("write", path, e))
}
