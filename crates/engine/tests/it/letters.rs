//! Dead letters that can be read now are scored exactly once, whenever the
//! replay is killed, robbed of power or overtaken by another.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use insightera_core::SystemClock;
use insightera_engine::stream::{self, ReplaySummary};
use insightera_engine::{Result, Workspace};

use crate::project::{block_on, tell};
use crate::stream_faults::copy;
use crate::streams::{LIVE, Ledger, append, ledger, lines, prepare, text_rows, try_stream};

/// Only does something as a child.
#[test]
fn child() {
    let Ok(folder) = std::env::var("INSIGHTERA_TEST_LETTERS") else { return };
    replay(&open(Path::new(&folder))).unwrap();
}

fn open(folder: &Path) -> Workspace {
    Workspace::open(folder, Default::default(), std::sync::Arc::new(SystemClock::new())).unwrap()
}

fn replay(workspace: &Workspace) -> Result<ReplaySummary> {
    block_on(stream::replay_dead_letters(workspace, "live", None))
}

fn start(folder: &Path, fault: &str, bug: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "letters::child", "--nocapture", "--test-threads=1"])
        .env("INSIGHTERA_TEST_LETTERS", folder)
        .env("INSIGHTERA_FAULT", fault)
        .env("INSIGHTERA_BUG", bug)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What is in the tables of the stream, and in that of the replays.
type All = (Ledger, Vec<String>);

fn all(workspace: &Workspace) -> All {
    let query = "SELECT source_partition, source_offset, outcome FROM ml.dead_replayed";
    (ledger(workspace), text_rows(workspace, "ml.dead_replayed", query).into_iter().collect())
}

struct Template {
    _temp: tempfile::TempDir,
    folder: PathBuf,
    aside: PathBuf,
    before: Ledger,
    /// After a replay to which nothing happened.
    wanted: All,
}

/// A stream with dead letters, of which those that came from the future can be
/// read now.
fn template() -> Template {
    let temp = tempfile::tempdir().unwrap();
    let (folder, aside) = (temp.path().join("project"), temp.path().join("aside"));
    prepare(&folder);
    for file in 0..2 {
        append(&folder, file, &lines(file, 0, 150));
    }
    try_stream(&open(&folder)).unwrap();
    let mended = LIVE.replace("max_future = \"2 hours\"", "max_future = \"40000 days\"");
    std::fs::write(folder.join("pipelines/live.toml"), mended).unwrap();
    let before = ledger(&open(&folder));
    copy(&folder, &aside);
    let workspace = open(&folder);
    let done = replay(&workspace).unwrap();
    assert!(done.scored > 3 && done.unreadable > 3 && done.late == 0, "{done:?}");
    let wanted = all(&workspace);
    assert_eq!(wanted.0.predictions.len(), before.predictions.len() + done.scored as usize);
    assert!(wanted.0.predictions.is_superset(&before.predictions), "what was there stays");
    assert_eq!((&wanted.0.dead, &wanted.0.late), (&before.dead, &before.late), "letters stay where they are");
    assert_eq!(wanted.1.len(), done.scored as usize);
    Template { _temp: temp, folder, aside, before, wanted }
}

impl Template {
    fn reset(&self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
        copy(&self.aside, &self.folder);
    }

    fn operations(&self) -> Vec<String> {
        self.reset();
        let log = self.folder.join("operations");
        assert!(start(&self.folder, &format!("record:{}", log.display()), "").wait().unwrap().success());
        std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
    }

    /// Replays with a fault, then without; says what is wrong then.
    fn find(&self, fault: &str, bug: &str) -> Option<String> {
        self.reset();
        start(&self.folder, fault, bug).wait().unwrap();
        self.wrong()
    }

    fn wrong(&self) -> Option<String> {
        let ended = std::panic::catch_unwind(|| {
            let workspace = open(&self.folder);
            if let Err(error) = replay(&workspace) {
                return Some(format!("the next replay: {error}"));
            }
            match replay(&workspace) {
                Ok(second) if second.snapshot_id.is_none() && second.scored == 0 => {}
                other => return Some(format!("another replay does something: {other:?}")),
            }
            let found = all(&workspace);
            let of = |all: &All| [all.0.predictions.len(), all.0.late.len(), all.0.alerts.len(), all.1.len()];
            (found != self.wanted).then(|| format!("the tables have {:?}, wanted {:?}", of(&found), of(&self.wanted)))
        });
        ended.unwrap_or_else(|panic| {
            Some(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "nothing opens".to_owned()))
        })
    }
}

#[test]
fn a_replay_killed_before_or_after_any_durable_operation_scores_each_letter_once() {
    let template = template();
    let operations = template.operations();
    let commits = operations.iter().filter(|o| o.split('\t').nth(1) == Some("Swap")).count();
    assert!(commits >= 5 + 3, "{commits} swaps");
    let last = operations.len();
    for (number, operation) in (1..).zip(&operations) {
        for when in ["before", "after"] {
            template.reset();
            let ended = start(&template.folder, &format!("kill:{when}:{number}"), "").wait().unwrap();
            let spared = number == last && ended.success();
            assert!(ended.signal().is_some() || spared, "it was not killed {when} {number} of {last}: {ended}");
            assert_eq!(template.wrong(), None, "killed {when} {operation}");
        }
    }
    tell(format_args!("{last} durable operations of {commits} commits, killed before and after each"));
}

#[test]
fn a_replay_whose_predictions_come_before_its_record_is_found() {
    let template = template();
    let swaps = template.operations().iter().filter(|o| o.split('\t').nth(1) == Some("Swap")).count();
    let found = (5..=swaps).find_map(|swap| template.find(&format!("kill:after:swap@{swap}"), "PredictionsFirst"));
    assert!(found.is_some());
}

#[test]
fn of_two_replays_at_once_each_letter_is_scored_by_one() {
    let template = template();
    let swaps = template.operations().iter().filter(|o| o.split('\t').nth(1) == Some("Swap")).count();
    for swap in 1..=swaps {
        template.reset();
        let gate = template.folder.join("gate");
        let waiting = template.folder.join("gate.waiting");
        let mut paused = start(&template.folder, &format!("pause:swap@{swap}:{}", gate.display()), "");
        while !waiting.exists() {
            std::thread::sleep(std::time::Duration::from_millis(2));
            assert!(paused.try_wait().unwrap().is_none(), "the paused replay ended before its swap {swap}");
        }
        assert!(start(&template.folder, "", "").wait().unwrap().success());
        std::fs::write(&gate, b"").unwrap();
        paused.wait().unwrap();
        assert_eq!(template.wrong(), None, "paused before swap {swap}");
    }
}

#[test]
fn a_stream_goes_on_as_if_nothing_was_replayed() {
    let template = template();
    template.reset();
    let workspace = open(&template.folder);
    replay(&workspace).unwrap();
    std::fs::write(template.folder.join("pipelines/live.toml"), LIVE).unwrap();
    let workspace = open(&template.folder);
    for file in 0..2 {
        append(&template.folder, file, &lines(file, 150, 60));
    }
    try_stream(&workspace).unwrap();
    let after = ledger(&workspace);
    assert!(after.predictions.is_superset(&template.wanted.0.predictions));
    assert!(after.predictions.len() > template.wanted.0.predictions.len() + 50);
    assert!(after.dead.is_superset(&template.before.dead));
}
