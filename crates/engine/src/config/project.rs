//! A project folder: settings and the names of its pipelines.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use insightera_core::{ErrorKind, closest, validate_name};

use super::document::Document;
use super::pipeline::{Pipeline, PipelineKind};
use super::settings::{FileSettings, Overrides, Settings, check_flags, read_environment};
use super::stream::StreamPipeline;
use crate::{Error, Result};

/// The name of the project file.
const PROJECT_FILE: &str = "insightera.toml";

/// The folder of the pipelines.
const PIPELINES: &str = "pipelines";

/// A project folder.
#[derive(Debug, Clone)]
pub struct Project {
    /// The folder, absolute and without symbolic links.
    pub dir: PathBuf,
    /// Its settings.
    pub settings: Settings,
    /// The folder as the user wrote it, for messages.
    shown: PathBuf,
    /// The files of the pipelines by name; read when asked for.
    files: BTreeMap<String, PathBuf>,
}

impl Project {
    /// Reads `dir/insightera.toml` and lists the pipelines; parents of `dir` are
    /// not searched.
    ///
    /// # Errors
    /// `NotFound` when the folder is not a project, `Invalid` with file, line
    /// and column when a setting is wrong.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::load_with(dir, Overrides::default())
    }

    /// As [`Project::load`], with settings from the command line.
    ///
    /// # Errors
    /// As [`Project::load`].
    pub fn load_with(dir: &Path, flags: Overrides) -> Result<Self> {
        Self::load_from(dir, flags, &|name| std::env::var_os(name))
    }

    /// As [`Project::load_with`], with the environment as a function.
    pub(super) fn load_from(
        dir: &Path,
        flags: Overrides,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let path = dir.join(PROJECT_FILE);
        let document = Document::read(&path, shown(dir, PROJECT_FILE)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::not_found(format!("`{}` is not a project: it has no `{PROJECT_FILE}`", dir.display()))
                    .hint(format!("run `insightera init {}` to make one", dir.display()))
            }
            _ => error,
        })?;
        let file = FileSettings::read(&document)?;
        let absolute = dir.canonicalize().map_err(|error| {
            Error::unavailable(format!("the project folder `{}` cannot be read", dir.display())).cause(error)
        })?;
        let settings = Settings::resolve(&absolute, file, read_environment(environment)?, check_flags(flags)?);
        let files = pipeline_files(dir, &absolute)?;
        Ok(Self { dir: absolute, settings, shown: dir.to_owned(), files })
    }

    /// The names of the pipelines, sorted.
    pub fn pipeline_names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Reads the pipeline `name`.
    ///
    /// # Errors
    /// `NotFound` with the nearest name, `Invalid` with file, line and column.
    pub fn pipeline(&self, name: &str) -> Result<Pipeline> {
        let (path, shown) = self.file_of(name)?;
        Pipeline::read(name, path, shown)
    }

    /// Reads the stream `name`.
    ///
    /// # Errors
    /// As [`Project::pipeline`].
    pub fn stream(&self, name: &str) -> Result<StreamPipeline> {
        let (path, shown) = self.file_of(name)?;
        StreamPipeline::read_file(name, path, shown)
    }

    /// How the pipeline `name` runs.
    ///
    /// # Errors
    /// As [`Project::pipeline`]; only the file's `kind` is looked at.
    pub fn kind(&self, name: &str) -> Result<PipelineKind> {
        let (path, shown) = self.file_of(name)?;
        PipelineKind::of(path, shown)
    }

    /// The names of the pipelines of a kind, sorted. One whose kind cannot be
    /// read is in it, so that its error is seen.
    pub fn names_of(&self, kind: PipelineKind) -> impl Iterator<Item = &str> {
        self.pipeline_names().filter(move |name| self.kind(name).map_or(true, |found| found == kind))
    }

    /// Reads all batch pipelines; the first broken one is the error.
    ///
    /// # Errors
    /// As [`Project::pipeline`].
    pub fn pipelines(&self) -> Result<BTreeMap<String, Pipeline>> {
        self.names_of(PipelineKind::Batch).map(|name| Ok((name.to_owned(), self.pipeline(name)?))).collect()
    }

    fn file_of(&self, name: &str) -> Result<(&Path, String)> {
        let Some(path) = self.files.get(name) else {
            return Err(self.no_pipeline(name));
        };
        let file = format!("{PIPELINES}/{name}.toml");
        validate_name("pipeline", name).map_err(|error| {
            Error::invalid(format!("{}: {error}", shown(&self.shown, &file))).hint("rename the file")
        })?;
        Ok((path, shown(&self.shown, &file)))
    }

    fn no_pipeline(&self, name: &str) -> Error {
        let error = Error::not_found(format!("there is no pipeline `{}`", name.escape_debug()));
        let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name);
        if self.files.is_empty() {
            let folder = shown(&self.shown, PIPELINES);
            return error.hint(format!("the project has none yet: a pipeline is a file `{folder}/NAME.toml`"));
        }
        match closest(name, self.pipeline_names()).or_else(|| closest(stem, self.pipeline_names())) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => {
                let names: Vec<&str> = self.pipeline_names().collect();
                error.hint(format!("the pipelines are {}", super::section::quoted(&names)))
            }
        }
    }
}

/// `pipelines/*.toml`, without hidden files and folders; no such folder means
/// no pipelines.
fn pipeline_files(dir: &Path, absolute: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let unreadable = |error: io::Error| {
        Error::unavailable(format!("the folder `{}` cannot be read", shown(dir, PIPELINES))).cause(error)
    };
    let folder = absolute.join(PIPELINES);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".toml"))
        else {
            continue;
        };
        if !name.is_empty() && !name.starts_with('.') && path.is_file() {
            files.insert(name.to_owned(), path.clone());
        }
    }
    Ok(files)
}

/// `file` in the folder as the user wrote it, without a leading `./`.
fn shown(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    path.strip_prefix(".").unwrap_or(&path).display().to_string()
}
