//! The demo's pipelines and models, part of the binary.

use std::collections::BTreeMap;

use insightera_engine::registry::{PRODUCTION, Registration, Registry};
use insightera_infer::Artifact;
use serde::Deserialize;
use serde_json::Value;

/// The pipelines: name and text.
pub const PIPELINES: &[(&str, &str)] = &[
    ("budget_forecast_3m", include_str!("../../../assets/university/pipelines/budget_forecast_3m.toml")),
    ("budget_forecast_6m", include_str!("../../../assets/university/pipelines/budget_forecast_6m.toml")),
    ("course_grade_anomaly", include_str!("../../../assets/university/pipelines/course_grade_anomaly.toml")),
    ("dropout_risk", include_str!("../../../assets/university/pipelines/dropout_risk.toml")),
    ("dropout_risk_realtime", include_str!("../../../assets/university/pipelines/dropout_risk_realtime.toml")),
    ("publication_forecast", include_str!("../../../assets/university/pipelines/publication_forecast.toml")),
    ("transaction_anomaly", include_str!("../../../assets/university/pipelines/transaction_anomaly.toml")),
    (
        "transaction_anomaly_realtime",
        include_str!("../../../assets/university/pipelines/transaction_anomaly_realtime.toml"),
    ),
];

/// The folders of events that streams read.
pub const EVENTS: &[&str] = &["events/student-events", "events/financial-transactions"];

/// What is known about the models.
const MODELS: &str = include_str!("../../../assets/university/models/models.json");

