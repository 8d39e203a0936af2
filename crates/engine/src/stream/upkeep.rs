//! The maintenance of the tables of a running stream, behind its commits: many
//! small files become few, and snapshots beyond the policy go.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoints::Checkpoints;
use super::forgotten::note_forgotten;
use super::member;
use super::program::Program;
use crate::lake::TableName;
use crate::lake::commit::StreamState;
use crate::lake::maintain::policy;
use crate::notify::Warn;
use crate::score::metrics;
use crate::sql;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Before the first look, and between two.
const FIRST: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_secs(60);
/// Seconds between two looks for old files of windows, and between two for
/// files that nothing reaches, for which the whole folder of a table is listed.
const SWEEP: f64 = 900.0;
const TIDY: f64 = 86_400.0;
/// Seconds until the first of each. The first sweep finds what a process that
/// was killed right before had not told of.
const FIRST_SWEEP: f64 = 150.0;
const FIRST_TIDY: f64 = 3600.0;

/// Looks after the tables that `program` writes until it is dropped. Of the
/// processes of one stream on a machine one does it at a time. What goes wrong
/// is told and tried again: the stream does not need it.
pub(super) async fn upkeep(workspace: Workspace, program: Arc<Program>, warn: Option<Warn>) {
    let tables = workspace.project().settings.maintenance.streams;
    let begun = workspace.clock().monotonic_seconds();
    let (mut wait, mut swept, mut tidied) = (FIRST, begun + FIRST_SWEEP - SWEEP, begun + FIRST_TIDY - TIDY);
    loop {
        tokio::time::sleep(wait).await;
        wait = EVERY;
        let now = workspace.clock().monotonic_seconds();
        if now - swept >= SWEEP {
            swept = now;
            if let (Err(error), Some(warn)) = (sweep(&workspace, &program), &warn) {
                warn(&format!("old files of the windows of the stream could not be removed: {error}"));
            }
            if let (Err(error), Some(warn)) = (note_commits(&workspace, &program).await, &warn) {
                warn(&format!(
                    "commits that `ml_monitoring.inference_metrics` has not got could not be added: {error}"
                ));
            }
        }
        if tables && now - tidied >= TIDY {
            tidied = now;
            if let (Err(error), Some(warn)) = (tidy(&workspace, &program), &warn) {
                warn(&format!("files that no table needs could not be moved away: {error}"));
            }
        }
        if tables
            && let Err(error) = look(&workspace, &program).await
            && let Some(warn) = &warn
        {
            warn(&format!("the tables of the stream could not be maintained: {error}"));
        }
    }
}

/// Adds commits to the metrics that nobody has told of.
async fn note_commits(workspace: &Workspace, program: &Program) -> Result<usize> {
    let Some(_lock) = lock(workspace, program) else { return Ok(0) };
    note_forgotten(workspace, program).await
}

/// That for the stream `name`, at once: for tests, which cannot wait.
///
/// # Errors
/// When the pipeline or a table cannot be read, or the append fails.
#[cfg(feature = "faults")]
pub async fn look_for_forgotten(workspace: &Workspace, name: &str) -> Result<usize> {
    note_commits(workspace, &Program::new(workspace, name).await?).await
}

/// Removes files of windows that nothing names any more.
fn sweep(workspace: &Workspace, program: &Program) -> Result<()> {
    let Some(_lock) = lock(workspace, program) else { return Ok(()) };
    let name = &program.pipeline.name;
    let Some(table) = workspace.lake().find(&program.table())? else { return Ok(()) };
    let state = StreamState::read(&table, name)?;
    Checkpoints::new(workspace.lake(), name).sweep(&table, name, &state, workspace.clock().now_millis())
}

/// Moves away what lost commits and killed processes left in the folders of the
/// tables, and deletes what was moved away long ago.
fn tidy(workspace: &Workspace, program: &Program) -> Result<()> {
    let Some(_lock) = lock(workspace, program) else { return Ok(()) };
    let (lake, policy) = (workspace.lake(), &workspace.project().settings.maintenance);
    let mut failed = Failed::default();
    for name in tables(program) {
        failed.note(&name, policy::put_orphans_away(lake, &name, policy).map(drop));
    }
    failed.result()?;
    policy::sweep(lake, policy).map(drop)
}

async fn look(workspace: &Workspace, program: &Program) -> Result<()> {
    let Some(_lock) = lock(workspace, program) else { return Ok(()) };
    let context = sql::modest_session(workspace)?;
    let mut failed = Failed::default();
    for name in tables(program) {
        let policy = &workspace.project().settings.maintenance;
        failed.note(&name, policy::behind_stream(workspace.lake(), &context, &name, policy).await.map(drop));
    }
    failed.result()
}

/// The tables that a stream writes.
fn tables(program: &Program) -> impl Iterator<Item = TableName> {
    let sides = program.sides.iter().map(|side| side.name.clone());
    std::iter::once(program.table()).chain(sides).chain([metrics::table_name()])
}

/// What went wrong first; the other tables are looked after all the same.
#[derive(Default)]
struct Failed(Option<Error>);

impl Failed {
    fn note(&mut self, name: &TableName, done: Result<()>) {
        match done {
            // A table that nothing was written to yet is not there.
            Err(error) if error.kind() != insightera_core::ErrorKind::NotFound && self.0.is_none() => {
                self.0 = Some(Error::new(error.kind(), format!("table `{name}`: {error}")).cause(error));
            }
            _ => {}
        }
    }

    fn result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Held by one process at a time; a project that cannot be written has none.
fn lock(workspace: &Workspace, program: &Program) -> Option<File> {
    let folder = member::folder(workspace);
    std::fs::create_dir_all(&folder).ok()?;
    let file = File::create(folder.join(format!("{}~upkeep.lock", program.pipeline.name))).ok()?;
    file.try_lock().ok().map(|()| file)
}
