//! The models that ship, against their libraries' scores of held-out rows.

use std::path::Path;

use insightera_infer::{Artifact, load};

use crate::{assert_close, numbers, read_parquet, ulps};

#[test]
fn every_shipped_model_scores_as_its_library_did() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../insightera/assets/university");
    let list: serde_json::Value =
        serde_json::from_slice(&std::fs::read(assets.join("models/models.json")).unwrap()).unwrap();
    let models = list.as_array().or_else(|| list["models"].as_array()).unwrap();
    assert!(models.len() >= 5);
    for entry in models {
        let (name, version) = (entry["name"].as_str().unwrap(), &entry["version"]);
        let path = assets.join("models").join(entry["path"].as_str().unwrap());
        let model = load(&Artifact::read(&path).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = assets.join(format!("expected/{name}_v{version}.parquet"));
        let rows = read_parquet(&expected);
        let scored = model.score(&rows).unwrap_or_else(|e| panic!("{name} v{version}: {e}"));
        let mut compared = 0;
        if rows.column_by_name("expected_probability").is_some() {
            let (found, wanted) = (scored.probability.clone().unwrap(), numbers(&rows, "expected_probability"));
            if model.description().flavor == "spark" {
                assert_close(name, &found, &wanted, 1e-12);
            }
            assert!((0..found.len()).all(|row| ulps(found.value(row), wanted.value(row)) <= 2), "{name}");
            compared += 1;
        } else if rows.column_by_name("expected_prediction").is_some() {
            let (found, wanted) = (&scored.prediction, numbers(&rows, "expected_prediction"));
            assert!((0..found.len()).all(|row| ulps(found.value(row), wanted.value(row)) <= 2), "{name}");
            compared += 1;
        }
        assert!(compared > 0, "{name} v{version} has nothing to compare");
    }
}
