//! `demo`: a university with data and models, scored on two days.
//!
//! Flow: folder and marker → gold tables and models → day one (run all) → the
//! next day's changes → plan, run, verify → what changed, by time travel.
//!
//! The demo tells its story on standard output while it goes on. It leaves a
//! project in which every command works. A finished demo is recognised, an
//! interrupted one is built again, and a folder that is not its own is left
//! alone.

mod assets;
mod folder;
mod gold;
mod live;
mod story;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use insightera_core::SystemClock;
use insightera_engine::config::{Overrides, render_default_project};
use insightera_engine::{Error, Workspace};

use self::folder::{Marker, State, failed};
use super::Answer;
use crate::printer::Printer;
use crate::progress::Bars;
use crate::resolve::{Demo, DemoAction};
use crate::text;
use crate::university::University;

/// The training sets.
const TRAINING_SETS: &[&str] = &["dropout", "budget", "publication"];

/// Runs the demo.
pub async fn demo(demo: Demo, overrides: Overrides, printer: &Printer) -> anyhow::Result<Answer> {
    let university = University::with_students(demo.students, demo.seed);
    match demo.action {
        DemoAction::ExportTraining(dir) => export_training(&dir, &university, printer),
        DemoAction::Clean => clean(&demo.dir, &university, printer),
        DemoAction::Show => show(&demo, &university, overrides, printer).await,
    }
}

async fn show(demo: &Demo, university: &University, overrides: Overrides, printer: &Printer) -> anyhow::Result<Answer> {
    let dir = demo.dir.as_path();
    // The demo's tables belong into its folder, whatever the environment says.
    let overrides = Overrides { warehouse: Some(dir.join("warehouse")), ..overrides };
    let clock = Arc::new(SystemClock::new());
    match folder::state(dir)? {
        State::Foreign => {
            return Err(Error::conflict(format!("`{}` is not empty, and no demo made it", dir.display()))
                .hint("nothing was changed; choose a new folder with --dir")
                .into());
        }
        State::Finished(marker) if (marker.students, marker.seed) != (demo.students, demo.seed) => {
            let text = format!(
                "`{}` holds a demo with {} students and seed {}",
                dir.display(),
                text::count(marker.students),
                marker.seed
            );
            return Err(Error::conflict(text)
                .hint(format!(
                    "remove it with `insightera demo --clean --dir {}`, or choose another --dir",
                    dir.display()
                ))
                .into());
        }
        State::Finished(marker) => {
            let workspace = Workspace::open(dir, overrides, clock)?;
            return story::again(&workspace, dir, &marker, printer).await;
        }
        State::Interrupted => {
            printer.message(&format!("`{}` holds an interrupted demo, which is built again", dir.display()));
            folder::remove(dir, &gold::parquet_folders(university), true)?;
        }
        State::Empty => fs::create_dir_all(dir).map_err(|e| failed("make", dir, e))?,
    }
    let mut marker = Marker { format: 1, students: demo.students, seed: demo.seed, finished: None };
    folder::write_marker(dir, &marker)?;
    write_project(dir, university)?;
    let workspace = Workspace::create(dir, overrides, clock)?;
    marker.finished = Some(story::tell(&workspace, university, demo, printer, &Bars::new(printer)).await?);
    folder::write_marker(dir, &marker)?;
    Ok(Answer::silent())
}

/// The project file and the pipelines.
fn write_project(dir: &Path, university: &University) -> anyhow::Result<()> {
    let mut project = String::from(render_default_project());
    for folder in gold::parquet_folders(university) {
        let path = folder.display().to_string().replace('\\', "/");
        let table = path.trim_start_matches("gold/").replace('/', ".");
        project.push_str(&format!("\n[inputs.\"{table}\"]\nparquet = \"{path}\"\n"));
    }
    let pipelines = dir.join("pipelines");
    fs::create_dir_all(&pipelines).map_err(|e| failed("make", &pipelines, e))?;
    for events in assets::EVENTS {
        let events = dir.join(events);
        fs::create_dir_all(&events).map_err(|e| failed("make", &events, e))?;
    }
    let files = assets::PIPELINES.iter().map(|(name, text)| (pipelines.join(format!("{name}.toml")), *text));
    for (path, text) in files.chain([(dir.join("insightera.toml"), project.as_str())]) {
        fs::write(&path, text).map_err(|e| failed("write", &path, e))?;
    }
    Ok(())
}

fn clean(dir: &Path, university: &University, printer: &Printer) -> anyhow::Result<Answer> {
    match folder::state(dir)? {
        State::Empty => {
            printer.message(&format!("there is no demo in `{}`", dir.display()));
            return Ok(Answer::silent());
        }
        State::Foreign => {
            return Err(Error::conflict(format!("no demo made `{}`", dir.display()))
                .hint("nothing was removed; name the demo's folder with --dir")
                .into());
        }
        State::Interrupted | State::Finished(_) => {}
    }
    let left = folder::remove(dir, &gold::parquet_folders(university), false)?;
    if left.is_empty() {
        printer.message(&format!("removed `{}`", dir.display()));
    } else {
        printer.message(&format!(
            "removed the demo from `{}`; not made by it and kept: {}",
            dir.display(),
            left.join(", ")
        ));
    }
    Ok(Answer::silent())
}

fn export_training(dir: &Path, university: &University, printer: &Printer) -> anyhow::Result<Answer> {
    for name in TRAINING_SETS {
        let rows = university.training_set(name);
        let path = dir.join(format!("{name}.parquet"));
        let mut writer = gold::open(&path, &rows)?;
        let cannot = |e| Error::unavailable(format!("cannot write `{}`", path.display())).cause(e);
        writer.write(&rows).map_err(cannot)?;
        writer.close().map_err(cannot)?;
        printer.message(&format!("wrote {} rows to `{}`", text::count(rows.num_rows() as u64), path.display()));
    }
    Ok(Answer::silent())
}

#[cfg(test)]
mod tests {
    use super::*;
    use insightera_engine::config::{PipelineKind, Project};

    #[test]
    fn the_project_that_the_demo_writes_can_be_read() {
        let temp = tempfile::tempdir().unwrap();
        let university = University::with_students(100, 1);
        write_project(temp.path(), &university).unwrap();
        let project = Project::load(temp.path()).unwrap();
        assert_eq!(project.pipeline_names().count(), assets::PIPELINES.len());
        let streams: Vec<&str> = project.names_of(PipelineKind::Stream).collect();
        assert_eq!(streams, ["dropout_risk_realtime", "transaction_anomaly_realtime"]);
        for name in &streams {
            project.stream(name).unwrap();
        }
        assert_eq!(project.pipelines().unwrap().len() + streams.len(), assets::PIPELINES.len());
        let inputs: Vec<&String> = project.settings.inputs.keys().collect();
        assert_eq!(
            inputs,
            ["financial_features.budget_utilization_features", "researcher_features.publication_features"]
        );
    }
}
