//! Mistakes of the user: exit status 1, a message that helps, no data.

use std::process::Stdio;

use crate::binary::{Said, Shell};

#[test]
fn wrong_arguments_exit_with_one_and_help_with_zero() {
    let shell = Shell::new();
    for wrong in [&["frobnicate"][..], &["run"], &["run", "a", "--all"], &["plan", "a", "--format", "xml"], &[]] {
        let said = shell.run(wrong);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{wrong:?} {said:?}");
        assert!(said.err.contains("Usage:") || said.err.contains("--help"), "{said:?}");
    }
    let help = shell.run(&["--help"]).done();
    assert!(help.out.contains("First steps:") && help.err.is_empty());
    assert!(shell.run(&["--version"]).done().out.starts_with("insightera "));
}

#[test]
fn a_folder_without_a_project_is_refused_with_the_way_to_make_one() {
    let said = Shell::new().run(&["--project", "nowhere", "check"]).refused("`nowhere` is not a project");
    assert!(said.err.contains("hint: run `insightera init nowhere`"), "{said:?}");
}

#[test]
fn names_are_corrected() {
    let shell = Shell::with_project();
    assert!(shell.project(&["plan", "numers"]).refused("there is no pipeline `numers`").err.contains("`numbers`"));
    shell.project(&["table", "show", "numbers"]).refused("is not a table name");
    shell.project(&["table", "history", "predictions.numbers"]).refused("there is no table");
    shell.project(&["model", "show", "m"]).refused("there is no model `m`");
    let said = shell.project(&["model", "inspect", "nothing.json"]).refused("there is no file `nothing.json`");
    assert!(said.err.contains("insightera model list"), "{said:?}");
    shell.project(&["model", "inspect", "nothing"]).refused("there is no model `nothing`");
}

#[test]
fn an_unreadable_model_is_never_registered() {
    let shell = Shell::with_project();
    shell.write("model.json", "{}");
    let said = shell.project(&["model", "register", "m", "model.json", "--metrics", "auc=0.9"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    shell.project(&["model", "register", "m", "missing.json"]).refused("missing.json");
    shell.project(&["model", "register", "m", "model.json", "--metrics", "auc"]).refused("--metrics auc");
    assert_eq!(shell.project(&["model", "list", "--format", "json"]).done().json(), serde_json::json!([]));
}

#[test]
fn a_syntax_error_shows_the_place() {
    let shell = Shell::with_project();
    let said = shell.project(&["sql", "SELECT 1 +"]).refused("sql:");
    assert!(said.err.contains("SELECT 1 +"), "{said:?}");
    shell.project(&["sql", ""]).refused("there is no SQL statement");
    shell.project(&["sql", "--file", "missing.sql"]).refused("missing.sql");
}

#[test]
fn a_full_disk_behind_standard_output_is_told_and_a_closed_reader_is_not() {
    let shell = Shell::with_project();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let said = Said::of(shell.command(&["--project", "p", "sql", "SELECT 1"]).stdout(full).output().unwrap());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("standard output"), "{said:?}");

    let mut child = shell
        .command(&["--project", "p", "sql", "SELECT value FROM generate_series(1, 200000)"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let said = Said::of(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
}

#[test]
fn escapes_are_not_written_into_a_pipe() {
    let said = Shell::new().run(&["check"]);
    assert!(!said.err.contains('\u{1b}'), "{said:?}");
}
