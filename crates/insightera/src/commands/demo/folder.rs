//! The demo's folder: what is in it, whose it is, and how it goes away.
//!
//! The marker file is written first and removed last, so a folder with a
//! marker is ours even if the demo was interrupted. Only what the demo makes
//! is removed, by name; the rest stays, and with it the folder.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use insightera_engine::{Error, Result};
use serde::{Deserialize, Serialize};

use super::assets::{EVENTS, PIPELINES};
use super::live;

const MARKER: &str = "insightera-demo.json";

/// The folders that the demo and the commands in it fill, deepest first.
const FOLDERS: &[&str] = &["warehouse", "registry", ".insightera"];

/// Where the Parquet inputs are.
pub const GOLD: &str = "gold";

/// What the marker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The version of this file.
    pub format: u32,
    /// The size of the university.
    pub students: u64,
    /// Its seed.
    pub seed: u64,
    /// Once the demo is finished.
    pub finished: Option<Finished>,
}

/// What a finished demo knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The snapshot of the dropout predictions of day one.
    pub day_one_snapshot: i64,
    /// The student of the story.
    pub student: String,
}

/// What a folder is to the demo.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// Missing or empty.
    Empty,
    /// It has things, and no marker.
    Foreign,
    /// A demo that was interrupted.
    Interrupted,
    /// A finished demo.
    Finished(Marker),
}

/// Looks at a folder.
pub fn state(dir: &Path) -> Result<State> {
    let Some(marker) = read_marker(dir)? else {
        return Ok(match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => State::Empty,
            Ok(false) => State::Foreign,
            Err(error) if error.kind() == ErrorKind::NotFound => State::Empty,
            Err(error) => return Err(failed("read", dir, error)),
        });
    };
    Ok(if marker.finished.is_some() { State::Finished(marker) } else { State::Interrupted })
}

/// The marker of a folder. A marker that cannot be read is no marker: better
/// to refuse than to remove what may be somebody else's.
fn read_marker(dir: &Path) -> Result<Option<Marker>> {
    match fs::read(dir.join(MARKER)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(failed("read", &dir.join(MARKER), error)),
    }
}

/// Writes the marker, whole or not at all.
pub fn write_marker(dir: &Path, marker: &Marker) -> anyhow::Result<()> {
    let (path, new) = (dir.join(MARKER), dir.join(format!("{MARKER}.new")));
    let text = serde_json::to_string_pretty(marker)? + "\n";
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    Ok(write().map_err(|e| failed("write", &path, e))?)
}

/// Removes what the demo made; what it did not make is returned and stays.
/// With `keep_marker` the marker stays as well, for a new start.
pub fn remove(dir: &Path, parquet_folders: &[PathBuf], keep_marker: bool) -> Result<Vec<String>> {
    for folder in FOLDERS.iter().map(PathBuf::from).chain(parquet_folders.iter().cloned()) {
        tolerate_missing(fs::remove_dir_all(dir.join(&folder))).map_err(|e| failed("remove", &dir.join(&folder), e))?;
    }
    let pipelines = PIPELINES.iter().map(|(name, _)| format!("pipelines/{name}.toml"));
    let events = EVENTS.iter().map(|folder| format!("{folder}/{}", live::FILE));
    for file in pipelines.chain(events).chain(["insightera.toml".to_owned(), format!("{MARKER}.new")]) {
        tolerate_missing(fs::remove_file(dir.join(&file))).map_err(|e| failed("remove", &dir.join(&file), e))?;
    }
    // Those that are empty now; others hold things that are not ours.
    for folder in parquet_folders.iter().filter_map(|folder| folder.parent()) {
        let _ = fs::remove_dir(dir.join(folder));
    }
    // Folders of events go only when nobody has put events there.
    for folder in EVENTS.iter().copied().chain(["events", GOLD, "pipelines"]) {
        let _ = fs::remove_dir(dir.join(folder));
    }
    if keep_marker {
        return Ok(Vec::new());
    }
    tolerate_missing(fs::remove_file(dir.join(MARKER))).map_err(|e| failed("remove", &dir.join(MARKER), e))?;
    let mut left: Vec<String> = fs::read_dir(dir)
        .map_err(|e| failed("read", dir, e))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    left.sort();
    if left.is_empty() {
        fs::remove_dir(dir).map_err(|e| failed("remove", dir, e))?;
    }
    Ok(left)
}

fn tolerate_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// An error of the file system.
pub fn failed(action: &str, path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("cannot {action} `{}`", path.display())).cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(finished: bool) -> Marker {
        let finished = finished.then(|| Finished { day_one_snapshot: 7, student: "1".into() });
        Marker { format: 1, students: 100, seed: 42, finished }
    }

    #[test]
    fn a_folder_without_a_marker_is_not_ours() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(state(&temp.path().join("missing")).unwrap(), State::Empty);
        assert_eq!(state(temp.path()).unwrap(), State::Empty);
        fs::write(temp.path().join("letter.txt"), "dear").unwrap();
        assert_eq!(state(temp.path()).unwrap(), State::Foreign);
        fs::write(temp.path().join(MARKER), "not json").unwrap();
        assert_eq!(state(temp.path()).unwrap(), State::Foreign);
        write_marker(temp.path(), &marker(false)).unwrap();
        assert_eq!(state(temp.path()).unwrap(), State::Interrupted);
        write_marker(temp.path(), &marker(true)).unwrap();
        assert_eq!(state(temp.path()).unwrap(), State::Finished(marker(true)));
    }

    #[test]
    fn only_what_the_demo_made_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("demo");
        let parquet = PathBuf::from("gold/a/b");
        for folder in ["pipelines", "warehouse/data", "registry", "gold/a/b", EVENTS[0], EVENTS[1]] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        for file in ["insightera.toml", "pipelines/dropout_risk.toml", "pipelines/mine.toml", "notes.txt"] {
            fs::write(dir.join(file), "").unwrap();
        }
        fs::write(dir.join(EVENTS[0]).join(live::FILE), "").unwrap();
        fs::write(dir.join(EVENTS[1]).join("mine.ndjson"), "").unwrap();
        write_marker(&dir, &marker(true)).unwrap();
        assert_eq!(remove(&dir, &[parquet], false).unwrap(), ["events", "notes.txt", "pipelines"]);
        assert!(!dir.join(EVENTS[0]).exists() && dir.join(EVENTS[1]).join("mine.ndjson").exists());
        assert!(dir.join("pipelines/mine.toml").exists() && !dir.join("pipelines/dropout_risk.toml").exists());
        assert!(!dir.join("gold").exists() && !dir.join("warehouse").exists());
    }
}
