//! A stream's pipeline, planned and checked.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use insightera_core::closest;
use insightera_events::Decoder;
use insightera_infer::Model;
use xxhash_rust::xxh3::xxh3_64;

use super::expression::Expression;
use super::join::Join;
use super::remembered::MOST;
use super::schemas::Schemas;
use super::windows::Windows;
use super::{set_aside, source, table_properties};
use crate::config::{EVENT_COLUMNS, Emit, LiveSettings, SOURCE_TOPIC, SourceSettings, StreamPipeline};
use crate::key;
use crate::lake::schema::{Column, timestamptz};
use crate::lake::{NewTable, TableName};
use crate::registry::ResolvedModel;
use crate::score::{CheckReport, OutputPlan, OutputSource, check_signature, load_model};
use crate::sql::session;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Everything of a stream that does not change while it runs.
#[derive(Debug)]
pub struct Program {
    /// The pipeline.
    pub pipeline: StreamPipeline,
    /// Payloads to columns.
    pub decoder: Decoder,
    /// What payloads are written by, where they are no JSON.
    pub schemas: Option<Arc<Schemas>>,
    /// How many fields the payload has.
    pub payload_fields: usize,
    /// Columns that are computed of them.
    pub computed: Vec<Expression>,
    /// The event without the computed columns.
    pub decoded_schema: SchemaRef,
    /// The event: its fields, computed columns and what the engine knows.
    pub event_schema: SchemaRef,
    /// What a row is about: the event, or a key and the window that closed.
    pub subject_schema: SchemaRef,
    /// Which events count.
    pub filter: Option<Expression>,
    /// Windows over the events.
    pub windows: Option<Windows>,
    /// Features from the lake.
    pub join: Option<Join>,
    /// Event, windows and joined features.
    pub base_schema: SchemaRef,
    /// Further inputs of the model.
    pub features: Vec<Expression>,
    /// All of it: what the model and the output see.
    pub feature_schema: SchemaRef,
    /// The output.
    pub output: Arc<OutputPlan>,
    /// The rows of the prediction table.
    pub row_schema: SchemaRef,
    /// Side tables: dead letters, late events, then those of alerts.
    pub sides: Vec<NewTable>,
    /// Which side table gets late events.
    pub late_side: usize,
    /// Alerts.
    pub alerts: Vec<AlertPlan>,
}

/// A planned alert.
#[derive(Debug)]
pub struct AlertPlan {
    /// Its name.
    pub name: String,
    /// The condition over the rows.
    pub when: Expression,
    /// The side table.
    pub side: usize,
    /// Who is told.
    pub notify: Vec<String>,
    /// With `on_change`: its number among those.
    pub on_change: Option<usize>,
}

/// The model that scores at the moment.
#[derive(Debug)]
pub struct Scorer {
    /// The loaded model; none is a rule.
    pub model: Option<Arc<dyn Model>>,
    /// Its version.
    pub resolved: Option<ResolvedModel>,
    /// xxh3-64 of model, SQL and output expressions.
    pub definition_hash: u64,
    /// What `model_version` says.
    pub version: String,
    /// The columns that the feature hash covers.
    pub hashed: Vec<String>,
}

