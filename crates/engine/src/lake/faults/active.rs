//! What a test does to numbered operations: by its environment to the whole
//! process, by a plan to what is below one folder.

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::power;
pub use super::power::{file_created, file_moved, folder_created};
use super::{Bug, Stage};

enum Plan {
    None,
    Record(PathBuf),
    End { after: bool, power: bool, at: Place },
}

/// An operation by its number in the process. Threads that run beside each
/// other can shift the numbers of all operations, not those of the swaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Operation(u64),
    Swap(u64),
}

static COUNT: AtomicU64 = AtomicU64::new(0);
static SWAPS: AtomicU64 = AtomicU64::new(0);
static SWAPS_BEGUN: AtomicU64 = AtomicU64::new(0);
static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    let text = std::env::var("INSIGHTERA_FAULT").unwrap_or_default();
    let parts: Vec<&str> = text.splitn(3, ':').collect();
    match parts.as_slice() {
        ["record", file] => Plan::Record(file.into()),
        [kind @ ("kill" | "power"), when, at] => {
            let number = |text: &str| text.parse().expect("INSIGHTERA_FAULT: a number");
            Plan::End {
                after: *when == "after",
                power: *kind == "power",
                at: match at.strip_prefix("swap@") {
                    Some(swap) => Place::Swap(number(swap)),
                    None => Place::Operation(number(at)),
                },
            }
        }
        _ => Plan::None,
    }
});
static BUG: LazyLock<String> = LazyLock::new(|| std::env::var("INSIGHTERA_BUG").unwrap_or_default());

thread_local! {
    /// The operation that runs leaves its fsync out.
    static SKIPPED: Cell<bool> = const { Cell::new(false) };
}

fn end(power: bool) -> ! {
    if power {
        power::lose(Path::new("/"), 0);
    }
    std::process::abort()
}

/// What happens at one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accident {
    /// The machine stops before or after it.
    Stop {
        /// Whether the operation is done.
        after: bool,
        /// The power is lost: the seed chooses what of that which is not
        /// durable is lost, 0 all of it.
        power: Option<u64>,
    },
    /// It is not done and answers an error; those that follow are done.
    Fails,
    /// It is done and answers an error.
    ReplyLost,
}

/// What has become of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// There were fewer operations.
    Nothing,
    /// One operation answered an error.
    Error,
    /// The machine stopped.
    Stop,
}

/// An accident to come, or one that has happened.
struct Planned {
    folder: PathBuf,
    operations_left: u64,
    accident: Accident,
}

static PLANNED: Mutex<Vec<Planned>> = Mutex::new(Vec::new());

fn planned() -> MutexGuard<'static, Vec<Planned>> {
    PLANNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plans an accident at the `n`-th durable operation below `folder` from now.
pub fn plan_accident(folder: &Path, n: u64, accident: Accident) {
    planned().push(Planned { folder: folder.to_owned(), operations_left: n.max(1), accident });
}

/// Switches the machine on again, and drops what did not happen.
pub fn recover(folder: &Path) -> Happened {
    let mut all = planned();
    let happened = match all.iter().find(|p| p.folder == folder && p.operations_left == 0) {
        None => Happened::Nothing,
        Some(Planned { accident: Accident::Stop { .. }, .. }) => Happened::Stop,
        Some(_) => Happened::Error,
    };
    all.retain(|p| p.folder != folder);
    happened
}

/// Whether the machine has stopped, below `folder`.
pub fn is_off(folder: &Path) -> bool {
    let stopped = |plan: &Planned| plan.operations_left == 0 && matches!(plan.accident, Accident::Stop { .. });
    planned().iter().any(|plan| plan.folder == folder && stopped(plan))
}

/// What an accident does to an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    NotDone,
    Fails,
    DoneAndLast,
    ReplyLost,
}

