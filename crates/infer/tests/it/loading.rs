//! What loading a model takes.

use std::path::PathBuf;

use insightera_core::{Clock, SystemClock};
use insightera_infer::{Artifact, load};

use crate::counting::counted;
use crate::folder;

/// What small files may take: names and descriptions afterwards, and before, the
/// reader of Parquet.
const SMALL: (usize, usize) = (256 << 10, 1 << 20);

/// Seconds that a model has to be loaded in time once.
const PATIENCE: f64 = 5.0;

#[test]
fn a_reference_model_loads_within_50_ms_and_four_times_its_files() {
    let test = "a_reference_model_loads_within_50_ms_and_four_times_its_files";
    let Some(root) = folder(test, "INSIGHTERA_TEST_REFERENCE") else { return };
    let files = ["xgb.ubj", "xgb.json", "lgb.txt", "rf.onnx", "lr.onnx"].map(|file| root.join("models").join(file));
    let mut models: Vec<PathBuf> = files.into();
    let folders = std::fs::read_dir(root.join("sparkml")).unwrap().map(|entry| entry.unwrap().path());
    models.extend(folders.filter(|path| path.join("metadata").is_dir()));
    assert!(models.len() >= 9, "{models:?}");
    let clock = SystemClock::new();
    let mut over = Vec::new();
    for path in models {
        let artifact = Artifact::read(&path).unwrap();
        let times = 4 * usize::try_from(artifact.total_bytes()).unwrap();
        let (mut fastest, mut bytes) = (f64::INFINITY, (0, 0));
        // Others may have the processor now and then, for a while.
        let patience = clock.monotonic_seconds() + PATIENCE;
        for round in 0.. {
            if round >= 5 && (fastest < 0.05 || clock.monotonic_seconds() > patience) {
                break;
            }
            let start = clock.monotonic_seconds();
            let (model, held, peak) = counted(|| load(&artifact));
            fastest = fastest.min(clock.monotonic_seconds() - start);
            model.unwrap();
            bytes = (held, peak);
        }
        if fastest >= 0.05 || bytes.0 > times.max(SMALL.0) || bytes.1 > times.max(SMALL.1) {
            let (held, peak) = bytes;
            over.push(format!("{}: {:.1} ms, {held} bytes, {peak} at the most", path.display(), fastest * 1e3));
        }
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
}
