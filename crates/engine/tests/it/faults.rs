//! Nothing lost, nothing twice: killed and robbed of power at every durable
//! operation, raced, lied to. The work happens in a child process: this test
//! program, started again with one test and the fault in its environment.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use insightera_core::SystemClock;
use insightera_engine::Workspace;
use insightera_engine::lake::faults::{self, Accident, Happened};
use insightera_engine::lake::{durable, files};
use insightera_engine::score::{self, Reporter, RunOptions};

use crate::project::{PIPELINE, TestProject, attendance_rows, block_on, grades_rows, tell};

const STUDENTS: usize = 60;

/// Only does something as a child.
#[test]
fn child() {
    let Ok(folder) = std::env::var("INSIGHTERA_TEST_CHILD") else { return };
    let what = std::env::var("INSIGHTERA_TEST_CHILD_DOES").unwrap_or_default();
    let clock = std::sync::Arc::new(SystemClock::new());
    let workspace = Workspace::open(Path::new(&folder), Default::default(), clock).unwrap();
    let options = RunOptions { full: what == "full", ..RunOptions::default() };
    let name = if what == "other" { "other" } else { "risk" };
    block_on(score::run(&workspace, name, &options, &Reporter::silent())).unwrap();
}

fn start(folder: &Path, does: &str, fault: &str, bug: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::child", "--nocapture", "--test-threads=1"])
        .env("INSIGHTERA_TEST_CHILD", folder)
        .env("INSIGHTERA_TEST_CHILD_DOES", does)
        .env("INSIGHTERA_FAULT", fault)
        .env("INSIGHTERA_BUG", bug)
        .env("RUST_BACKTRACE", "0")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

fn do_it(folder: &Path, does: &str, fault: &str, bug: &str) -> ExitStatus {
    start(folder, does, fault, bug).wait().unwrap()
}

/// A project with one run behind it and changes before it.
fn prepared(folder: &Path) {
    let project =
        TestProject::at(folder, &PIPELINE.replace("ON g.nim = a.nim", "ON g.nim = a.nim WHERE a.events < 100"));
    std::fs::write(folder.join("pipelines/other.toml"), PIPELINE.replace("gpa < 2", "gpa < 3")).unwrap();
    project.seed(STUDENTS);
    assert!(do_it(folder, "run", "", "").success());
    project.upsert("gold.grades", grades_rows([1, 5, 9].into_iter(), 0.7));
    project.append("gold.grades", grades_rows(STUDENTS..STUDENTS + 2, 0.0));
    project.append("gold.attendance", attendance_rows(STUDENTS..STUDENTS + 2));
    let leaving = attendance_rows([20].into_iter());
    let events = std::sync::Arc::new(arrow::array::Int64Array::from(vec![1000]));
    let columns = vec![leaving.column(0).clone(), leaving.column(1).clone(), events as arrow::array::ArrayRef];
    project.upsert("gold.attendance", arrow::array::RecordBatch::try_new(leaving.schema(), columns).unwrap());
    crate::changed::delete(&project, &[30]);
}

fn copy(from: &Path, to: &Path) {
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

fn open(folder: &Path) -> Workspace {
    Workspace::open(folder, Default::default(), std::sync::Arc::new(SystemClock::new())).unwrap()
}

/// What must hold after any accident, once the pipeline has run again; the
/// error says what does not.
fn check_after(folder: &Path) -> Result<(), String> {
    let workspace = open(folder);
    let silent = Reporter::silent();
    block_on(score::run(&workspace, "risk", &RunOptions::default(), &silent)).map_err(|e| format!("run: {e}"))?;
    let verified = block_on(score::verify(&workspace, "risk")).map_err(|e| format!("verify: {e}"))?;
    if !verified.ok {
        return Err(format!("verify: {verified:?}"));
    }
    let table = workspace.lake().table(&TestProject::name("ml.risk")).map_err(|e| e.to_string())?;
    let live = files::live_files(&table, table.current_snapshot_id()).map_err(|e| e.to_string())?;
    for file in live.data {
        let path = insightera_engine::lake::storage::local_path(file.data_file().file_path());
        if !path.exists() {
            return Err(format!("live file {} is missing", path.display()));
        }
    }
    // The ledger: 60 first, then 3 update, 2 insert, 2 removed, each once.
    let sql = "SELECT score_reason, count(*) AS n, count(DISTINCT nim) AS d FROM ml.risk WHERE pipeline = 'risk' GROUP BY 1 ORDER BY 1";
    let result = block_on(insightera_engine::sql::query(&workspace, sql)).map_err(|e| e.to_string())?;
    let shown = arrow::util::pretty::pretty_format_batches(&result.batches).unwrap().to_string();
    let found: Vec<String> =
        shown.lines().map(|l| l.replace(' ', "")).filter(|l| l.starts_with("|") && !l.contains("score")).collect();
    let wanted = ["|first|60|60|", "|insert|2|2|", "|removed|2|2|", "|update|3|3|"];
    if found != wanted { Err(format!("the ledger says {wanted:?}, the table {found:?}")) } else { Ok(()) }
}

struct Template {
    _temp: tempfile::TempDir,
    folder: PathBuf,
    scratch: PathBuf,
}

/// Tables hold absolute paths, so a case runs where the template was made: the
/// template is put aside and copied back.
fn template() -> Template {
    let temp = tempfile::tempdir().unwrap();
    let (folder, scratch) = (temp.path().join("project"), temp.path().join("aside"));
    prepared(&folder);
    copy(&folder, &scratch);
    Template { _temp: temp, folder, scratch }
}

impl Template {
    fn reset(&self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
        copy(&self.scratch, &self.folder);
    }

    fn operations(&self) -> Vec<String> {
        self.reset();
        let log = self.folder.with_extension("log");
        let _ = std::fs::remove_file(&log);
        assert!(do_it(&self.folder, "run", &format!("record:{}", log.display()), "").success());
        std::fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect()
    }

    /// The first case in which something does not hold.
    fn find(&self, fault: &str, bug: &str) -> Option<String> {
        self.reset();
        do_it(&self.folder, "run", fault, bug);
        check_after(&self.folder).err()
    }
}

#[test]
fn a_kill_before_or_after_any_durable_operation_loses_nothing() {
    let template = template();
    let operations = template.operations();
    for stage in ["Data", "Manifest", "List", "Metadata", "Swap"] {
        assert!(operations.iter().any(|o| o.split('\t').nth(1) == Some(stage)), "no operation of stage {stage}");
    }
    for (index, operation) in operations.iter().enumerate() {
        for when in ["before", "after"] {
            let found = template.find(&format!("kill:{when}:{}", index + 1), "");
            assert_eq!(found, None, "killed {when} {operation}");
        }
    }
    tell(format_args!("{} durable operations, each killed before and after", operations.len()));
}

#[test]
fn a_power_loss_before_or_after_any_durable_operation_loses_nothing() {
    let template = template();
    let operations = template.operations();
    for (index, operation) in operations.iter().enumerate() {
        for when in ["before", "after"] {
            let found = template.find(&format!("power:{when}:{}", index + 1), "");
            assert_eq!(found, None, "no power {when} {operation}");
        }
    }
    tell(format_args!("{} durable operations, each robbed of power before and after", operations.len()));
}

#[test]
fn a_commit_whose_reply_is_lost_is_found_not_repeated() {
    let template = template();
    assert_eq!(template.find("lose-reply", ""), None);
}

/// One run is stopped before its swap while another commits.
fn race(folder: &Path, first: &str, second: &str, bug: &str) {
    let gate = folder.join("gate");
    let waiting = folder.join("gate.waiting");
    let _ = std::fs::remove_file(&gate);
    let _ = std::fs::remove_file(&waiting);
    let mut paused = start(folder, first, &format!("pause:swap:{}", gate.display()), bug);
    while !waiting.exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(paused.try_wait().unwrap().is_none(), "the paused run ended by itself");
    }
    assert!(do_it(folder, second, "", bug).success());
    std::fs::write(&gate, b"").unwrap();
    paused.wait().unwrap();
}

fn generations(folder: &Path) -> i64 {
    let workspace = open(folder);
    let sql = "SELECT count(*) FROM ml.risk WHERE pipeline = 'risk'";
    let result = block_on(insightera_engine::sql::query(&workspace, sql)).unwrap();
    use arrow::array::AsArray;
    result.batches[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0)
}

/// Metadata files of the predictions that neither the pointer nor the log names.
fn unnamed_metadata(folder: &Path) -> Vec<PathBuf> {
    let table = open(folder).lake().table(&TestProject::name("ml.risk")).unwrap();
    let local = insightera_engine::lake::storage::local_path;
    let mut named = vec![local(table.metadata_location())];
    named.extend(table.metadata().metadata_log().iter().map(|entry| local(&entry.metadata_file)));
    let files = std::fs::read_dir(named[0].parent().unwrap()).unwrap();
    let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    let metadata: Vec<&PathBuf> = files.iter().filter(|f| f.to_string_lossy().ends_with(".metadata.json")).collect();
    assert!(named.len() <= metadata.len(), "{named:?} of {metadata:?}");
    metadata.into_iter().filter(|f| !named.contains(f)).cloned().collect()
}

#[test]
fn of_two_runs_at_once_one_scores_and_the_other_finds_nothing_to_do() {
    let template = template();
    for _ in 0..25 {
        template.reset();
        race(&template.folder, "run", "run", "");
        assert_eq!(unnamed_metadata(&template.folder), Vec::<PathBuf>::new());
        assert_eq!(check_after(&template.folder), Ok(()));
    }
}

#[test]
fn two_forced_runs_at_once_give_exactly_two_generations() {
    let template = template();
    for _ in 0..25 {
        template.reset();
        race(&template.folder, "full", "full", "");
        // 60 before; 60 live and two removed in the first, 60 in the second.
        assert_eq!(generations(&template.folder), 60 + 62 + 60);
        let verified = block_on(score::verify(&open(&template.folder), "risk")).unwrap();
        assert!(verified.ok, "{verified:?}");
    }
}

#[test]
fn a_run_of_another_pipeline_in_between_only_rebases() {
    let template = template();
    template.reset();
    race(&template.folder, "run", "other", "");
    assert_eq!(unnamed_metadata(&template.folder), Vec::<PathBuf>::new());
    assert_eq!(check_after(&template.folder), Ok(()));
    let other = block_on(score::verify(&open(&template.folder), "other")).unwrap();
    assert!(other.ok, "{other:?}");
}

#[test]
fn every_known_bug_that_is_put_back_is_found() {
    let template = template();
    let raced = |bug: &str, second: &str, also: Option<&str>| {
        template.reset();
        race(&template.folder, "run", second, bug);
        let wrong = |name: &str| {
            let verified = block_on(score::verify(&open(&template.folder), name)).unwrap();
            (!verified.ok).then(|| format!("{verified:?}"))
        };
        check_after(&template.folder).err().or_else(|| also.and_then(wrong))
    };
    let mut found: Vec<(&str, Option<String>)> = Vec::new();
    for bug in ["NoMetadataFsync", "NoDirectoryFsync"] {
        template.reset();
        assert!(!do_it(&template.folder, "run", "power:after:swap@1", bug).success());
        // The metadata may be unreadable altogether.
        let broken = std::panic::catch_unwind(|| check_after(&template.folder).err());
        found.push((bug, broken.unwrap_or_else(|_| Some("nothing opens".into()))));
    }
    found.push(("BlindSwap", raced("BlindSwap", "other", Some("other"))));
    found.push(("FenceOnOldBase", raced("FenceOnOldBase", "run", None)));
    found.push(("LostManifests", raced("LostManifests", "other", Some("other"))));
    found.push(("UnknownIsFailure", template.find("lose-reply", "UnknownIsFailure")));
    for bug in ["IgnoreDeletes", "ForgetRemoved"] {
        template.reset();
        do_it(&template.folder, "run", "", bug);
        found.push((bug, check_after(&template.folder).err()));
    }
    // A second run elsewhere moves the table on; the index here is behind.
    template.reset();
    let cache = template.folder.join(".insightera");
    let aside = template.folder.with_extension("cache");
    let _ = std::fs::remove_dir_all(&aside);
    copy(&cache, &aside);
    do_it(&template.folder, "run", "", "");
    std::fs::remove_dir_all(&cache).unwrap();
    copy(&aside, &cache);
    do_it(&template.folder, "full", "", "StaleIndex");
    let sql = "SELECT count(*) FROM ml.risk WHERE score_reason = 'forced'";
    let result = block_on(insightera_engine::sql::query(&open(&template.folder), sql)).unwrap();
    use arrow::array::AsArray;
    let forced = result.batches[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0);
    found.push(("StaleIndex", (forced != 60).then(|| format!("{forced} forced"))));
    // Progress that is not the pipeline's own makes it skip its first run.
    template.reset();
    do_it(&template.folder, "run", "", "");
    do_it(&template.folder, "other", "", "SharedProgress");
    let verified = block_on(score::verify(&open(&template.folder), "other")).unwrap();
    found.push(("SharedProgress", {
        let sql = "SELECT count(*) FROM ml.risk WHERE pipeline = 'other' AND score_reason = 'first'";
        let result = block_on(insightera_engine::sql::query(&open(&template.folder), sql)).unwrap();
        let first = result.batches[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0);
        (!verified.ok || first != 60).then(|| format!("{first} first, {verified:?}"))
    }));
    let missed: Vec<&str> = found.iter().filter(|(_, f)| f.is_none()).map(|(bug, _)| *bug).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
    assert_eq!(found.len(), 10);
}

/// The same process knew its name as durable when it was another folder.
#[test]
fn the_name_of_a_folder_that_another_made_anew_is_made_durable_again() {
    let temp = tempfile::tempdir().unwrap();
    let top = temp.path().canonicalize().unwrap();
    let folder = top.join("table/data");
    durable::write_new(&folder.join("one"), b"1").unwrap();
    std::fs::remove_file(folder.join("one")).unwrap();
    std::fs::remove_dir(&folder).unwrap();
    // By a process that ended before it could make the name durable.
    std::fs::create_dir(&folder).unwrap();
    faults::folder_created(&folder);
    durable::write_new(&folder.join("two"), b"2").unwrap();
    faults::plan_accident(&top, 1, Accident::Stop { after: false, power: Some(0) });
    durable::sync_dir(&top).unwrap_err();
    assert_eq!(faults::recover(&top), Happened::Stop);
    faults::forget(&top);
    assert!(folder.join("two").exists(), "the power loss took the folder");
}
