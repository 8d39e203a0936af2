//! One of the processes that run a stream of this project: it has a number of
//! its own, the lowest that is free, for as long as it lives. Started again it
//! mostly has the same one, so that a group knows it again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::status;
use crate::workspace::Workspace;

/// More processes than this have no number of their own.
const MOST: u32 = 1024;

/// Longer than it takes to see whether a number is taken, and how often it is
/// waited for those that look.
const GLANCE: Duration = Duration::from_millis(5);
const GLANCES: u32 = 100;

/// A process.
#[derive(Debug)]
pub struct Member {
    /// Its number, from 0 on.
    pub number: u32,
    /// Its name in a group, the same whenever it has this number.
    pub name: String,
    /// Locked as long as the process lives.
    _lock: Option<File>,
}

impl Member {
    /// Takes a number. Where the project cannot be written the process is a
    /// new one every time.
    pub fn take(workspace: &Workspace, pipeline: &str) -> Self {
        let folder = folder(workspace);
        let stranger = || Self { number: 0, name: Uuid::new_v4().simple().to_string(), _lock: None };
        let Some(place) = place(&folder) else { return stranger() };
        for number in 0..MOST {
            let Ok(file) = File::create(lock_file(&folder, pipeline, number)) else { return stranger() };
            if is_taken(&file) {
                continue;
            }
            status::set_past(workspace, pipeline, number);
            return Self { number, name: format!("{place}-{number}"), _lock: Some(file) };
        }
        stranger()
    }

    /// The numbers of a pipeline, and whether a process has each.
    pub fn all(workspace: &Workspace, pipeline: &str) -> Vec<(u32, bool)> {
        let folder = folder(workspace);
        let lives = |number: u32| {
            let file = File::open(lock_file(&folder, pipeline, number)).ok()?;
            Some((number, file.try_lock_shared().is_err()))
        };
        (0..MOST).map_while(lives).collect()
    }
}

/// Locks the file of a number, unless a process has it.
fn is_taken(file: &File) -> bool {
    for _ in 0..GLANCES {
        if file.try_lock().is_ok() {
            return false;
        }
        // Whoever looks who is there shares the lock for a moment; whoever has
        // the number does not.
        if file.try_lock_shared().is_err() {
            return true;
        }
        let _ = file.unlock();
        std::thread::sleep(GLANCE);
    }
    true
}

/// Where processes keep what others of this machine may see.
pub fn folder(workspace: &Workspace) -> PathBuf {
    workspace.cache().join("stream")
}

fn lock_file(folder: &Path, pipeline: &str, number: u32) -> PathBuf {
    folder.join(format!("{pipeline}~{number}.lock"))
}

/// What this copy of the project is called among others of it.
fn place(folder: &Path) -> Option<String> {
    std::fs::create_dir_all(folder).ok()?;
    let path = folder.join("place");
    let known = |path: &Path| std::fs::read_to_string(path).ok().filter(|name| Uuid::parse_str(name).is_ok());
    if let Some(name) = known(&path) {
        return Some(name);
    }
    // Two may begin at once: one file has its whole content and the name.
    let own = folder.join(format!("place-{}", Uuid::new_v4()));
    std::fs::write(&own, Uuid::new_v4().simple().to_string()).ok()?;
    let _ = std::fs::hard_link(&own, &path);
    let _ = std::fs::remove_file(&own);
    known(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_look_take_no_number_and_a_process_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live~0.lock");
        let (file, other) = (File::create(&path).unwrap(), File::create(&path).unwrap());
        let looking = std::thread::spawn(move || {
            other.lock_shared().unwrap();
            std::thread::sleep(20 * GLANCE);
            drop(other);
        });
        std::thread::sleep(GLANCE);
        assert!(!is_taken(&file));
        looking.join().unwrap();
        let other = File::open(&path).unwrap();
        assert!(other.try_lock_shared().is_err(), "who looks sees the process");
        assert!(is_taken(&other), "and another does not take its number");
        drop(file);
        assert!(!is_taken(&other));
    }
}
