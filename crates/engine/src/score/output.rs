//! The output of a pipeline: its columns, its expressions, its table.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use iceberg::TableUpdate;
use iceberg::spec::Transform;

use crate::config::{Explain, Output, PartitionTransform, Pipeline};
use crate::lake::schema::{self, Column, Evolution, timestamptz};
use crate::lake::{Lake, NewTable, Table, TableName, commit};
use crate::sql::{physical_expression, plan_error};
use crate::{Error, Result};

/// Columns that an output expression can use besides the features.
const TIMESTAMP: &str = "prediction_timestamp";
const DATE: &str = "prediction_date";
const VERSION: &str = "model_version";
const TYPE: &str = "inference_type";
const REASONS: &str = "reasons";

/// The columns that the model adds, in the order of the scoring batch.
pub fn prediction_fields(explained: bool) -> Vec<Field> {
    let labels = Field::new(
        "entries",
        DataType::Struct(
            vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Float64, true)].into(),
        ),
        false,
    );
    let mut fields = vec![
        Field::new("prediction", DataType::Float64, true),
        Field::new("probability", DataType::Float64, true),
        Field::new("probabilities", DataType::Map(Arc::new(labels), false), true),
        Field::new("margin", DataType::Float64, true),
        Field::new(VERSION, DataType::Utf8, true),
        Field::new(TIMESTAMP, timestamptz(), false),
        Field::new(DATE, DataType::Date32, false),
        Field::new(TYPE, DataType::Utf8, false),
    ];
    if explained {
        fields.push(Field::new_list(REASONS, Field::new_list_field(DataType::Utf8, true), true));
    }
    fields
}

/// The columns after the pipeline's own, the same for every prediction table.
pub fn record_columns() -> Vec<Column> {
    vec![
        Column::nullable("pipeline", DataType::Utf8),
        Column::nullable("model_name", DataType::Utf8),
        Column::nullable("run_id", DataType::Utf8),
        Column::nullable("score_reason", DataType::Utf8),
        Column::nullable("feature_hash", DataType::Int64),
        Column::nullable("definition_hash", DataType::Int64),
        Column::nullable("variant", DataType::Utf8),
        Column::nullable("propensity", DataType::Float64),
    ]
}

/// One output column.
#[derive(Debug, Clone)]
pub struct OutputColumn {
    /// The column in the table.
    pub column: Column,
    /// Its SQL expression.
    pub sql: String,
    /// The expression over the scoring batch.
    pub physical: Arc<dyn PhysicalExpr>,
}

/// All columns a pipeline writes.
#[derive(Debug, Clone)]
pub struct OutputPlan {
    /// The pipeline's own columns and the four that it may have left out.
    pub columns: Vec<OutputColumn>,
    /// Features, then the model's columns.
    pub input_schema: SchemaRef,
    /// How the table is keyed.
    pub shape: TableShape,
    /// Whether an expression reads `probabilities`, which cost time to make.
    pub uses_probabilities: bool,
    /// The reasons that come with each prediction.
    pub explain: Option<Explain>,
}

/// The role of a prediction table's columns, kept in its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableShape {
    /// The entity key columns.
    pub key: Vec<String>,
    /// The column of the prediction time.
    pub timestamp: String,
    /// The column of the inference type.
    pub inference_type: String,
}

impl TableShape {
    const KEY: &str = "insightera.entity-key";
    const TIMESTAMP: &str = "insightera.timestamp-column";
    const TYPE: &str = "insightera.inference-type-column";

    /// As table properties.
    pub fn properties(&self) -> HashMap<String, String> {
        HashMap::from([
            (Self::KEY.into(), serde_json::json!(self.key).to_string()),
            (Self::TIMESTAMP.into(), self.timestamp.clone()),
            (Self::TYPE.into(), self.inference_type.clone()),
        ])
    }

    /// From table properties; `None` where the table is not ours.
    pub fn read(properties: &HashMap<String, String>) -> Option<Self> {
        Some(Self {
            key: serde_json::from_str(properties.get(Self::KEY)?).ok()?,
            timestamp: properties.get(Self::TIMESTAMP)?.clone(),
            inference_type: properties.get(Self::TYPE)?.clone(),
        })
    }
}

