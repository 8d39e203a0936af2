//! Models that ONNX Runtime runs, from the shared library of its Python package.
//!
//! A process takes the library from one place for good, so every case is a process
//! of its own: this program again, with the one test that is ignored otherwise.
//! The models and what ONNX Runtime said of their rows are from
//! tests/judge/make_onnx_goldens.py.

use std::path::{Path, PathBuf};
use std::process::Command;

use insightera_core::ErrorKind;
use insightera_infer::{Artifact, load};

use crate::{numbers, read_parquet};

const ALONE: &str = "outside::alone";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/onnx").join(name)
}

/// The library from the environment; without it the test says that it skips, and
/// fails where `CI` is `true`.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn library(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("INSIGHTERA_TEST_ONNXRUNTIME").map(PathBuf::from).filter(|path| path.is_file());
    if found.is_none() {
        println!("SKIPPED {test}: INSIGHTERA_TEST_ONNXRUNTIME is not set to libonnxruntime.so");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{test}: INSIGHTERA_TEST_ONNXRUNTIME is not set");
    }
    found
}

/// What a process says that loads both models with this `ORT_DYLIB_PATH`.
fn told(library: Option<&Path>) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([ALONE, "--exact", "--ignored", "--nocapture", "--test-threads=1"]).env_remove("ORT_DYLIB_PATH");
    if let Some(library) = library {
        command.env("ORT_DYLIB_PATH", library);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // The first follows the name of the test.
    let told: Vec<String> = text.lines().filter_map(|line| Some(line.split_once("told: ")?.1.to_owned())).collect();
    assert_eq!(told.len(), 2, "{text}");
    told
}

#[test]
#[ignore = "the other tests here run it in processes of their own"]
#[expect(clippy::print_stdout, reason = "the process that started this one reads it")]
fn alone() {
    for name in ["value", "classes"] {
        let model = match load(&Artifact::read(&golden(&format!("outside_{name}.onnx"))).unwrap()) {
            Ok(model) => model,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid);
                println!("told: {error}; hint: {}", error.hint().unwrap_or_default());
                continue;
            }
        };
        let rows = read_parquet(&golden(&format!("outside_{name}.rows.parquet")));
        let scored = model.score(&rows).unwrap();
        let mut compared = 0;
        let mut same = |what: &str, found: &dyn Fn(usize) -> f64| {
            let wanted = numbers(&rows, what);
            for row in 0..rows.num_rows() {
                let (found, wanted) = (found(row), wanted.value(row));
                // It adds up in an order that depends on the rows beside a row.
                assert!(
                    (found - wanted).abs() <= 1e-5 * wanted.abs().max(1.0),
                    "{name} {what} row {row}: {found} {wanted}"
                );
            }
            compared += rows.num_rows();
        };
        same("expected_prediction", &|row| scored.prediction.value(row));
        if let Some(classes) = &scored.probabilities {
            for (class, label) in classes.labels.iter().enumerate() {
                let at = |row: usize| classes.values[row * classes.labels.len() + class];
                same(&format!("expected_probability_{label}"), &at);
            }
        }
        let explained = model.contributions(&rows).unwrap_err();
        assert!(explained.to_string().contains("ONNX Runtime"), "{explained}");
        println!("told: {compared} numbers alike, {}", model.description().labels.join(" "));
    }
}

#[test]
fn models_with_other_operators_score_in_onnx_runtime_as_it_scores_them() {
    let test = "models_with_other_operators_score_in_onnx_runtime_as_it_scores_them";
    let Some(library) = library(test) else { return };
    assert_eq!(told(Some(&library)), ["1000 numbers alike, ", "4000 numbers alike, low middle high"]);
}

#[test]
fn without_its_library_a_model_with_another_operator_is_refused_with_the_way_to_it() {
    for told in told(None) {
        assert!(told.contains("Einsum of ai.onnx version 18"), "{told}");
        assert!(told.contains("this operator is not supported"), "{told}");
        assert!(told.contains("hint: ONNX Runtime could run it: `ORT_DYLIB_PATH` does not name"), "{told}");
    }
}

#[test]
fn a_library_that_cannot_be_loaded_is_named() {
    for path in [PathBuf::from("/nowhere/libonnxruntime.so"), golden("outside_value.onnx")] {
        for told in told(Some(&path)) {
            assert!(told.contains("Einsum of ai.onnx version 18"), "{told}");
            let why = "hint: ONNX Runtime could run it, but cannot be loaded";
            assert!(told.contains(why) && told.contains(path.to_str().unwrap()), "{told}");
        }
    }
}
