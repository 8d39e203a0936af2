//! Damaged models are errors, never panics, never half loaded.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use insightera_infer::{Artifact, load};

fn asset(path: &str) -> Artifact {
    Artifact::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../insightera/assets/university/models").join(path))
        .unwrap()
}

fn shipped() -> Vec<Artifact> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../insightera/assets/university/models");
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join("models.json")).unwrap()).unwrap();
    let models = list.as_array().or_else(|| list["models"].as_array()).unwrap();
    models.iter().map(|m| asset(m["path"].as_str().unwrap())).collect()
}

#[test]
fn a_truncated_model_is_named_and_refused() {
    for artifact in shipped() {
        for (path, bytes) in artifact.files() {
            if bytes.is_empty() {
                continue;
            }
            for cut in [0, 1, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
                let mut files: BTreeMap<String, Bytes> = artifact.files().clone();
                files.insert(path.clone(), bytes.slice(..cut));
                let result = load(&Artifact::from_files(files).unwrap());
                let text = path.ends_with(".json") || path.contains("metadata/");
                // A text file may lose its last line break without harm.
                assert!(result.is_err() || (text && cut + 1 == bytes.len()), "{path} cut at {cut} of {}", bytes.len());
            }
        }
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let mut state = 42u64;
    for artifact in shipped() {
        for (path, bytes) in artifact.files().iter().filter(|(_, b)| b.len() > 8) {
            for _ in 0..40 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let mut bad = bytes.to_vec();
                let at = (state >> 33) as usize % bad.len();
                bad[at] ^= 1 << (state & 7);
                let mut files = artifact.files().clone();
                files.insert(path.clone(), bad.into());
                let _ = load(&Artifact::from_files(files).unwrap());
            }
        }
    }
}

#[test]
fn what_is_no_model_is_refused_by_name() {
    for (name, content, says) in [
        ("model.pkl", &b"\x80\x04"[..], "pickle"),
        ("notes.txt", b"hello", "no model format"),
        ("model.json", b"{\"a\": 1}", "no `learner`"),
        ("model.json", b"{\"a\": ", "not a readable XGBoost model"),
        ("MLmodel", b"flavors:", "MLflow"),
    ] {
        let files = BTreeMap::from([(name.to_owned(), Bytes::from_static(content))]);
        let error = load(&Artifact::from_files(files).unwrap()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_damaged_catboost_model_never_panics_and_a_cut_one_is_refused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/catboost");
    let mut state = 7u64;
    for entry in std::fs::read_dir(&root).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".cbm").or_else(|| name.strip_suffix(".json")) else { continue };
        let rows = crate::read_parquet(&root.join(format!("{stem}.rows.parquet")));
        let good = std::fs::read(entry.path()).unwrap();
        let read =
            |bytes: Vec<u8>| load(&Artifact::from_files(BTreeMap::from([(name.clone(), Bytes::from(bytes))])).unwrap());
        assert!(read(good.clone()).is_ok(), "{name}");
        for cut in [5, 9, good.len() / 3, good.len() / 2, good.len() - 2] {
            assert!(read(good[..cut].to_vec()).is_err(), "{name} cut at {cut}");
        }
        for _ in 0..3000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut bad = good.clone();
            let at = (state >> 33) as usize % bad.len();
            bad[at] ^= 1 << (state & 7);
            if let Ok(model) = read(bad) {
                let _ = model.score(&rows);
            }
        }
    }
}
