//! One file per command. A command returns its [`Answer`]; only the demo,
//! which tells a story while it works, and the SQL prompt print on their own.

mod certify;
mod check;
mod demo;
mod erase;
mod features;
mod init;
mod inspect;
mod metrics;
mod model;
mod named;
mod plan;
mod row_files;
mod run;
mod score;
mod several;
mod sql;
mod stream;
mod table;
mod verify;

use std::path::Path;
use std::sync::Arc;

use insightera_core::SystemClock;
use insightera_engine::Workspace;
use insightera_engine::config::{Overrides, Project};

use crate::printer::Printer;
use crate::resolve::{Command, Invocation};

/// Where a project's catalog is unless it says otherwise.
const DEFAULT_CATALOG: &str = "warehouse/catalog.db";

/// What a command says.
#[derive(Debug)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    /// The exit status.
    pub exit_code: u8,
}

impl Answer {
    /// Done.
    pub fn done(text: String) -> Self {
        Self { text, exit_code: 0 }
    }

    /// Nothing to say.
    pub fn silent() -> Self {
        Self::done(String::new())
    }

    /// A value as indented JSON.
    pub fn json(value: &impl serde::Serialize) -> anyhow::Result<Self> {
        Ok(Self::done(json_text(value)?))
    }
}

/// Indented JSON with a line end.
pub fn json_text(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Runs a command.
pub async fn dispatch(invocation: Invocation, printer: &Printer) -> anyhow::Result<Answer> {
    let Invocation { project, overrides, command } = invocation;
    let open = |overrides| open(&project, overrides, printer);
    match command {
        Command::Init { dir } => init::init(&dir, overrides, printer),
        Command::Check { pipelines, format } => check::check(&open(overrides)?, &pipelines, format, printer).await,
        Command::Plan { selection, format } => plan::plan(&open(overrides)?, &selection, format, printer).await,
        Command::Run { selection, options, format } => {
            run::run(&open(overrides)?, &selection, &options, format, printer).await
        }
        Command::Verify { selection, format } => verify::verify(&open(overrides)?, &selection, format, printer).await,
        Command::Stream(command) => stream::run(&open(overrides)?, &command, printer).await,
        Command::StreamReplayDlq { pipelines, format } => {
            stream::replay_dead_letters(&open(overrides)?, &pipelines, format, printer).await
        }
        Command::StreamReplay { pipeline, bounds, format } => {
            stream::replay(&open(overrides)?, &pipeline, bounds, format, printer).await
        }
        Command::StreamStatus { pipelines, format } => stream::status(&open(overrides)?, &pipelines, format, printer),
        Command::Score(command) => score::score(&project, overrides, &command, printer),
        Command::Inspect { model, format } => inspect::inspect(&project, overrides, &model, format, printer),
        Command::Certify(command) => certify::certify(&project, overrides, &command, printer),
        Command::Features(command) => features::features(&open(overrides)?, command, printer).await,
        Command::Model(command) => model::model(&open(overrides)?, command, printer),
        Command::Table(command) => table::table(&open(overrides)?, command, printer).await,
        Command::Sql { source, shown } => sql::sql(&open(overrides)?, &source, shown, printer).await,
        Command::Demo(demo) => demo::demo(demo, overrides, printer).await,
    }
}

/// Opens the project. One without a catalog where catalogs are by default, such
/// as a fresh checkout, gets an empty one; a missing catalog that the project
/// file names is an error, since it may be a slip or a disk that is not there.
fn open(dir: &Path, overrides: Overrides, printer: &Printer) -> anyhow::Result<Workspace> {
    let clock = Arc::new(SystemClock::new());
    let project = Project::load_with(dir, overrides.clone())?;
    let file = project.settings.catalog.file();
    if let Some(catalog) = file.filter(|file| **file == *project.dir.join(DEFAULT_CATALOG) && !file.exists()) {
        printer.message(&format!("made the catalog `{}`, since there was none", catalog.display()));
        return Ok(Workspace::create(dir, overrides, clock)?);
    }
    Ok(Workspace::open(dir, overrides, clock)?)
}
