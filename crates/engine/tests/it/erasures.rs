//! Who was erased is nowhere any more, and everybody else is as before, in
//! every snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use iceberg::spec::{DataFileBuilder, Operation};
use insightera_engine::erase::{self, Order, Report};
use insightera_engine::lake::commit::{self, Change};
use insightera_engine::lake::upsert;
use insightera_engine::{Result, Workspace, sql};

use crate::changed::delete;
use crate::project::{PIPELINE, TestProject, attendance_rows, block_on, grades_rows, nim, nims};

/// The student who is erased.
const GONE: usize = 5;
const TABLES: [&str; 3] = ["ml.risk", "gold.grades", "gold.attendance"];

pub fn order(student: usize, tables: &[&str]) -> Order {
    let entity = insightera_engine::lake::erase::Entity { columns: vec!["nim".into()], values: vec![nim(student)] };
    Order { entity, reason: "request 17".into(), tables: tables.iter().map(|name| TestProject::name(name)).collect() }
}

fn erase_from(workspace: &Workspace, student: usize, tables: &[&str]) -> Result<Report> {
    block_on(erase::carry_out(workspace, &order(student, tables), &|_| {}))
}

/// A project with a history of everything that a table can go through.
fn lived(folder: Option<&Path>) -> TestProject {
    let project = match folder {
        Some(folder) => TestProject::at(folder, PIPELINE),
        None => TestProject::new(PIPELINE),
    };
    project.seed(40);
    project.run();
    project.shell(&["ALTER TABLE ml.risk CREATE TAG first", "ALTER TABLE gold.grades CREATE TAG first"]);
    project.upsert("gold.grades", grades_rows([1, GONE, 9].into_iter(), 0.7));
    project.append("gold.attendance", attendance_rows(40..42));
    project.append("gold.grades", grades_rows(40..42, 0.0));
    project.run();
    project.shell(&[
        "ALTER TABLE gold.grades CREATE BRANCH aside",
        "ALTER TABLE ml.risk ADD COLUMN note STRING",
        "ALTER TABLE gold.grades ADD COLUMN credits INT",
        "CALL system.rewrite_data_files(table => 'ml.risk', options => map('rewrite-all', 'true'))",
    ]);
    // The entity is between two others whose rows are deleted by position.
    delete(&project, &[4, GONE, 6, 20]);
    project.append("gold.grades", grades_rows([GONE, 50].into_iter(), 0.1));
    project.delete_by_value("gold.grades", nims(&[7, GONE]));
    project.append("gold.grades", grades_rows([GONE].into_iter(), 0.2));
    project.run();
    project.shell(&["DELETE FROM gold.grades WHERE gpa > 3.5", "CALL system.rewrite_manifests('ml.risk')"]);
    project.run();
    project
}

/// The rows of every snapshot and reference of a table, without a student's.
fn history(workspace: &Workspace, table: &str, without: &str) -> BTreeMap<String, Vec<String>> {
    let loaded = workspace.lake().table(&TestProject::name(table)).unwrap();
    let mut versions: Vec<String> = loaded.metadata().snapshots().map(|s| s.snapshot_id().to_string()).collect();
    versions.extend(loaded.refs().unwrap().into_keys().map(|name| format!("'{name}'")));
    let mut found = BTreeMap::new();
    for version in versions {
        let sql = format!("SELECT * FROM {table} VERSION AS OF {version} WHERE nim <> '{without}'");
        let batches = block_on(sql::query(workspace, &sql)).unwrap().batches;
        let mut rows = Vec::new();
        for batch in batches {
            let columns: Vec<_> = batch.columns().iter().map(|c| cast(c, &DataType::Utf8).unwrap()).collect();
            for row in 0..batch.num_rows() {
                let value =
                    |c: &ArrayRef| if c.is_null(row) { "-" } else { c.as_string::<i32>().value(row) }.to_owned();
                rows.push(columns.iter().map(value).collect::<Vec<_>>().join("|"));
            }
        }
        rows.sort();
        found.insert(version, rows);
    }
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Files below the project's warehouse and cache that hold the student: rows of
/// Parquet files, and the bytes of all others, unpacked.
fn holders(folder: &Path, student: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(&folder.join("warehouse"))
        .into_iter()
        .chain(files(&folder.join(".insightera")))
        .chain(files(&folder.join("erasures")))
    {
        let bytes = std::fs::read(&path).unwrap();
        let holds = if path.extension().is_some_and(|e| e == "parquet") {
            let reader =
                parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes));
            reader.unwrap().build().unwrap().any(|batch| {
                let batch = batch.unwrap();
                batch.columns().iter().any(|column| {
                    let Ok(text) = cast(column, &DataType::Utf8) else { return false };
                    text.as_string::<i32>().iter().flatten().any(|value| value.contains(student))
                })
            })
        } else {
            let mut text = bytes.clone();
            if bytes.starts_with(&[0x1f, 0x8b]) {
                text.clear();
                let _ = std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut text);
            }
            text.windows(student.len()).any(|window| window == student.as_bytes())
        };
        if holds {
            found.insert(path.display().to_string());
        }
    }
    found
}