impl Program {
    /// Plans and checks the stream `name`, but for its model.
    ///
    /// # Errors
    /// What is wrong with it, with file and remedy.
    pub async fn new(workspace: &Workspace, name: &str) -> Result<Self> {
        let pipeline = workspace.project().stream(name)?;
        let file = pipeline.file.display().to_string();
        let context = session(workspace, &pipeline.events.time_zone)?;
        let mut decoder = pipeline.events.decoder(&pipeline.entity_key);
        let schemas = Schemas::new(&pipeline.file, &pipeline.events)?.map(Arc::new);
        if let Some(schemas) = &schemas {
            decoder = decoder.with_written(schemas.clone());
        }
        let mut fields = decoder.fields();
        let payload_schema: SchemaRef = Arc::new(Schema::new(fields.clone()));
        let mut computed = Vec::new();
        for (name, sql) in &pipeline.events.columns {
            let what = format!("{file}: [events.columns] {name}");
            let expression = Expression::new(&context, what, sql, &payload_schema)?;
            fields.push(Field::new(name, expression.data_type().clone(), true));
            computed.push(expression);
        }
        refuse_twice(&file, &fields)?;
        fields.extend([
            Field::new("event_timestamp", timestamptz(), false),
            Field::new("arrival_timestamp", timestamptz(), false),
            Field::new("source_partition", DataType::Int32, false),
            Field::new("source_offset", DataType::Int64, false),
        ]);
        fields.extend(pipeline.source.listed().map(|_| Field::new(SOURCE_TOPIC, DataType::Utf8, false)));
        let event_schema: SchemaRef = Arc::new(Schema::new(fields.clone()));
        let payload_fields = payload_schema.fields().len();
        let mut decoded = fields.clone();
        decoded.drain(payload_fields..payload_fields + computed.len());
        let decoded_schema: SchemaRef = Arc::new(Schema::new(decoded));
        for column in pipeline.entity_key.iter().chain(pipeline.windows.iter().flat_map(|window| &window.key)) {
            let field = event_schema.field_with_name(column).map_err(|e| Error::internal(e.to_string()))?;
            key::check_key_type(column, field.data_type())
                .map_err(|e| Error::invalid(format!("{file}: {e}")).hint("declare the field as `string` or `long`"))?;
        }
        let filter = pipeline.events.filter.as_ref();
        let filter = filter
            .map(|sql| Expression::condition(&context, format!("{file}: [events] filter"), sql, &event_schema))
            .transpose()?;
        let windows = Windows::new(&context, &pipeline, &event_schema)?;
        if pipeline.stream.emit == Emit::OnClose {
            fields = window_fields(&pipeline, &event_schema)?;
        }
        let subject_schema: SchemaRef = Arc::new(Schema::new(fields.clone()));
        let join = match &pipeline.join {
            None => None,
            Some(settings) => Some(Join::new(workspace, &pipeline, settings, &subject_schema).await?),
        };
        fields.push(Field::new("window_complete", DataType::Boolean, false));
        fields.extend(windows.iter().flat_map(|windows| windows.fields.clone()));
        fields.extend(join.iter().flat_map(|join| join.fields.clone()));
        refuse_twice(&file, &fields)?;
        let base_schema: SchemaRef = Arc::new(Schema::new(fields.clone()));
        let mut features = Vec::new();
        for (name, sql) in &pipeline.features {
            let what = format!("{file}: [features.columns] {name}");
            let expression = Expression::new(&context, what, sql, &base_schema)?;
            fields.push(Field::new(name, expression.data_type().clone(), true));
            features.push(expression);
        }
        refuse_twice(&file, &fields)?;
        let feature_schema: SchemaRef = Arc::new(Schema::new(fields));
        let source = OutputSource {
            file: &pipeline.file,
            entity_key: &pipeline.entity_key,
            output: &pipeline.output,
            explain: None,
        };
        let output = Arc::new(OutputPlan::new(&context, source, &feature_schema)?);
        let row_schema = output.row_schema();
        let (sides, late_side) = set_aside_tables(&pipeline);
        let predictions =
            TableName { namespace: pipeline.output.namespace.clone(), name: pipeline.output.table.clone() };
        if sides.iter().any(|side| side.name == predictions) {
            return Err(Error::invalid(format!(
                "{file}: table `{predictions}` cannot hold predictions and events that were set aside"
            ))
            .hint("give `dead_letters` and `late_events` in [stream] tables of their own"));
        }
        let mut program = Self {
            decoder,
            schemas,
            payload_fields,
            computed,
            decoded_schema,
            event_schema,
            subject_schema,
            filter,
            windows,
            join,
            base_schema,
            features,
            feature_schema,
            output,
            row_schema,
            sides,
            late_side,
            alerts: Vec::new(),
            pipeline,
        };
        for alert in program.pipeline.alerts.clone() {
            let what = format!("{file}: [alerts.{}] when", alert.name);
            let when = Expression::condition(&context, what, &alert.when, &program.row_schema)?;
            let side = program.alert_side(&TableName { namespace: alert.table.0, name: alert.table.1 })?;
            let number = program.alerts.iter().filter(|alert| alert.on_change.is_some()).count();
            if alert.on_change && number == MOST {
                return Err(Error::invalid(format!("{file}: more than {MOST} alerts have `on_change`")));
            }
            let on_change = alert.on_change.then_some(number);
            let notifiers = &workspace.project().settings.notifiers;
            if let Some(unknown) = alert.notify.iter().find(|name| !notifiers.contains_key(*name)) {
                let error = Error::invalid(format!(
                    "{file}: [alerts.{}] notify: insightera.toml has no [notifiers.{unknown}]",
                    alert.name
                ));
                return Err(match closest(unknown, notifiers.keys().map(String::as_str)) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint(format!(
                        "add it: [notifiers.{unknown}], kind = \"slack\" or \"webhook\", url = \"https://…\" or \"env:NAME\", or kind = \"log\", file = \"alerts.ndjson\""
                    )),
                });
            }
            program.alerts.push(AlertPlan { name: alert.name, when, side, notify: alert.notify, on_change });
        }
        Ok(program)
    }

    /// The side table of an alert, added if it is new.
    fn alert_side(&mut self, name: &TableName) -> Result<usize> {
        let events = self.late_side + 1;
        if let Some(index) = self.sides.iter().position(|side| side.name == *name) {
            if index < events {
                return Err(Error::invalid(format!(
                    "{}: table `{name}` cannot hold alerts and events that were set aside",
                    self.pipeline.file.display()
                )));
            }
            return Ok(index);
        }
        if *name == self.table() {
            return Err(Error::invalid(format!(
                "{}: table `{name}` cannot hold alerts and predictions",
                self.pipeline.file.display()
            )));
        }
        let mut columns: Vec<Column> =
            self.output.table_columns().into_iter().map(|column| Column { nullable: true, ..column }).collect();
        columns.push(Column::required("alert", DataType::Utf8));
        let (partition_by, location) = Default::default();
        let properties = table_properties();
        self.sides.push(NewTable { name: name.clone(), columns, partition_by, properties, location });
        Ok(self.sides.len() - 1)
    }

    /// The prediction table.
    pub fn table(&self) -> TableName {
        let output = &self.pipeline.output;
        TableName { namespace: output.namespace.clone(), name: output.table.clone() }
    }

    /// What the alerts with `on_change` are: their names and conditions.
    pub fn remembers_as(&self) -> u64 {
        let told = self.pipeline.alerts.iter().filter(|alert| alert.on_change);
        let told: Vec<(&str, &str)> = told.map(|alert| (alert.name.as_str(), alert.when.as_str())).collect();
        xxh3_64(format!("{told:?}").as_bytes())
    }

    /// Whether it matters which alerts' conditions held before.
    pub fn remembers(&self) -> bool {
        self.alerts.iter().any(|alert| alert.on_change.is_some())
    }

    /// Whether rows are made when windows close.
    pub fn on_close(&self) -> bool {
        self.pipeline.stream.emit == Emit::OnClose
    }

    /// Resolves and loads the model that scores now.
    ///
    /// # Errors
    /// When there is none, or it wants other columns.
    pub fn scorer(&self, workspace: &Workspace) -> Result<Scorer> {
        self.scorer_of(workspace, self.resolve(workspace)?)
    }

    /// Loads a version of the model; none is a rule.
    ///
    /// # Errors
    /// As [`Program::scorer`].
    pub fn scorer_of(&self, workspace: &Workspace, resolved: Option<ResolvedModel>) -> Result<Scorer> {
        let model = match &resolved {
            None => None,
            Some(resolved) => {
                let file = &self.pipeline.file;
                let model = load_model(workspace, resolved)?;
                check_signature(file, resolved, model.as_ref(), &self.feature_schema)?;
                model.score(&RecordBatch::new_empty(self.feature_schema.clone())).map_err(|e| {
                    let of = format!("model `{}` version {}", resolved.name, resolved.version);
                    Error::new(e.kind(), format!("{}: {of}: {e}", file.display()))
                        .hint(e.hint().unwrap_or("cast the column in [features.columns]"))
                })?;
                Some(model)
            }
        };
        let pipeline = &self.pipeline;
        let definition_hash = self.definition_hash(resolved.as_ref().map(|model| model.sha256.as_str()));
        let version = match &resolved {
            None => format!("rule-{definition_hash:016x}"),
            Some(resolved) => resolved.version.to_string(),
        };
        let hashed = match &model {
            Some(model) => model.signature().inputs.iter().map(|input| input.name.clone()).collect(),
            None => {
                let of_list = pipeline.source.listed().is_some();
                let own = |name: &str| {
                    name != "window_complete" && EVENT_COLUMNS.contains(&name) || (of_list && name == SOURCE_TOPIC)
                };
                let names = self.feature_schema.fields().iter().map(|field| field.name());
                names.filter(|name| !own(name) && !pipeline.entity_key.contains(name)).cloned().collect()
            }
        };
        Ok(Scorer { model, resolved, definition_hash, version, hashed })
    }

    /// What decides a row besides the event and the joined features, with this
    /// model.
    pub fn definition_hash(&self, model_sha256: Option<&str>) -> u64 {
        let pipeline = &self.pipeline;
        let text = serde_json::json!({
            "model_sha256": model_sha256,
            "events": pipeline.events,
            "windows": pipeline.windows,
            "join": pipeline.join.as_ref().map(|join| &join.sql),
            "features": pipeline.features,
            "columns": pipeline.output.columns,
        });
        xxh3_64(text.to_string().as_bytes())
    }

    /// The version of the model that scores now.
    ///
    /// # Errors
    /// When there is none.
    pub fn resolve(&self, workspace: &Workspace) -> Result<Option<ResolvedModel>> {
        let model = self.pipeline.model.as_ref();
        model.map(|model| workspace.registry().resolve(&model.name, &model.selector)).transpose()
    }
}