/// The parts of a pipeline that decide its output.
#[derive(Debug, Clone, Copy)]
pub struct OutputSource<'a> {
    /// The pipeline's file, for messages.
    pub file: &'a Path,
    /// The entity key.
    pub entity_key: &'a [String],
    /// The table and its columns.
    pub output: &'a Output,
    /// The reasons that come with each prediction.
    pub explain: Option<&'a Explain>,
}

impl<'a> From<&'a Pipeline> for OutputSource<'a> {
    fn from(pipeline: &'a Pipeline) -> Self {
        Self {
            file: &pipeline.file,
            entity_key: &pipeline.entity_key,
            output: &pipeline.output,
            explain: pipeline.model.as_ref().and_then(|model| model.explain.as_ref()),
        }
    }
}

impl OutputPlan {
    /// Plans the output expressions of a pipeline over its features.
    pub fn new(context: &SessionContext, pipeline: OutputSource<'_>, features: &Schema) -> Result<Self> {
        let mut fields: Vec<Field> = features.fields().iter().map(|f| f.as_ref().clone()).collect();
        let explain = pipeline.explain.cloned();
        for added in prediction_fields(explain.is_some()) {
            if features.field_with_name(added.name()).is_ok() {
                return Err(Error::invalid(format!(
                    "{}: the features have a column `{}`, which is the name of a prediction column",
                    pipeline.file.display(),
                    added.name()
                ))
                .hint("give the feature another name with AS"));
            }
            fields.push(added);
        }
        let input_schema: SchemaRef = Arc::new(Schema::new(fields));
        let df_schema = DFSchema::try_from(input_schema.as_ref().clone())
            .map_err(|e| plan_error(&pipeline.file.display().to_string(), "", e))?;
        let mut wanted: Vec<(String, String)> = pipeline.output.columns.clone();
        let mapped = |sql: &str, columns: &[(String, String)]| {
            columns.iter().find(|(_, e)| unquoted(e) == sql).map(|(name, _)| name.clone())
        };
        for name in [TIMESTAMP, VERSION, TYPE, DATE].into_iter().chain(explain.as_ref().map(|_| REASONS)) {
            if mapped(name, &wanted).is_none() && !wanted.iter().any(|(column, _)| column == name) {
                wanted.push((name.to_owned(), name.to_owned()));
            }
        }
        let role = |sql: &str| {
            mapped(sql, &wanted).ok_or_else(|| {
                Error::invalid(format!(
                    "{}: column `{sql}` has another meaning in [output.columns]",
                    pipeline.file.display()
                ))
                .hint(format!("leave `{sql}` out of [output.columns], or set it to \"{sql}\""))
            })
        };
        let shape =
            TableShape { key: pipeline.entity_key.to_vec(), timestamp: role(TIMESTAMP)?, inference_type: role(TYPE)? };
        let mut uses_probabilities = false;
        let columns = wanted
            .iter()
            .map(|(name, sql)| {
                let what = format!("{}: [output.columns] {name}", pipeline.file.display());
                let logical =
                    context.state().create_logical_expr(sql, &df_schema).map_err(|e| plan_error(&what, sql, e))?;
                refuse_clocks(&what, &logical)?;
                uses_probabilities |= logical.column_refs().iter().any(|c| c.name == "probabilities");
                let physical =
                    physical_expression(context, logical, &df_schema).map_err(|e| plan_error(&what, sql, e))?;
                let data_type = physical.data_type(&input_schema).map_err(|e| plan_error(&what, sql, e))?;
                let required = shape.key.contains(name) || *name == shape.timestamp;
                let column =
                    Column { name: name.clone(), data_type: stored(&data_type), nullable: !required, doc: None };
                crate::lake::schema::iceberg_type(name, &column.data_type, &mut 0)
                    .map_err(|e| Error::invalid(format!("{what}: {e}")).hint(e.get_hint().unwrap_or_default()))?;
                Ok(OutputColumn { column, sql: sql.clone(), physical })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { columns, input_schema, shape, uses_probabilities, explain })
    }

    /// The columns of the prediction table.
    pub fn table_columns(&self) -> Vec<Column> {
        self.columns.iter().map(|c| c.column.clone()).chain(record_columns()).collect()
    }

    /// The schema of the rows that scoring yields.
    pub fn row_schema(&self) -> SchemaRef {
        let fields: Vec<Field> =
            self.table_columns().into_iter().map(|c| Field::new(c.name, c.data_type, true)).collect();
        Arc::new(Schema::new(fields))
    }

    /// The table that the pipeline writes.
    pub fn new_table(&self, output: &Output) -> NewTable {
        let mut properties: HashMap<String, String> =
            output.properties.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        properties.extend(self.shape.properties());
        NewTable {
            name: TableName { namespace: output.namespace.clone(), name: output.table.clone() },
            columns: self.table_columns(),
            partition_by: output.partition_by.iter().map(transform).collect(),
            properties,
            location: None,
        }
    }

    /// What must change in an existing table to hold the pipeline's rows.
    ///
    /// # Errors
    /// When it is keyed otherwise, or a column has another type.
    pub fn evolution(&self, file: &Path, table: &Table) -> Result<Evolution> {
        table.check_writable()?;
        let file = file.display();
        let shape = TableShape::read(table.metadata().properties());
        if let Some(shape) = shape.filter(|shape| *shape != self.shape) {
            return Err(Error::invalid(format!(
                "{file}: table `{}` is keyed by {:?} with prediction time `{}`, this pipeline by {:?} with `{}`",
                table.name(),
                shape.key,
                shape.timestamp,
                self.shape.key,
                self.shape.timestamp
            ))
            .hint("pipelines that share a table share its key; write to another table"));
        }
        schema::evolution(&table.name().to_string(), table.schema(), &self.table_columns())
            .map_err(|e| Error::invalid(format!("{file}: {e}")).hint(e.get_hint().unwrap_or_default()))
    }

    /// Adds to an existing table what the pipeline's rows need.
    pub fn fit(&self, lake: &Lake, name: &TableName) -> Result<Table> {
        let columns = self.table_columns();
        commit::alter(lake, name, |base| {
            let mut updates = schema::updates(base, &columns)?;
            // A table made by someone else's DDL becomes a prediction table.
            if TableShape::read(base.metadata().properties()).is_none() {
                updates.push(TableUpdate::SetProperties { updates: self.shape.properties() });
            }
            Ok(updates)
        })
    }
}

fn transform(partition: &PartitionTransform) -> (String, Transform) {
    let transform = match partition {
        PartitionTransform::Identity { .. } => Transform::Identity,
        PartitionTransform::Years { .. } => Transform::Year,
        PartitionTransform::Months { .. } => Transform::Month,
        PartitionTransform::Days { .. } => Transform::Day,
        PartitionTransform::Hours { .. } => Transform::Hour,
        PartitionTransform::Bucket { buckets, .. } => Transform::Bucket(*buckets),
        PartitionTransform::Truncate { width, .. } => Transform::Truncate(*width),
    };
    (partition.column().to_owned(), transform)
}

fn unquoted(sql: &str) -> &str {
    sql.trim().trim_matches('"')
}

/// The type that a column is stored with.
fn stored(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => stored(value),
        DataType::Timestamp(_, Some(_)) => timestamptz(),
        DataType::Timestamp(_, None) => DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        other => other.clone(),
    }
}

/// Refuses functions that give another answer every time.
pub fn refuse_clocks(what: &str, expression: &Expr) -> Result<()> {
    let mut found = None;
    let _ = expression.apply(|e| {
        if let Expr::ScalarFunction(f) = e
            && f.func.signature().volatility != Volatility::Immutable
        {
            found = Some(f.func.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match found {
        Some(name) => Err(Error::invalid(format!("{what}: `{name}()` gives another answer every time"))
            .hint("use `prediction_timestamp` or `prediction_date`, which are one value for the whole run")),
        None => Ok(()),
    }
}