/// What must hold after an erasure from all tables.
fn check(workspace: &Workspace, before: &BTreeMap<&str, BTreeMap<String, Vec<String>>>) -> Result<(), String> {
    let folder = workspace.project().dir.clone();
    for (table, before) in before {
        let after = history(workspace, table, "");
        if &after != before {
            let wrong: Vec<_> = before.iter().filter(|(version, rows)| after.get(*version) != Some(rows)).collect();
            return Err(format!(
                "{table} has other rows in {:?}",
                wrong.first().map(|(v, rows)| (v, rows, after.get(*v)))
            ));
        }
    }
    let holders = holders(&folder, &nim(GONE));
    if holders.is_empty() { Ok(()) } else { Err(format!("still in {holders:#?}")) }
}

fn before(workspace: &Workspace) -> BTreeMap<&'static str, BTreeMap<String, Vec<String>>> {
    TABLES.into_iter().map(|table| (table, history(workspace, table, &nim(GONE)))).collect()
}

#[test]
fn an_erased_entity_is_in_no_file_and_everybody_else_is_as_before_at_every_snapshot() {
    let project = lived(None);
    let before = before(&project.workspace);
    assert!(!holders(&project.folder, &nim(GONE)).is_empty());
    let planned = erase::plan(&project.workspace, &order(GONE, &TABLES[1..])).unwrap();
    let report = erase_from(&project.workspace, GONE, &TABLES[1..]).unwrap();
    assert!(report.is_complete(), "{report:?}");
    check(&project.workspace, &before).unwrap();
    let rows = |tables: &[insightera_engine::lake::erase::Erased]| -> BTreeMap<String, u64> {
        tables.iter().map(|table| (table.table.clone(), table.rows)).collect()
    };
    assert_eq!(rows(&planned.tables), rows(&report.tables));
    assert_eq!(report.tables.len(), 3);
    let tagged = report.tables.iter().flat_map(|t| &t.snapshots).filter(|s| s.refs.contains(&"first".to_owned()));
    assert!(tagged.filter(|s| s.rows > 0 && s.new.as_ref().is_some_and(|new| *new != s.old)).count() == 2);
    let proof: serde_json::Value = serde_json::from_slice(&std::fs::read(&report.proof_file).unwrap()).unwrap();
    assert_eq!(proof["ok"], true, "{proof:#}");
    assert!(
        proof["tables"]
            .as_array()
            .unwrap()
            .iter()
            .all(|t| t["rows"].as_u64() > Some(40) && t["rows_of_the_entity"] == 0)
    );
    assert!(!proof.to_string().contains(&nim(GONE)));
    let again = erase_from(&project.workspace, GONE, &TABLES[1..]).unwrap();
    assert!(again.tables.is_empty() && again.number == report.number, "{again:?}");
}

#[test]
fn who_was_erased_is_not_scored_again() {
    let mut project = lived(None);
    let report = erase_from(&project.workspace, GONE, &[]).unwrap();
    assert_eq!(report.pipelines, ["risk"]);
    assert_eq!(report.kept.keys().map(String::as_str).collect::<Vec<_>>(), ["gold.attendance", "gold.grades"]);
    project.assert_verified();
    assert_eq!(project.verify().suppressed, 1);
    let rows = project.rows().len();
    project.upsert("gold.grades", grades_rows([GONE, 9].into_iter(), 1.9));
    let run = project.run();
    assert_eq!((run.scored, run.suppressed, run.removed), (1, 1, 0), "{run:?}");
    assert_eq!(project.rows().len(), rows + 1);
    // Leaving the features is no news either.
    delete(&project, &[GONE]);
    assert_eq!(project.run().removed, 0);
    std::fs::remove_dir_all(project.folder.join(".insightera")).unwrap();
    project.set_pipeline(&PIPELINE.replace("gpa < 2", "gpa < 3"));
    let run = project.run();
    assert!(run.scored > 30 && run.suppressed == 0, "{run:?}");
    assert!(project.rows().iter().all(|row| row.nim != nim(GONE)));
    project.assert_verified();
}

