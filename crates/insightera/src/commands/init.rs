//! `init`: a new project folder.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use insightera_core::SystemClock;
use insightera_engine::config::{Overrides, render_default_project, render_example_pipeline};
use insightera_engine::{Error, Result, Workspace};

use super::Answer;
use crate::printer::Printer;

/// The project file.
const PROJECT_FILE: &str = "insightera.toml";

/// Makes the folder, its files and an empty catalog. Nothing that exists is
/// overwritten.
pub fn init(dir: &Path, overrides: Overrides, printer: &Printer) -> anyhow::Result<Answer> {
    let project = dir.join(PROJECT_FILE);
    fs::create_dir_all(dir.join("pipelines")).map_err(|e| cannot_make(&dir.join("pipelines"), e))?;
    if !write_new(&project, render_default_project())? {
        return Err(Error::conflict(format!("`{}` is a project already", dir.display()))
            .hint("nothing was changed; choose another folder, or work with this one: `insightera check`")
            .into());
    }
    let example = dir.join("pipelines").join("example.toml");
    let made = write_new(&example, render_example_pipeline())
        .and_then(|new| Workspace::create(dir, overrides, Arc::new(SystemClock::new())).map(|w| (new, w)));
    let (new_example, workspace) = match made {
        Ok(made) => made,
        Err(error) => {
            // Without its catalog it is no project: a second try shall not be
            // told that it is.
            let _ = fs::remove_file(&project);
            return Err(error.into());
        }
    };
    printer.message(&format!("made the project `{}`:", dir.display()));
    printer.message("  insightera.toml          where things are; every setting has a default");
    if new_example {
        printer.message("  pipelines/example.toml   a pipeline that shows every key: edit or delete it");
    }
    let settings = &workspace.project().settings;
    if let Some(catalog) = settings.catalog.file() {
        printer.message(&format!("  {}", catalog.display()));
    }
    printer.message("next: register a model (`insightera model register NAME PATH`), write a pipeline,");
    printer.message("      `insightera check`, `insightera run PIPELINE`");
    Ok(Answer::silent())
}

/// Writes a file that must not exist; `false` if it does.
fn write_new(path: &Path, text: &str) -> Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| cannot_make(path, e))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(cannot_make(path, error)),
    }
}

fn cannot_make(path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("cannot make `{}`", path.display())).cause(error)
}
