//! Models that a command names: a path, or a name in the project's registry.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use insightera_core::{ErrorKind, closest};
use insightera_engine::config::{Overrides, Selector};
use insightera_engine::registry::ResolvedModel;
use insightera_engine::{Error, Workspace};
use insightera_infer::{Artifact, Model};

use crate::printer::Printer;

/// A model that was found and loaded.
pub struct Found {
    /// The model.
    pub model: Arc<dyn Model>,
    /// Its identity.
    pub sha256: String,
    /// Where it is registered, unless it was named by its path.
    pub registered: Option<(Workspace, ResolvedModel)>,
}

/// A model by its path, else by its name in the project's registry, as
/// `name`, `name@alias` or `name:version`.
pub fn find(project: &Path, overrides: Overrides, model: &str, printer: &Printer) -> anyhow::Result<Found> {
    if Path::new(model).exists() {
        let artifact = Artifact::read(Path::new(model))?;
        let loaded = insightera_engine::sql::load_model(&artifact)?;
        return Ok(Found { model: loaded, sha256: artifact.sha256(), registered: None });
    }
    let (name, selector) = match (model.split_once('@'), model.rsplit_once(':')) {
        (Some((name, alias)), _) => (name, Selector::Alias(alias.to_owned())),
        (None, Some((name, version))) => {
            let version = version.parse().map_err(|_| {
                Error::invalid(format!("`{model}` names no version: `{version}` is no number"))
                    .hint("write it as name:3, name@alias, or give the path of a model")
            })?;
            (name, Selector::Version(version))
        }
        (None, None) => (model, Selector::Alias("production".to_owned())),
    };
    let workspace = super::open(project, overrides, printer).map_err(|error| {
        let missing = error.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::NotFound);
        if missing {
            let near = nearest_file(model).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            return Error::not_found(format!(
                "there is no model at `{model}`, and no project here that could have one"
            ))
            .hint(format!("{near}give the path of a model, or run this in a project or with --project DIR"))
            .into();
        }
        error
    })?;
    let resolved = workspace.registry().resolve(name, &selector).map_err(|error| {
        // What looks like a path was meant as one.
        if error.kind() != ErrorKind::NotFound || !model.contains(['/', '.']) {
            return error;
        }
        let near = nearest_file(model).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        Error::not_found(format!("there is no file `{model}`, and no registered model of that name"))
            .hint(format!("{near}give the path of a model; `insightera model list` shows those that are registered"))
    })?;
    let loaded = insightera_engine::sql::load_model(&workspace.registry().load_artifact(&resolved)?)?;
    let sha256 = resolved.sha256.clone();
    Ok(Found { model: loaded, sha256, registered: Some((workspace, resolved)) })
}

/// The file beside `path` whose name is nearest.
pub fn nearest_file(path: &str) -> Option<String> {
    let path = Path::new(path);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let names: Vec<String> =
        fs::read_dir(folder).ok()?.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    let name = path.file_name()?.to_str()?;
    closest(name, names.iter().map(String::as_str)).map(str::to_owned)
}
