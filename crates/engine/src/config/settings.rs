//! `insightera.toml`, and the order in which its settings are decided.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use insightera_core::validate_name;
use serde::Serialize;
use toml::de::DeTable;

use super::catalog::CatalogSettings;
use super::document::Document;
use super::notifiers::{NotifierSettings, read_notifier};
use super::section::{Located, Section};
use super::stores::StoreSettings;
use super::time_zone::{TIME_ZONE_HINT, is_time_zone};
use crate::lake::maintain::policy::Policy;
use crate::{Error, Result};

/// The version of the project file that this build reads.
const FORMAT: u64 = 1;

/// Less memory than this cannot hold one batch of rows.
const MIN_MEMORY: u64 = 1_000_000;

/// More threads than this are a slip of the keyboard.
const MAX_THREADS: usize = 1024;

/// The settings of a project, after defaults, file, environment and flags.
/// Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Version of the project file.
    pub format: u64,
    /// Where table pointers live.
    pub catalog: CatalogSettings,
    /// Where table files live.
    pub storage: StorageSettings,
    /// Where models live.
    pub registry: RegistrySettings,
    /// What a run may use.
    pub run: RunSettings,
    /// How SQL is read.
    pub sql: SqlSettings,
    /// When tables are maintained, and what of them is kept.
    pub maintenance: Policy,
    /// Tables that are not in the catalog, by `namespace.table`.
    pub inputs: BTreeMap<String, InputSettings>,
    /// Who is told of alerts, by name.
    pub notifiers: BTreeMap<String, NotifierSettings>,
}

/// Where table files live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StorageSettings {
    /// The folder of all tables: an absolute path, or a location such as
    /// `s3://bucket/path`. Where the catalog says where tables are, of what is
    /// not a table.
    pub warehouse: String,
    /// How object stores are reached.
    #[serde(flatten)]
    pub stores: StoreSettings,
}

/// Where models live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegistrySettings {
    /// The folder with `registry.db` and `artifacts/`.
    pub path: PathBuf,
}

/// What a run may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunSettings {
    /// Worker threads; 0 means all cores.
    pub threads: usize,
    /// The memory limit in bytes.
    pub memory_bytes: u64,
    /// How often a run plans and commits again after it lost a race; at least 1.
    pub commit_attempts: u32,
}

/// How SQL is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SqlSettings {
    /// The session's time zone.
    pub time_zone: String,
}

/// A table that is not in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputSettings {
    /// A folder of Parquet files, with hive partitions if it has them.
    pub parquet: PathBuf,
}

/// Settings from the command line; `None` where no flag was given. A relative
/// path is relative to the current directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--warehouse`
    pub warehouse: Option<PathBuf>,
    /// `--threads`
    pub threads: Option<usize>,
    /// `--memory`, in bytes; see [`parse_bytes`].
    pub memory_bytes: Option<u64>,
}

/// The settings that the project file gives, before the others are applied.
#[derive(Debug, Default)]
pub(super) struct FileSettings {
    catalog: Option<CatalogSettings>,
    warehouse: Option<PathBuf>,
    stores: StoreSettings,
    registry_path: Option<PathBuf>,
    threads: Option<usize>,
    memory_bytes: Option<u64>,
    commit_attempts: Option<u32>,
    time_zone: Option<String>,
    maintenance: Policy,
    inputs: BTreeMap<String, PathBuf>,
    notifiers: BTreeMap<String, NotifierSettings>,
}