/// Dead letters and, where there are windows to be late for, late events; they
/// may be one table.
fn set_aside_tables(pipeline: &StreamPipeline) -> (Vec<NewTable>, usize) {
    let name = |(namespace, name): &(String, String)| TableName { namespace: namespace.clone(), name: name.clone() };
    let (dead, late) = (name(&pipeline.stream.dead_letters), name(&pipeline.stream.late_events));
    let mut sides = vec![set_aside::new_table(dead.clone())];
    if late != dead && !pipeline.windows.is_empty() {
        sides.push(set_aside::new_table(late));
    }
    let late = sides.len() - 1;
    (sides, late)
}

/// What a row of a closed window is about.
fn window_fields(pipeline: &StreamPipeline, event: &Schema) -> Result<Vec<Field>> {
    let key = pipeline.entity_key.iter().map(|name| event.field_with_name(name).cloned());
    let mut fields: Vec<Field> = key.collect::<Result<_, _>>().map_err(|e| Error::internal(e.to_string()))?;
    if let Some(join) = &pipeline.join
        && let Some(name) = join.key.iter().find(|name| !pipeline.entity_key.contains(name))
    {
        return Err(Error::invalid(format!(
            "{}: [join] key: `{name}` is a column of events, and with `emit = \"on_close\"` a row is a window",
            pipeline.file.display()
        ))
        .hint("join by columns of [entity] key"));
    }
    fields.extend([
        Field::new("window_start", timestamptz(), false),
        Field::new("window_end", timestamptz(), false),
        Field::new("arrival_timestamp", timestamptz(), false),
    ]);
    Ok(fields)
}

