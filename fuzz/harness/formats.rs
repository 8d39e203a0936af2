//! The formats, and how an input becomes an artifact.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema;
use bytes::Bytes;
use insightera_infer::Artifact;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::archive;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    XgboostJson,
    XgboostUbj,
    Lightgbm,
    Spark,
    Onnx,
    Catboost,
    Mlflow,
}

impl Format {
    /// From the name of a folder of seeds.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "xgboost-json" => Self::XgboostJson,
            "xgboost-ubj" => Self::XgboostUbj,
            "lightgbm" => Self::Lightgbm,
            "spark" => Self::Spark,
            "onnx" => Self::Onnx,
            "catboost" => Self::Catboost,
            "mlflow" => Self::Mlflow,
            _ => return None,
        })
    }

    /// `None` when the input is no artifact at all.
    pub fn artifact(self, input: &[u8]) -> Option<Artifact> {
        let name = match self {
            Self::Spark | Self::Mlflow => return folder(input),
            Self::XgboostJson => "model.json",
            Self::XgboostUbj => "model.ubj",
            Self::Lightgbm => "model.txt",
            Self::Onnx => "model.onnx",
            Self::Catboost => "model.cbm",
        };
        Artifact::from_files(BTreeMap::from([(name.to_owned(), Bytes::copy_from_slice(input))])).ok()
    }
}

fn folder(input: &[u8]) -> Option<Artifact> {
    let mut files = BTreeMap::new();
    for (path, content) in archive::read(input) {
        match path.strip_suffix(".rows") {
            Some(path) => files.insert(format!("{path}.parquet"), parquet(&content)?.into()),
            None => files.insert(path, Bytes::from(content)),
        };
    }
    Artifact::from_files(files).ok()
}

/// Lines of JSON as a Parquet file, of whatever types they have.
fn parquet(lines: &[u8]) -> Option<Vec<u8>> {
    let (schema, _) = infer_json_schema(Cursor::new(lines), None).ok()?;
    let schema = Arc::new(schema);
    let reader = ReaderBuilder::new(schema.clone()).build(Cursor::new(lines)).ok()?;
    let plain = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(plain)).ok()?;
    for batch in reader {
        writer.write(&batch.ok()?).ok()?;
    }
    writer.into_inner().ok()
}