impl Settings {
    /// The one place that decides the order: built-in default < file <
    /// environment < flag. Paths of the file and of the defaults are relative
    /// to the project folder `dir`, paths of the environment and of flags to the
    /// current directory.
    pub(super) fn resolve(dir: &Path, file: FileSettings, environment: Overrides, flags: Overrides) -> Self {
        let in_project = |path: Option<PathBuf>, default: &str| dir.join(path.unwrap_or_else(|| default.into()));
        Self {
            format: FORMAT,
            catalog: file.catalog.unwrap_or_else(CatalogSettings::built_in).in_project(dir),
            storage: StorageSettings {
                warehouse: match flags.warehouse.or(environment.warehouse) {
                    Some(warehouse) => text_of(&warehouse),
                    None => match file.warehouse {
                        Some(location) if is_url(&location) => text_of(&location),
                        folder => text_of(&in_project(folder, "warehouse")),
                    },
                },
                stores: file.stores,
            },
            registry: RegistrySettings { path: in_project(file.registry_path, "registry") },
            run: RunSettings {
                threads: flags.threads.or(environment.threads).or(file.threads).unwrap_or(0),
                memory_bytes: flags
                    .memory_bytes
                    .or(environment.memory_bytes)
                    .or(file.memory_bytes)
                    .unwrap_or(1_000_000_000),
                commit_attempts: file.commit_attempts.unwrap_or(3),
            },
            sql: SqlSettings { time_zone: file.time_zone.unwrap_or_else(|| "UTC".to_owned()) },
            maintenance: file.maintenance,
            inputs: file
                .inputs
                .into_iter()
                .map(|(table, path)| (table, InputSettings { parquet: dir.join(path) }))
                .collect(),
            notifiers: file.notifiers,
        }
    }
}

/// The keys of `insightera.toml`.
const SECTIONS: &[(&str, &[&str])] = &[
    ("", &["format", "catalog", "storage", "registry", "run", "sql", "maintenance", "inputs", "notifiers"]),
    ("catalog", super::catalog::KEYS),
    ("storage", &["warehouse", "s3", "azure", "gcs"]),
    ("registry", &["path"]),
    ("run", &["threads", "memory", "commit_attempts"]),
    ("sql", &["time_zone"]),
    (
        "maintenance",
        &[
            "expire_after_days",
            "keep_snapshots",
            "most_snapshots",
            "orphan_days",
            "quarantine_days",
            "min_input_files",
            "auto",
            "streams",
        ],
    ),
];

impl FileSettings {
    /// Reads `insightera.toml`.
    pub(super) fn read(document: &Document) -> Result<Self> {
        let tree = document.parse()?;
        Self::from_tree(document, &tree)
    }

    fn from_tree<'d>(document: &'d Document, tree: &'d toml::Spanned<DeTable<'d>>) -> Result<Self> {
        let top = Section::top(document, tree);
        check_format(&top)?;
        let mut settings = Self::default();
        for (path, keys) in SECTIONS {
            let section = match *path {
                "" => Some(Section::top(document, tree)),
                path => top.section(path)?,
            };
            let Some(section) = section else { continue };
            section.allow(keys, SECTIONS)?;
            match *path {
                "catalog" => settings.catalog = Some(CatalogSettings::read(&section)?),
                "storage" => {
                    settings.warehouse = location(&section, "warehouse")?;
                    settings.stores = StoreSettings::read(&section)?;
                }
                "registry" => settings.registry_path = local_path(&section, "path")?,
                "run" => settings.read_run(&section)?,
                "sql" => settings.time_zone = time_zone(&section)?,
                "maintenance" => settings.read_maintenance(&section)?,
                _ => {}
            }
        }
        if let Some(inputs) = top.section("inputs")? {
            settings.read_inputs(&inputs)?;
        }
        if let Some(all) = top.section("notifiers")? {
            for entry in all.entries() {
                validate_name("notifier", entry.key).map_err(|error| all.error(&entry.key_span, error.to_string()))?;
                settings.notifiers.insert(entry.key.to_owned(), read_notifier(&all.subsection(entry)?)?);
            }
        }
        Ok(settings)
    }

    fn read_run(&mut self, section: &Section<'_>) -> Result<()> {
        self.threads = section.integer("threads", 0..=MAX_THREADS as u64)?.map(|threads| threads.value as usize);
        self.commit_attempts = section.integer("commit_attempts", 1..=100)?.map(|attempts| attempts.value as u32);
        let Some(entry) = section.find("memory") else { return Ok(()) };
        if entry.value.is_integer() {
            self.memory_bytes = section.integer("memory", MIN_MEMORY..=i64::MAX as u64)?.map(|memory| memory.value);
            return Ok(());
        }
        let text = section.text_of(entry)?;
        self.memory_bytes = Some(
            memory(text.value)
                .map_err(|message| section.error(&text.span, format!("`memory` {message}")).hint(BYTES_HINT))?,
        );
        Ok(())
    }

    fn read_maintenance(&mut self, section: &Section<'_>) -> Result<()> {
        let number = |key: &str, least: u64, to: &mut u32| -> Result<()> {
            if let Some(found) = section.integer(key, least..=1_000_000)? {
                *to = u32::try_from(found.value).unwrap_or(u32::MAX);
            }
            Ok(())
        };
        number("expire_after_days", 0, &mut self.maintenance.expire_after_days)?;
        number("keep_snapshots", 1, &mut self.maintenance.keep_snapshots)?;
        number("most_snapshots", 1, &mut self.maintenance.most_snapshots)?;
        number("orphan_days", 1, &mut self.maintenance.orphan_days)?;
        number("quarantine_days", 0, &mut self.maintenance.quarantine_days)?;
        number("min_input_files", 2, &mut self.maintenance.min_input_files)?;
        let flag = |key: &str, to: &mut bool| -> Result<()> {
            if let Some(entry) = section.find(key) {
                *to = entry.value.as_bool().ok_or_else(|| section.wrong_type(entry, "true or false"))?;
            }
            Ok(())
        };
        flag("auto", &mut self.maintenance.auto)?;
        flag("streams", &mut self.maintenance.streams)
    }

    fn read_inputs(&mut self, inputs: &Section<'_>) -> Result<()> {
        for entry in inputs.entries() {
            let table = split_table(entry.key).map_err(|message| {
                let error = inputs.error(&entry.key_span, message);
                error.hint("write the table's full name in quotes, as in `[inputs.\"namespace.table\"]`")
            })?;
            let section = inputs.subsection(entry)?;
            section.allow(&["parquet"], &[])?;
            let Some(path) = local_path(&section, "parquet")? else {
                return Err(section.missing("parquet"));
            };
            self.inputs.insert(format!("{}.{}", table.0, table.1), path);
        }
        Ok(())
    }
}