fn fate(path: &Path) -> Fate {
    let mut all = planned();
    let Some(plan) = all.iter_mut().find(|p| path.starts_with(&p.folder)) else { return Fate::Done };
    if plan.operations_left == 0 {
        return if matches!(plan.accident, Accident::Stop { .. }) { Fate::NotDone } else { Fate::Done };
    }
    plan.operations_left -= 1;
    if plan.operations_left > 0 {
        return Fate::Done;
    }
    match plan.accident {
        Accident::Fails => Fate::Fails,
        Accident::ReplyLost => Fate::ReplyLost,
        Accident::Stop { after: true, .. } => Fate::DoneAndLast,
        Accident::Stop { after: false, power } => {
            strike(&plan.folder, power);
            Fate::NotDone
        }
    }
}

fn strike(folder: &Path, power: Option<u64>) {
    if let Some(seed) = power {
        power::lose(folder, seed);
    }
}

fn strike_at(path: &Path) {
    if let Some(plan) = planned().iter().find(|p| path.starts_with(&p.folder))
        && let Accident::Stop { power, .. } = plan.accident
    {
        strike(&plan.folder, power);
    }
}

/// Numbers an operation and carries it out.
pub fn step<T>(stage: Stage, what: &str, path: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let skipped = (bug(Bug::NoMetadataFsync) && stage == Stage::Metadata && what == "fsync")
        || (bug(Bug::NoDirectoryFsync) && what == "fsync directory");
    let fate = fate(path);
    match fate {
        Fate::NotDone => return Err(io::Error::other("the power is off")),
        Fate::Fails => return Err(io::Error::other("a failure on purpose")),
        _ => {}
    }
    let n = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
    let swap = (stage == Stage::Swap).then(|| SWAPS.fetch_add(1, Ordering::SeqCst) + 1);
    let here = |at: Place| at == Place::Operation(n) || swap.is_some_and(|swap| at == Place::Swap(swap));
    match &*PLAN {
        Plan::Record(file) => {
            let mut log = fs::OpenOptions::new().create(true).append(true).open(file)?;
            // One write, since several threads log.
            log.write_all(format!("{n}\t{stage:?}\t{what}\t{}\n", path.display()).as_bytes())?;
        }
        Plan::End { after: false, power, at } if here(*at) => end(*power),
        _ => {}
    }
    let removed = if what == "remove" { power::about_to_remove(path) } else { None };
    SKIPPED.set(skipped);
    let result = act();
    SKIPPED.set(false);
    if result.is_ok() {
        power::removed(removed);
    }
    if let Plan::End { after: true, power, at } = &*PLAN
        && here(*at)
    {
        end(*power)
    }
    match fate {
        Fate::DoneAndLast => {
            strike_at(path);
            Err(io::Error::other("the power is off"))
        }
        Fate::ReplyLost => result.and_then(|_| Err(io::Error::other("a reply that is lost on purpose"))),
        _ => result,
    }
}

/// A file's content is durable. Called by the operation itself.
pub fn file_synced(path: &Path) {
    if !SKIPPED.get() {
        power::file_synced(path);
    }
}

/// A directory's names are durable. Called by the operation itself.
pub fn directory_synced(path: &Path) {
    if !SKIPPED.get() {
        power::directory_synced(path);
    }
}

/// Whether a known bug is put back.
pub fn bug(bug: Bug) -> bool {
    !BUG.is_empty() && *BUG == format!("{bug:?}")
}

/// Waits before a pointer swap, when a test asks for it.
pub fn before_swap() {
    let text = std::env::var("INSIGHTERA_FAULT").unwrap_or_default();
    let swap = SWAPS_BEGUN.fetch_add(1, Ordering::SeqCst) + 1;
    let file = match text.strip_prefix("pause:swap@").and_then(|rest| rest.split_once(':')) {
        Some((at, file)) => (at.parse() == Ok(swap)).then_some(file),
        None => text.strip_prefix("pause:swap:"),
    };
    if let Some(file) = file {
        let _ = fs::write(format!("{file}.waiting"), b"");
        while !Path::new(file).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Whether a swap's answer gets lost.
pub fn lose_reply() -> bool {
    std::env::var("INSIGHTERA_FAULT").is_ok_and(|text| text == "lose-reply")
}