/// The files of the models.
#[rustfmt::skip]
const FILES: &[(&str, &[u8])] = &[
    ("budget_forecast_model_3m/v1/model.ubj", include_bytes!("../../../assets/university/models/budget_forecast_model_3m/v1/model.ubj")),
    ("budget_forecast_model_6m/v1/model.ubj", include_bytes!("../../../assets/university/models/budget_forecast_model_6m/v1/model.ubj")),
    ("publication_forecast_model/v1/model.ubj", include_bytes!("../../../assets/university/models/publication_forecast_model/v1/model.ubj")),
    ("student_dropout_risk_model/v1/metadata/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/metadata/_SUCCESS")),
    ("student_dropout_risk_model/v1/metadata/part-00000", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/metadata/part-00000")),
    ("student_dropout_risk_model/v1/stages/0_StringIndexer_5867df2181b3/data/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/0_StringIndexer_5867df2181b3/data/_SUCCESS")),
    ("student_dropout_risk_model/v1/stages/0_StringIndexer_5867df2181b3/data/part-00000-be93a4e0-3074-45a0-8685-0dda5cf3d282-c000.snappy.parquet", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/0_StringIndexer_5867df2181b3/data/part-00000-be93a4e0-3074-45a0-8685-0dda5cf3d282-c000.snappy.parquet")),
    ("student_dropout_risk_model/v1/stages/0_StringIndexer_5867df2181b3/metadata/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/0_StringIndexer_5867df2181b3/metadata/_SUCCESS")),
    ("student_dropout_risk_model/v1/stages/0_StringIndexer_5867df2181b3/metadata/part-00000", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/0_StringIndexer_5867df2181b3/metadata/part-00000")),
    ("student_dropout_risk_model/v1/stages/1_OneHotEncoder_9447ee8d3a8f/data/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/1_OneHotEncoder_9447ee8d3a8f/data/_SUCCESS")),
    ("student_dropout_risk_model/v1/stages/1_OneHotEncoder_9447ee8d3a8f/data/part-00000-1d0c091a-2248-4e02-8aed-a68018fd3d71-c000.snappy.parquet", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/1_OneHotEncoder_9447ee8d3a8f/data/part-00000-1d0c091a-2248-4e02-8aed-a68018fd3d71-c000.snappy.parquet")),
    ("student_dropout_risk_model/v1/stages/1_OneHotEncoder_9447ee8d3a8f/metadata/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/1_OneHotEncoder_9447ee8d3a8f/metadata/_SUCCESS")),
    ("student_dropout_risk_model/v1/stages/1_OneHotEncoder_9447ee8d3a8f/metadata/part-00000", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/1_OneHotEncoder_9447ee8d3a8f/metadata/part-00000")),
    ("student_dropout_risk_model/v1/stages/2_Imputer_7358021b9af7/data/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/2_Imputer_7358021b9af7/data/_SUCCESS")),
    ("student_dropout_risk_model/v1/stages/2_Imputer_7358021b9af7/data/part-00000-4ba3086b-a026-48c9-8a47-ddcb943350d7-c000.snappy.parquet", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/2_Imputer_7358021b9af7/data/part-00000-4ba3086b-a026-48c9-8a47-ddcb943350d7-c000.snappy.parquet")),
    ("student_dropout_risk_model/v1/stages/2_Imputer_7358021b9af7/metadata/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/2_Imputer_7358021b9af7/metadata/_SUCCESS")),
    ("student_dropout_risk_model/v1/stages/2_Imputer_7358021b9af7/metadata/part-00000", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/2_Imputer_7358021b9af7/metadata/part-00000")),
    ("student_dropout_risk_model/v1/stages/3_VectorAssembler_4d5698e3c6d7/metadata/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/3_VectorAssembler_4d5698e3c6d7/metadata/_SUCCESS")),
    ("student_dropout_risk_model/v1/stages/3_VectorAssembler_4d5698e3c6d7/metadata/part-00000", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/3_VectorAssembler_4d5698e3c6d7/metadata/part-00000")),
    ("student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/data/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/data/_SUCCESS")),
    ("student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/data/part-00000-9f165cc2-71e2-469b-b30a-983494690891-c000.snappy.parquet", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/data/part-00000-9f165cc2-71e2-469b-b30a-983494690891-c000.snappy.parquet")),
    ("student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/metadata/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/metadata/_SUCCESS")),
    ("student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/metadata/part-00000", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/metadata/part-00000")),
    ("student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/treesMetadata/_SUCCESS", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/treesMetadata/_SUCCESS")),
    ("student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/treesMetadata/part-00000-3c42f4f8-efa1-41ab-83bf-1afb3797c242-c000.snappy.parquet", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v1/stages/4_RandomForestClassifier_ec554f04d5ea/treesMetadata/part-00000-3c42f4f8-efa1-41ab-83bf-1afb3797c242-c000.snappy.parquet")),
    ("student_dropout_risk_model/v2/model.ubj", include_bytes!("../../../assets/university/models/student_dropout_risk_model/v2/model.ubj")),
];

#[derive(Debug, Deserialize)]
struct Models {
    models: Vec<Model>,
}

/// A version of a model, as the training script wrote it down.
#[derive(Debug, Deserialize)]
struct Model {
    name: String,
    version: u64,
    path: String,
    flavor: String,
    library: String,
    params: BTreeMap<String, Value>,
    holdout: String,
    train_rows: u64,
    test_rows: u64,
    metrics: BTreeMap<String, f64>,
}

impl Model {
    fn artifact(&self) -> anyhow::Result<Artifact> {
        let folder = format!("{}/", self.path);
        let files =
            FILES.iter().filter_map(|(path, bytes)| Some((path.strip_prefix(&folder)?.to_owned(), (*bytes).into())));
        Ok(Artifact::from_files(files.collect())?)
    }

    fn params(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut params: BTreeMap<String, String> = self.params.iter().map(|(k, v)| (k.clone(), text(v))).collect();
        params.insert("train_rows".into(), self.train_rows.to_string());
        params.insert("test_rows".into(), self.test_rows.to_string());
        params
    }
}

/// Registers all models with their measured quality; the first version of each
/// is in production. Says how many versions there are.
pub fn register_models(registry: &dyn Registry) -> anyhow::Result<usize> {
    let models: Models = serde_json::from_str(MODELS)?;
    for model in &models.models {
        let artifact = model.artifact()?;
        insightera_engine::sql::load_model(&artifact)?;
        registry.register(Registration {
            description: Some(format!("{}; holdout: {}", model.library, model.holdout)),
            metrics: model.metrics.clone(),
            params: model.params(),
            experiment: Some("demo university".into()),
            model_type: Some(model.flavor.clone()),
            alias: (model.version == 1).then(|| PRODUCTION.to_owned()),
            if_absent: true,
            ..Registration::new(&model.name, artifact)
        })?;
    }
    Ok(models.models.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files_below(&path, found) } else { found.push(path) }
        }
    }

    #[test]
    fn every_file_of_the_assets_is_part_of_the_binary() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/university");
        let mut found = Vec::new();
        files_below(&root.join("models"), &mut found);
        found.retain(|path| path.parent() != Some(&root.join("models")));
        assert_eq!(found.len(), FILES.len());
        for path in found {
            let name = path.strip_prefix(root.join("models")).unwrap().to_str().unwrap();
            let (_, bytes) = FILES.iter().find(|(file, _)| *file == name).unwrap();
            assert!(std::fs::read(&path).unwrap() == *bytes, "{name}");
        }
        assert_eq!(std::fs::read_dir(root.join("pipelines")).unwrap().count(), PIPELINES.len());
    }

    #[test]
    fn every_model_has_files_and_metrics() {
        let models: Models = serde_json::from_str(MODELS).unwrap();
        for model in models.models {
            let folder = format!("{}/", model.path);
            assert!(FILES.iter().any(|(path, _)| path.starts_with(&folder)), "{}", model.path);
            assert!(!model.metrics.is_empty() && model.params()["train_rows"].parse::<u64>().is_ok());
        }
    }
}