/// The file says which format it is in, so that a later version can change it.
fn check_format(top: &Section<'_>) -> Result<()> {
    let Some(entry) = top.find("format") else {
        return Err(top.missing("format").hint("add the line `format = 1` at the top of the file"));
    };
    let format = top.integer("format", 1..=u64::MAX)?.map_or(0, |format| format.value);
    if format == FORMAT {
        return Ok(());
    }
    let error = top.error(&entry.span, format!("this version of insightera reads format {FORMAT}, not {format}"));
    Err(error.hint("the project was made by a newer version: use that version"))
}

/// A folder, or a location of a store.
fn location(section: &Section<'_>, key: &str) -> Result<Option<PathBuf>> {
    let Some(text) = section.text(key)? else { return Ok(None) };
    if !text.value.contains("://") {
        return local_path(section, key);
    }
    crate::lake::storage::check_location(text.value).map_err(|error| {
        let new = section.error(&text.span, error.to_string());
        match error.get_hint() {
            Some(hint) => new.hint(hint.to_owned()),
            None => new,
        }
    })?;
    Ok(Some(PathBuf::from(text.value.trim_end_matches('/'))))
}

fn is_url(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains("://"))
}

fn text_of(path: &Path) -> String {
    path.display().to_string()
}

/// A path in the local file system.
pub(super) fn local_path(section: &Section<'_>, key: &str) -> Result<Option<PathBuf>> {
    let Some(text) = section.text(key)? else { return Ok(None) };
    if text.value.contains("://") {
        let error = section.error(&text.span, format!("`{}` is not supported yet", text.value.escape_debug()));
        return Err(error.hint("this version reads local folders here"));
    }
    if text.value.contains('\0') {
        return Err(section.error(&text.span, format!("`{key}` holds a NUL character")));
    }
    Ok(Some(PathBuf::from(text.value)))
}

/// The key `time_zone`, shared by projects and pipelines.
pub(super) fn time_zone(section: &Section<'_>) -> Result<Option<String>> {
    let Some(Located { value, span }) = section.text("time_zone")? else { return Ok(None) };
    if is_time_zone(value) {
        return Ok(Some(value.to_owned()));
    }
    let message = format!("`{}` is not a time zone", value.escape_debug());
    Err(section.error(&span, message).hint(TIME_ZONE_HINT))
}