fn refuse_twice(file: &str, fields: &[Field]) -> Result<()> {
    for (index, field) in fields.iter().enumerate() {
        if fields[..index].iter().any(|earlier| earlier.name().eq_ignore_ascii_case(field.name())) {
            return Err(Error::invalid(format!(
                "{file}: event, windows, [join] and [features.columns] have two columns named `{}`",
                field.name()
            ))
            .hint("give one of them another name; a column of the join with AS"));
        }
    }
    Ok(())
}

/// Validates one stream against everything it touches but its source's events.
///
/// # Errors
/// What is wrong with it, with file and remedy.
pub async fn check(workspace: &Workspace, name: &str) -> Result<CheckReport> {
    let program = Program::new(workspace, name).await?;
    let scorer = program.scorer(workspace)?;
    let pipeline = &program.pipeline;
    let table = workspace.lake().find(&program.table())?;
    let evolution = table.as_ref().map(|table| program.output.evolution(&pipeline.file, table)).transpose()?;
    // A broker is not asked: it may be elsewhere while the file is written.
    if let SourceSettings::Files { .. } = &pipeline.source {
        source::open(&workspace.project().dir, &pipeline.source, workspace.clock(), &source::Group::default())?;
    }
    let inputs = match &program.join {
        None => Vec::new(),
        Some(join) => join.load(workspace).await?.inputs.keys().cloned().collect(),
    };
    let mut warnings = Vec::new();
    if let Some(windows) = &program.windows {
        let settings = windows.plan.settings();
        let each: Vec<_> = (0..settings.keys.len()).map(|key| windows.plan.bytes_per_key(key, 16)).collect();
        let (fewest, most): (u64, u64) = (each.iter().map(|r| r.start()).sum(), each.iter().map(|r| r.end()).sum());
        let keys = |bytes: u64| settings.max_state_bytes / bytes.max(1);
        warnings.push(format!(
            "the windows take {fewest} bytes for a key of 16 bytes, up to {most} with counts and sums that are large \
             or no whole numbers, so {} MiB are enough for {} keys of a partition, or {}",
            settings.max_state_bytes >> 20,
            keys(fewest),
            keys(most),
        ));
    }
    if matches!(pipeline.source, SourceSettings::Kafka { .. }) && !pipeline.is_shareable() {
        let why = match pipeline.stream.emit {
            Emit::OnClose => "with `emit = \"on_close\"` a window waits for all partitions",
            Emit::EachEvent => "[source] has no `partition_key`, the columns whose values decide an event's partition",
        };
        warnings.push(format!("one process reads all partitions: {why}"));
    }
    for (name, notifier) in &workspace.project().settings.notifiers {
        if program.alerts.iter().any(|alert| alert.notify.contains(name))
            && let Some(address) = notifier.address()
            && let Err(error) = address.url.reveal(&format!("`url` of [notifiers.{name}]"))
        {
            warnings.push(error.to_string());
        }
    }
    if let Some(LiveSettings::Webhook { url, .. }) = &pipeline.live
        && let Err(error) = url.reveal("`url` of [live]")
    {
        warnings.push(error.to_string());
    }
    Ok(CheckReport {
        pipeline: name.to_owned(),
        table: program.table().to_string(),
        table_exists: table.is_some(),
        model: scorer.resolved.as_ref().map(|model| format!("{} version {}", model.name, model.version)),
        strategy: match pipeline.stream.emit {
            Emit::EachEvent => "each_event",
            Emit::OnClose => "on_close",
        },
        why_not_snapshot: None,
        inputs,
        adds_columns: evolution.iter().flat_map(|e| &e.added).map(|column| column.name.clone()).collect(),
        warnings,
    })
}
