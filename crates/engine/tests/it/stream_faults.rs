//! A stream killed, robbed of power, overtaken and lied to: afterwards every
//! event is in exactly one table, exactly once. The work happens in a child
//! process: this test program, started again with the fault in its
//! environment.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use insightera_core::SystemClock;
use insightera_engine::Workspace;
use insightera_engine::lake::TableName;

use crate::project::tell;
use crate::streams::{append, ledger, lines, oracle, prepare, try_stream};

/// Only does something as a child.
#[test]
fn child() {
    let Ok(folder) = std::env::var("INSIGHTERA_TEST_STREAM") else { return };
    try_stream(&open(Path::new(&folder))).unwrap();
}

fn open(folder: &Path) -> Workspace {
    Workspace::open(folder, Default::default(), std::sync::Arc::new(SystemClock::new())).unwrap()
}

fn start(folder: &Path, fault: &str, bug: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stream_faults::child", "--nocapture", "--test-threads=1"])
        .env("INSIGHTERA_TEST_STREAM", folder)
        .env("INSIGHTERA_FAULT", fault)
        .env("INSIGHTERA_BUG", bug)
        .env("RUST_BACKTRACE", "0")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

fn do_it(folder: &Path, fault: &str, bug: &str) -> ExitStatus {
    start(folder, fault, bug).wait().unwrap()
}

struct Template {
    _temp: tempfile::TempDir,
    folder: PathBuf,
    aside: PathBuf,
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A stream that has run once, and events that come next: enough for three
/// commits.
fn template() -> Template {
    let temp = tempfile::tempdir().unwrap();
    let (folder, aside) = (temp.path().join("project"), temp.path().join("aside"));
    prepare(&folder);
    for file in 0..2 {
        append(&folder, file, &lines(file, 0, 25));
    }
    assert!(do_it(&folder, "", "").success());
    for file in 0..2 {
        append(&folder, file, &lines(file, 25, 45));
    }
    copy(&folder, &aside);
    Template { _temp: temp, folder, aside }
}

impl Template {
    fn reset(&self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
        copy(&self.aside, &self.folder);
    }

    /// Snapshots of the prediction table.
    fn commits(&self) -> usize {
        let name = TableName { namespace: "ml".into(), name: "live".into() };
        open(&self.folder).lake().table(&name).unwrap().metadata().snapshots().count()
    }

    /// The durable operations of one run.
    fn operations(&self) -> Vec<String> {
        self.reset();
        let log = self.folder.join("operations");
        assert!(do_it(&self.folder, &format!("record:{}", log.display()), "").success());
        let text = std::fs::read_to_string(log).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Runs with a fault and a bug, then without; says what is wrong then.
    fn find(&self, fault: &str, bug: &str) -> Option<String> {
        self.reset();
        do_it(&self.folder, fault, bug);
        self.wrong()
    }

    /// Runs into an end at each durable operation, before and after it, and then
    /// to the end of the events; says of how many operations.
    fn end_everywhere(&self, how: &str) -> Vec<String> {
        let operations = self.operations();
        let last = operations.len();
        for number in 1..=last {
            for when in ["before", "after"] {
                self.reset();
                let ended = do_it(&self.folder, &format!("{how}:{when}:{number}"), "");
                let what = format!("{how} {when} {number} of {last}: {}", operations[number - 1]);
                // Threads that make folders durable beside each other can need one operation less.
                assert!(ended.signal().is_some() || (number == last && ended.success()), "{what}: {ended}");
                assert_eq!(self.wrong(), None, "{what}");
            }
        }
        operations
    }

    fn wrong(&self) -> Option<String> {
        let ended = std::panic::catch_unwind(|| {
            let workspace = open(&self.folder);
            if let Err(error) = try_stream(&workspace) {
                return Some(format!("the next start: {error}"));
            }
            let (found, wanted) = (ledger(&workspace), oracle(&self.folder));
            (found != wanted).then(|| {
                let of = |l: &crate::streams::Ledger| [l.predictions.len(), l.late.len(), l.dead.len(), l.alerts.len()];
                format!("the tables have {:?}, the files {:?}", of(&found), of(&wanted))
            })
        });
        ended.unwrap_or_else(|panic| {
            Some(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "nothing opens".to_owned()))
        })
    }

    /// Another process runs to the end while one waits before its n-th swap.
    fn race(&self, swap: usize, bug: &str) -> Option<String> {
        self.reset();
        let gate = self.folder.join("gate");
        let waiting = self.folder.join("gate.waiting");
        let mut paused = start(&self.folder, &format!("pause:swap@{swap}:{}", gate.display()), bug);
        while !waiting.exists() {
            std::thread::sleep(std::time::Duration::from_millis(2));
            assert!(paused.try_wait().unwrap().is_none(), "the paused stream ended before its swap {swap}");
        }
        assert!(do_it(&self.folder, "", bug).success());
        std::fs::write(&gate, b"").unwrap();
        paused.wait().unwrap();
        self.wrong()
    }
}

fn swaps(operations: &[String]) -> usize {
    operations.iter().filter(|operation| operation.split('\t').nth(1) == Some("Swap")).count()
}

#[test]
fn a_stream_killed_before_or_after_any_durable_operation_loses_and_repeats_nothing() {
    let template = template();
    let before = template.commits();
    let operations = template.end_everywhere("kill");
    // The takeover, and at least three intervals.
    assert!(template.commits() >= before + 1 + 3, "{} commits after {before}", template.commits());
    let (count, swaps) = (operations.len(), swaps(&operations));
    tell(format_args!("{count} durable operations, {swaps} of them swaps, killed before and after each"));
}

#[test]
fn a_stream_robbed_of_power_at_any_durable_operation_loses_and_repeats_nothing() {
    template().end_everywhere("power");
}

#[test]
fn a_stream_whose_replies_are_lost_finds_its_commits() {
    assert_eq!(template().find("lose-reply", ""), None);
}

#[test]
fn a_stream_that_was_overtaken_at_any_of_its_swaps_commits_nothing_more() {
    let template = template();
    for swap in 1..=swaps(&template.operations()) {
        assert_eq!(template.race(swap, ""), None, "paused before swap {swap}");
    }
}

#[test]
fn every_known_bug_of_streams_that_is_put_back_is_found() {
    let template = template();
    let swaps = swaps(&template.operations());
    // Between the tables of one interval.
    let any_kill = |bug: &str| (5..=swaps).find_map(|swap| template.find(&format!("kill:after:swap@{swap}"), bug));
    let mut found: Vec<(&str, Option<String>)> = vec![("PredictionsFirst", any_kill("PredictionsFirst"))];
    for bug in ["StreamBaseIgnored", "FenceOnOldBase", "BlindSwap"] {
        found.push((bug, (5..=8).find_map(|swap| template.race(swap, bug))));
    }
    template.reset();
    do_it(&template.folder, "", "ForgetWindows");
    found.push(("ForgetWindows", template.wrong()));
    // The bug is in the process that goes on after the accident.
    let repeated = (5..=swaps).find_map(|swap| {
        template.reset();
        do_it(&template.folder, &format!("kill:after:swap@{swap}"), "");
        do_it(&template.folder, "", "RepeatSideRows");
        template.wrong()
    });
    found.push(("RepeatSideRows", repeated));
    for bug in ["NoMetadataFsync", "NoDirectoryFsync"] {
        found.push((bug, template.find(&format!("power:after:swap@{swaps}"), bug)));
    }
    let missed: Vec<&str> = found.iter().filter(|(_, f)| f.is_none()).map(|(bug, _)| *bug).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