/// `namespace.table` as two names.
pub(super) fn split_table(text: &str) -> Result<(String, String), String> {
    let parts: Vec<&str> = text.split('.').collect();
    let [namespace, table] = parts.as_slice() else {
        return Err(format!("`{}` is not a table name of the form `namespace.table`", text.escape_debug()));
    };
    validate_name("namespace", namespace).map_err(|error| error.to_string())?;
    validate_name("table", table).map_err(|error| error.to_string())?;
    Ok(((*namespace).to_owned(), (*table).to_owned()))
}

/// Checks settings from the command line and makes their paths absolute.
pub(super) fn check_flags(flags: Overrides) -> Result<Overrides> {
    if flags.threads.is_some_and(|threads| threads > MAX_THREADS) {
        return Err(Error::invalid(format!("`--threads` must be from 0 to {MAX_THREADS}")));
    }
    if flags.memory_bytes.is_some_and(|bytes| bytes < MIN_MEMORY) {
        return Err(Error::invalid("`--memory` must be 1 MB or more").hint(BYTES_HINT));
    }
    Ok(Overrides { warehouse: flags.warehouse.map(absolute).transpose()?, ..flags })
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    if is_url(&path) {
        crate::lake::storage::check_location(&text_of(&path))?;
        return Ok(PathBuf::from(text_of(&path).trim_end_matches('/')));
    }
    std::path::absolute(&path)
        .map_err(|error| Error::invalid(format!("the path `{}` cannot be made absolute", path.display())).cause(error))
}

/// Reads the environment variables through `lookup`. An empty one counts as
/// absent.
pub(super) fn read_environment(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Overrides> {
    let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let text = |name: &str| -> Result<Option<String>> {
        let Some(value) = get(name) else { return Ok(None) };
        match value.into_string() {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Error::invalid(format!("the environment variable `{name}` is not UTF-8 text"))),
        }
    };
    let threads = text("INSIGHTERA_THREADS")?.map(|value| match value.trim().parse::<usize>() {
        Ok(threads) if threads <= MAX_THREADS => Ok(threads),
        _ => Err(Error::invalid(format!(
            "the environment variable `INSIGHTERA_THREADS` must be an integer from 0 to {MAX_THREADS}, found `{}`",
            value.escape_debug()
        ))),
    });
    let memory_bytes = text("INSIGHTERA_MEMORY")?.map(|value| {
        memory(&value).map_err(|message| {
            Error::invalid(format!("the environment variable `INSIGHTERA_MEMORY` {message}")).hint(BYTES_HINT)
        })
    });
    Ok(Overrides {
        warehouse: get("INSIGHTERA_WAREHOUSE").map(PathBuf::from).map(absolute).transpose()?,
        threads: threads.transpose()?,
        memory_bytes: memory_bytes.transpose()?,
    })
}

const BYTES_HINT: &str = "write a number and a unit, as in `512MB`, `1.5GB` or `2GiB`";

/// Units: those of the SI are powers of 1000, those of IEC 80000-13 of 1024.
const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

fn memory(text: &str) -> Result<u64, String> {
    let bytes = bytes_of(text).ok_or_else(|| format!("is not a size: `{}`", text.escape_debug()))?;
    if bytes < MIN_MEMORY {
        return Err(format!("must be 1 MB or more, found `{}`", text.escape_debug()));
    }
    Ok(bytes)
}

/// A size in bytes: `1GB`, `512 MiB`, `1.5GB`, `1000000`.
///
/// # Errors
/// `Invalid` when it is not a number with a known unit, or too large.
pub fn parse_bytes(text: &str) -> Result<u64> {
    bytes_of(text).ok_or_else(|| Error::invalid(format!("`{}` is not a size", text.escape_debug())).hint(BYTES_HINT))
}

fn bytes_of(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).filter(|bytes| *bytes <= i64::MAX as u64);
    }
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    (bytes.is_finite() && bytes < i64::MAX as f64).then_some(bytes as u64)
}