#[test]
fn tables_that_no_pipeline_writes_are_left_alone_unless_they_are_named() {
    let project = lived(None);
    let wanted = history(&project.workspace, "gold.grades", "");
    erase_from(&project.workspace, GONE, &[]).unwrap();
    assert_eq!(history(&project.workspace, "gold.grades", ""), wanted);
    let error = erase_from(&project.workspace, GONE, &["gold.nothing"]).unwrap_err();
    assert!(error.to_string().contains("there is no table `gold.nothing`"), "{error}");
}

#[test]
fn deletes_by_other_columns_whose_rows_carry_the_key_are_refused_before_anything_is_changed() {
    let project = lived(None);
    let table = project.table("gold.grades");
    let nims: ArrayRef = Arc::new(StringArray::from(vec![nim(GONE)]));
    let gpa: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![2.5]));
    let keys = RecordBatch::try_from_iter([("nim", nims), ("gpa", gpa)]).unwrap();
    let file = upsert::equality_delete_file(&table, &keys).unwrap();
    let by_gpa = DataFileBuilder::default()
        .content(file.content_type())
        .equality_ids(Some(vec![table.schema().field_id_by_name("gpa").unwrap()]))
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(file.partition().clone())
        .partition_spec_id(0)
        .record_count(1)
        .file_size_in_bytes(file.file_size_in_bytes())
        .build()
        .unwrap();
    let mut change = Change::append(&table, Vec::new());
    change.operation = Operation::Delete;
    change.deletes.push(by_gpa);
    commit::commit(project.workspace.lake(), &change).unwrap();
    let locations = || TABLES.map(|name| project.table(name).metadata_location().to_owned());
    let untouched = locations();
    let error = erase_from(&project.workspace, GONE, &TABLES[1..]).unwrap_err();
    assert!(error.to_string().contains("cannot be rewritten soundly"), "{error}");
    assert_eq!(locations(), untouched);
    assert!(!project.folder.join("erasures/ledger.json").exists());
}

#[test]
fn the_reason_may_not_name_the_entity_and_the_entity_must_be_one_of_a_key() {
    let project = lived(None);
    let mut named = order(GONE, &[]);
    named.reason = format!("student {} asked", nim(GONE));
    let error = block_on(erase::carry_out(&project.workspace, &named, &|_| {})).unwrap_err();
    assert!(error.to_string().contains("names the entity"), "{error}");
    assert!(!error.to_string().contains(&nim(GONE)));
    let parse = |text: &str| erase::parse_entity(&project.workspace, text);
    assert_eq!(parse("nim=7").unwrap(), parse("7").unwrap());
    for (text, wanted) in
        [("unit=7", "no pipeline of the project is keyed by unit"), ("", "is empty"), ("nim=", "no value")]
    {
        let error = parse(text).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(error.get_hint(), Some("write it as `nim=VALUE`"));
    }
}

/// The verifier knows nothing of the eraser: it finds what is put back.
#[test]
fn what_is_left_is_found_by_the_proof() {
    let project = lived(None);
    let aside = project.folder.join("aside");
    copy_all(&project.folder.join("warehouse/ml/risk/data"), &aside);
    assert!(erase_from(&project.workspace, GONE, &[]).unwrap().proof.ok);
    let data = project.folder.join("warehouse/ml/risk/data");
    // An index of before, in a folder of another name, and a text.
    for (name, bytes) in [("left.state", format!("x {} y", nim(GONE)).into_bytes()), ("left.gz", gzip(&nim(GONE)))] {
        let path = data.join(name);
        std::fs::write(&path, bytes).unwrap();
        let report = erase_from(&project.workspace, GONE, &[]).unwrap();
        assert_eq!(report.proof.holding, [format!("warehouse/ml/risk/data/{name}")], "{:?}", report.proof);
        assert!(!report.is_complete());
        std::fs::remove_file(path).unwrap();
    }
    std::fs::write(data.join("left.parquet"), b"no parquet").unwrap();
    let report = erase_from(&project.workspace, GONE, &[]).unwrap();
    assert_eq!(report.proof.unreadable.len(), 1, "{:?}", report.proof);
    std::fs::remove_file(data.join("left.parquet")).unwrap();
    // Files that a lost commit or a quarantine holds are erased as well.
    copy_all(&aside, &data.join("lost"));
    copy_all(&aside, &project.folder.join("warehouse/.quarantine/ml/risk/20260101T000000000"));
    let report = erase_from(&project.workspace, GONE, &[]).unwrap();
    assert!(report.is_complete(), "{:?}", report.proof);
    assert!(report.tables[0].removed_files >= 2, "{report:?}");
}

