//! The maintenance of the tables of a running stream, behind its commits: many
//! small files become few, and snapshots beyond the policy go.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoints::Checkpoints;
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
/// Seconds between two looks for old files of windows.
const SWEEP: f64 = 900.0;

/// Looks after the tables that `program` writes until it is dropped. Of the
/// processes of one stream on a machine one does it at a time. What goes wrong
/// is told and tried again: the stream does not need it.
pub(super) async fn upkeep(workspace: Workspace, program: Arc<Program>, warn: Option<Warn>) {
    let tables = workspace.project().settings.maintenance.streams;
    let (mut wait, mut swept) = (FIRST, workspace.clock().monotonic_seconds());
    loop {
        tokio::time::sleep(wait).await;
        wait = EVERY;
        let now = workspace.clock().monotonic_seconds();
        if now - swept >= SWEEP {
            swept = now;
            if let (Err(error), Some(warn)) = (sweep(&workspace, &program), &warn) {
                warn(&format!("old files of the windows of the stream could not be removed: {error}"));
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

/// Removes files of windows that nothing names any more.
fn sweep(workspace: &Workspace, program: &Program) -> Result<()> {
    let Some(_lock) = lock(workspace, program) else { return Ok(()) };
    let name = &program.pipeline.name;
    let Some(table) = workspace.lake().find(&program.table())? else { return Ok(()) };
    let state = StreamState::read(&table, name)?;
    Checkpoints::new(workspace.lake(), name).sweep(&table, name, &state, workspace.clock().now_millis())
}

async fn look(workspace: &Workspace, program: &Program) -> Result<()> {
    let Some(_lock) = lock(workspace, program) else { return Ok(()) };
    let context = sql::modest_session(workspace)?;
    let sides = program.sides.iter().map(|side| side.name.clone());
    let tables = std::iter::once(program.table()).chain(sides).chain([metrics::table_name()]);
    let mut failed: Option<(TableName, Error)> = None;
    for name in tables {
        let policy = &workspace.project().settings.maintenance;
        let done = policy::behind_stream(workspace.lake(), &context, &name, policy).await;
        match done {
            // A table that nothing was written to yet is not there.
            Err(error) if error.kind() == insightera_core::ErrorKind::NotFound => {}
            Err(error) => failed = failed.or(Some((name, error))),
            Ok(_) => {}
        }
    }
    match failed {
        None => Ok(()),
        Some((name, error)) => Err(Error::new(error.kind(), format!("table `{name}`: {error}")).cause(error)),
    }
}

/// Held by one process at a time; a project that cannot be written has none.
fn lock(workspace: &Workspace, program: &Program) -> Option<File> {
    let folder = member::folder(workspace);
    std::fs::create_dir_all(&folder).ok()?;
    let file = File::create(folder.join(format!("{}~upkeep.lock", program.pipeline.name))).ok()?;
    file.try_lock().ok().map(|()| file)
}
