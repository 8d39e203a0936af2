//! Projects from the first command to the last.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use crate::binary::{Said, Shell};

#[test]
fn a_project_is_made_once() {
    let shell = Shell::new();
    let said = shell.run(&["init", "p"]).done();
    assert_eq!(said.out, "");
    for file in ["insightera.toml", "pipelines/example.toml", "warehouse/catalog.db"] {
        assert!(shell.dir().join("p").join(file).is_file(), "{file}");
    }
    shell.write("p/insightera.toml", "format = 1 # mine\n");
    shell.run(&["init", "p"]).refused("`p` is a project already");
    assert_eq!(std::fs::read_to_string(shell.dir().join("p/insightera.toml")).unwrap(), "format = 1 # mine\n");
}

#[test]
fn a_project_that_could_not_be_made_can_be_made_later() {
    let shell = Shell::new();
    shell.write("p/warehouse", "in the way");
    assert_eq!(shell.run(&["init", "p"]).code, 1);
    std::fs::remove_file(shell.dir().join("p/warehouse")).unwrap();
    shell.run(&["init", "p"]).done();
}

#[test]
fn check_shows_every_failure() {
    let shell = Shell::with_project();
    shell.write("p/pipelines/broken.toml", "kind = \"batch\"\nentitty = 1\n");
    let said = shell.project(&["check"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("pipelines/broken.toml:2") && said.err.contains("entitty"), "{said:?}");
    assert!(said.err.contains("pipeline `numbers`") && said.err.contains("files.numbers"), "{said:?}");

    let said = shell.project(&["check", "--format", "json"]);
    assert_eq!((said.code, said.err.as_str()), (1, ""), "{said:?}");
    let statuses: Vec<_> = said.json().as_array().unwrap().iter().map(|p| p["status"].clone()).collect();
    assert_eq!(statuses, [json!("failed"), json!("failed")]);
    assert_eq!(shell.project(&["check", "broken"]).refused("entitty").code, 1);
}

#[test]
fn an_empty_project_has_empty_lists() {
    let shell = Shell::new();
    shell.run(&["init", "p"]).done();
    for list in [&["table", "list"][..], &["model", "list"]] {
        assert_eq!(shell.project(&[list, &["--format", "json"]].concat()).done().json(), json!([]));
        assert_eq!(shell.project(&[list, &["--format", "csv"]].concat()).done().out.lines().count(), 1);
    }
}

#[test]
fn rows_are_data_in_three_forms() {
    let shell = Shell::with_project();
    let statement = "SELECT 9007199254740993 AS n, CAST('NaN' AS DOUBLE) AS x, NULL AS nothing, 'a,b' AS s";
    let sql = |format: &str| shell.project(&["sql", statement, "--format", format]).done();
    assert_eq!(sql("json").json(), json!([{ "n": 9007199254740993_i64, "x": null, "nothing": null, "s": "a,b" }]));
    assert_eq!(sql("csv").out, "n,x,nothing,s\n9007199254740993,NaN,,\"a,b\"\n");
    assert_eq!(sql("table").out.lines().count(), 3);
    assert_eq!(shell.project(&["sql", "SELECT 1 AS a WHERE false", "--format", "json"]).done().json(), json!([]));
}

#[test]
fn statements_come_from_standard_input_and_from_files() {
    let shell = Shell::with_project();
    let mut child = shell
        .command(&["--project", "p", "sql"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"SELECT ';' AS a; SELECT 2 AS b; -- end").unwrap();
    let said = Said::of(child.wait_with_output().unwrap()).done();
    assert_eq!(said.out, "a\n-\n;\n\nb\n-\n2\n");

    shell.write("q.sql", "SELECT 3 AS c\n");
    let said = shell.project(&["sql", "--file", "q.sql", "--format", "csv"]).done();
    assert_eq!(said.out, "c\n3\n");
}

#[test]
fn answers_are_cut_and_timed_when_asked() {
    let shell = Shell::with_project();
    shell.write("q.sql", "SELECT value FROM generate_series(1, 20000); SELECT 7 AS a");
    let said = shell.project(&["sql", "--file", "q.sql", "--limit", "2", "--timing"]).done();
    assert_eq!(said.out.split_whitespace().collect::<Vec<_>>(), ["value", "-----", "1", "2", "a", "-", "7"]);
    assert!(said.err.contains("20000 rows in ") && said.err.contains("1 rows in "), "{said:?}");
    assert!(said.err.contains("the first 2 of 20,000 rows are shown"), "{said:?}");
    let said = shell.project(&["sql", "SELECT 7 AS a", "--format", "json", "--limit", "0"]).done();
    assert_eq!(said.json(), json!([]));
}

#[test]
fn a_demo_leaves_foreign_folders_alone() {
    let shell = Shell::new();
    shell.write("d/letter.txt", "dear");
    shell.run(&["demo", "--dir", "d"]).refused("is not empty");
    shell.run(&["demo", "--dir", "d", "--clean"]).refused("no demo made");
    shell.run(&["demo", "--dir", "d", "--students", "1"]).refused("--students");
    assert_eq!(std::fs::read_dir(shell.dir().join("d")).unwrap().count(), 1);
    assert_eq!(shell.run(&["demo", "--dir", "missing", "--clean"]).done().out, "");
}

#[test]
fn a_checkout_without_a_warehouse_works_and_a_named_catalog_must_exist() {
    let shell = Shell::new();
    shell.write("p/insightera.toml", "format = 1\n");
    let said = shell.project(&["table", "list", "--format", "json"]).done();
    assert!(said.err.contains("made the catalog"), "{said:?}");
    assert_eq!(shell.project(&["table", "list", "--format", "json"]).done().err, "");
    shell.write("q/insightera.toml", "format = 1\n[catalog]\npath = \"elsewhere/catalog.db\"\n");
    shell.run(&["--project", "q", "table", "list"]).refused("elsewhere/catalog.db");
}
