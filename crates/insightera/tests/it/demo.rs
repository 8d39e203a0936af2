//! The demo's project, from building to removing it, with every command in it.

use serde_json::{Value, json};

use crate::binary::Shell;

const TABLE: &str = "ml_predictions.dropout_risk_predictions";
const MODEL: &str = "student_dropout_risk_model";

fn ask(shell: &Shell, arguments: &[&str]) -> Value {
    shell.run(&[&["--project", "d"], arguments, &["--format", "json"]].concat()).done().json()
}

fn fields(value: &Value, names: &[&str]) {
    for name in names {
        assert!(value.get(name).is_some(), "{name} is not in {value}");
    }
}

/// One test, since building the project is most of the time.
#[test]
fn every_command_works_in_the_project_that_the_demo_leaves() {
    let shell = Shell::new();
    let said = shell.run(&["demo", "--students", "300", "--events-for", "2", "--dir", "d"]).done();
    let live =
        ["2 seconds of events", "dropout_risk_realtime: 2,010 events", "transaction_anomaly_realtime: 400 events"];
    for part in ["Day one", "The next day", "insightera verify --all: 6 of 6 right", "Try next"].into_iter().chain(live)
    {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
    assert!(said.out.lines().count() < 80, "{}", said.out);
    let again = shell.run(&["demo", "--students", "300", "--dir", "d"]).done();
    assert!(again.out.contains("holds this demo already"), "{again:?}");
    shell.run(&["demo", "--students", "301", "--dir", "d"]).refused("300 students");

    pipelines(&shell);
    models(&shell);
    tables(&shell);

    shell.write("d/notes.txt", "mine");
    shell.run(&["demo", "--dir", "d", "--clean"]).done();
    let left: Vec<_> = std::fs::read_dir(shell.dir().join("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
}

fn pipelines(shell: &Shell) {
    assert!(ask(shell, &["check"]).as_array().unwrap().iter().all(|p| p["status"] == "ok"));
    let plan = ask(shell, &["plan", "dropout_risk"]);
    let names =
        ["pipeline", "entities", "to_score", "reasons", "inputs", "bytes", "model", "strategy", "why_not_snapshot"];
    fields(&plan, &names);
    assert_eq!((&plan["to_score"], &plan["model"]["version"]), (&json!(0), &json!(1)));
    let run = ask(shell, &["run", "dropout_risk"]);
    assert_eq!((&run["status"], &run["scored"], &run["snapshot_id"]), (&json!("unchanged"), &json!(0), &Value::Null));
    let full = ask(shell, &["run", "dropout_risk", "--full"]);
    fields(&full, &["run_id", "skipped", "removed", "dropped_by_joins", "seconds", "stages"]);
    assert_eq!(full["reasons"], json!({ "forced": full["scored"] }));
    assert_eq!(ask(shell, &["run", "--all"]).as_array().unwrap().len(), 6);
    let verified = ask(shell, &["verify", "dropout_risk"]);
    fields(&verified, &["ok", "entities", "current", "missing", "stale", "duplicate", "extra"]);
    assert_eq!(verified["ok"], true);
}

fn models(shell: &Shell) {
    let promoted = ask(shell, &["model", "promote", MODEL, "2"]);
    assert_eq!((&promoted["from"], &promoted["to"]), (&json!(1), &json!(2)));
    assert!(ask(shell, &["plan", "dropout_risk"])["reasons"]["model"].as_u64() > Some(0));
    let stale = shell.run(&["--project", "d", "verify", "dropout_risk", "--format", "json"]);
    assert_eq!((stale.code, &stale.json()["ok"]), (1, &json!(false)));
    assert!(stale.err.starts_with("hint:"), "{stale:?}");
    assert_eq!(ask(shell, &["model", "rollback", MODEL])["to"], 1);
    let history = ask(shell, &["model", "history", MODEL]);
    let versions: Vec<&Value> = history.as_array().unwrap().iter().map(|change| &change["version"]).collect();
    assert_eq!(versions, [1, 2, 1]);
    let at = history[1]["from"].as_str().unwrap();
    assert_eq!(ask(shell, &["model", "history", MODEL, "--at", at]).as_array().unwrap().len(), 1);
    assert!(ask(shell, &["model", "show", MODEL])["versions"][1]["metrics"]["auc"].as_f64() > Some(0.8));

    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/university/models/");
    let forest = format!("{files}{MODEL}/v1");
    let first = ask(shell, &["model", "register", "mine", &forest, "--metrics", "auc=0.9", "--tag", "by=me"]);
    assert_eq!((&first["version"], &first["alias"]["alias"]), (&json!(1), &json!("production")));
    let trees = format!("{files}{MODEL}/v2/model.ubj");
    let second = ask(shell, &["model", "register", "mine", &trees]);
    assert_eq!((&second["version"], &second["alias"]), (&json!(2), &Value::Null));
    let same = ask(shell, &["model", "register", "mine", &trees, "--if-absent"]);
    assert_eq!((&same["version"], &same["reused"]), (&json!(2), &json!(true)));
}

fn tables(shell: &Shell) {
    let listed = ask(shell, &["table", "list"]);
    let rows = |name: &str| listed.as_array().unwrap().iter().find(|t| t["table"] == name).unwrap()["rows"].clone();
    for name in ["student_features.attendance_features", "researcher_features.publication_features", TABLE] {
        let counted = ask(shell, &["sql", &format!("SELECT count(*) AS n FROM {name}")]);
        assert_eq!(rows(name), counted[0]["n"], "{name}");
        fields(&ask(shell, &["table", "show", name]), &["columns", "location", "partition_by", "properties", "bytes"]);
    }
    let history = ask(shell, &["table", "history", TABLE]);
    fields(&history[0], &["snapshot_id", "time", "operation", "pipeline", "run_id", "model_version", "added_rows"]);
    let (first, added) = (&history[0]["snapshot_id"], &history[0]["added_rows"]);
    let statement = format!("SELECT count(*) AS n FROM {TABLE} VERSION AS OF {first}");
    assert_eq!(&ask(shell, &["sql", &statement])[0]["n"], added);
}