fn copy_all(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(path, target).unwrap();
    }
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn an_entity_whose_rows_fill_whole_files_leaves_none_of_them() {
    let project = TestProject::new(PIPELINE);
    project.seed(3);
    for shift in 1..4 {
        project.upsert("gold.grades", grades_rows([GONE].into_iter(), f64::from(shift) / 10.0));
    }
    let wanted = history(&project.workspace, "gold.grades", &nim(GONE));
    let report = erase_from(&project.workspace, GONE, &["gold.grades"]).unwrap();
    assert_eq!(report.tables.iter().map(|t| (t.rows, t.data_files)).collect::<Vec<_>>(), [(3, 3)]);
    assert_eq!(history(&project.workspace, "gold.grades", ""), wanted);
    assert!(holders(&project.folder, &nim(GONE)).is_empty());
    project.append("gold.grades", grades_rows([8].into_iter(), 0.0));
    assert_eq!(project.count("SELECT count(*) FROM gold.grades"), 4);
}

#[cfg(feature = "faults")]
mod accidents {
    use std::process::{Child, Command, ExitStatus};

    use insightera_core::SystemClock;
    use insightera_engine::score::{self, Reporter, RunOptions};

    use super::*;
    use crate::project::tell;
    use crate::stream_faults::copy;

    /// Only does something as a child.
    #[test]
    fn child() {
        let Ok(folder) = std::env::var("INSIGHTERA_TEST_ERASURE") else { return };
        let workspace = open(Path::new(&folder));
        match std::env::var("INSIGHTERA_TEST_ERASURE_DOES").as_deref() {
            Ok("run") => {
                block_on(score::run(&workspace, "risk", &RunOptions::default(), &Reporter::silent())).unwrap();
            }
            _ => drop(erase_from(&workspace, GONE, &TABLES[1..]).unwrap()),
        }
    }

    fn open(folder: &Path) -> Workspace {
        Workspace::open(folder, Default::default(), Arc::new(SystemClock::new())).unwrap()
    }

    fn start(folder: &Path, does: &str, fault: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "erasures::accidents::child", "--nocapture", "--test-threads=1"])
            .env("INSIGHTERA_TEST_ERASURE", folder)
            .env("INSIGHTERA_TEST_ERASURE_DOES", does)
            .env("INSIGHTERA_FAULT", fault)
            .env("RUST_BACKTRACE", "0")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    }

    fn do_it(folder: &Path, does: &str, fault: &str) -> ExitStatus {
        start(folder, does, fault).wait().unwrap()
    }

    struct Template {
        _temp: tempfile::TempDir,
        folder: PathBuf,
        aside: PathBuf,
        before: BTreeMap<&'static str, BTreeMap<String, Vec<String>>>,
    }

    fn template() -> Template {
        let temp = tempfile::tempdir().unwrap();
        let (folder, aside) = (temp.path().join("project"), temp.path().join("aside"));
        let before = before(&lived(Some(&folder)).workspace);
        copy(&folder, &aside);
        Template { _temp: temp, folder, aside, before }
    }

    impl Template {
        fn reset(&self) {
            std::fs::remove_dir_all(&self.folder).unwrap();
            copy(&self.aside, &self.folder);
        }

        fn operations(&self) -> Vec<String> {
            self.reset();
            let log = self.folder.with_extension("log");
            assert!(do_it(&self.folder, "erase", &format!("record:{}", log.display())).success());
            std::fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect()
        }

        /// Every reader finds everybody else after the accident, and the same
        /// command does the rest.
        fn find(&self, fault: &str) -> Option<String> {
            self.reset();
            do_it(&self.folder, "erase", fault);
            let workspace = open(&self.folder);
            for (table, wanted) in &self.before {
                if history(&workspace, table, &nim(GONE)) != *wanted {
                    return Some(format!("after the accident {table} has other rows"));
                }
            }
            match erase_from(&workspace, GONE, &TABLES[1..]) {
                Err(error) => Some(format!("the second try: {error}")),
                Ok(report) if !report.is_complete() => Some(format!("not complete: {report:?}")),
                Ok(_) => check(&workspace, &self.before).err(),
            }
        }
    }

    /// All operations in a long run, else every so many: each is two processes and a look at everything.
    fn step() -> usize {
        if std::env::var_os("INSIGHTERA_TEST_LONG").is_some() { 1 } else { 11 }
    }

    #[test]
    fn an_erasure_killed_before_or_after_any_durable_operation_is_finished_by_the_same_command() {
        let template = template();
        let operations = template.operations();
        for (index, operation) in operations.iter().enumerate().step_by(step()) {
            for when in ["before", "after"] {
                let found = template.find(&format!("kill:{when}:{}", index + 1));
                assert_eq!(found, None, "killed {when} {operation}");
            }
        }
        let (count, step) = (operations.len(), step());
        tell(format_args!("{count} durable operations, every {step} of them killed before and after"));
    }

    #[test]
    fn an_erasure_robbed_of_power_at_any_durable_operation_is_finished_by_the_same_command() {
        let template = template();
        let operations = template.operations();
        for (index, operation) in operations.iter().enumerate().step_by(step()) {
            let all = ["after", "before"];
            // One of them; in a long run both.
            let whens = if step() == 1 { &all[..] } else { &all[index / step() % 2..][..1] };
            for when in whens {
                let found = template.find(&format!("power:{when}:{}", index + 1));
                assert_eq!(found, None, "no power {when} {operation}");
            }
        }
        let (count, step) = (operations.len(), step());
        tell(format_args!("{count} durable operations, every {step} of them robbed of power"));
    }

    #[test]
    fn an_erasure_whose_replies_are_lost_is_done_once() {
        assert_eq!(template().find("lose-reply"), None);
    }

    /// Every student is scored again.
    fn redefined(folder: &Path) {
        std::fs::write(folder.join("pipelines/risk.toml"), PIPELINE.replace("gpa < 2", "gpa < 3")).unwrap();
    }

    /// One process waits before its swap while another does its work.
    fn race(folder: &Path, (first, swap): (&str, usize), second: &str) {
        let (gate, waiting) = (folder.join("gate"), folder.join("gate.waiting"));
        let mut paused = start(folder, first, &format!("pause:swap@{swap}:{}", gate.display()));
        while !waiting.exists() {
            std::thread::sleep(std::time::Duration::from_millis(2));
            assert!(paused.try_wait().unwrap().is_none(), "the first ended by itself");
        }
        assert!(do_it(folder, second, "").success());
        std::fs::write(&gate, b"").unwrap();
        assert!(paused.wait().unwrap().success());
    }

    #[test]
    fn a_run_that_began_before_the_erasure_does_not_bring_the_entity_back() {
        let template = template();
        template.reset();
        redefined(&template.folder);
        race(&template.folder, ("run", 1), "erase");
        let workspace = open(&template.folder);
        // The refused commit leaves a manifest that nothing names, with the key among its bounds.
        let left = holders(&template.folder, &nim(GONE));
        assert!(left.len() <= 1 && left.iter().all(|path| path.ends_with("-m0.avro")), "{left:?}");
        assert!(history(&workspace, "ml.risk", &nim(GONE)) == history(&workspace, "ml.risk", "nobody"));
        let verified = block_on(score::verify(&workspace, "risk")).unwrap();
        assert!(verified.ok, "{verified:?}");
    }

    #[test]
    fn an_erasure_that_was_overtaken_by_a_run_erases_its_rows_as_well() {
        let template = template();
        template.reset();
        redefined(&template.folder);
        // Two tables come before that of the predictions.
        race(&template.folder, ("erase", 3), "run");
        assert_eq!(holders(&template.folder, &nim(GONE)), BTreeSet::new());
        let verified = block_on(score::verify(&open(&template.folder), "risk")).unwrap();
        assert!(verified.ok, "{verified:?}");
    }
}
