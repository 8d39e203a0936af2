//! `model`: register, list, show, promote, roll back, history.

use insightera_core::ErrorKind;
use insightera_engine::registry::{
    AliasChange, AliasMove, ModelDetails, ModelSummary, PRODUCTION, Registered, Registration, Registry,
};
use insightera_engine::{Error, Result, Workspace};
use insightera_infer::Artifact;
use serde::Serialize;
use serde_json::{Value, json};

use super::certify::{self, Certificate};
use super::{Answer, json_text};
use crate::cli::{Format, ReportFormat};
use crate::printer::Printer;
use crate::resolve::{ModelCommand, NewVersion};
use crate::text;

/// Runs a command on models.
pub fn model(workspace: &Workspace, command: ModelCommand, printer: &Printer) -> anyhow::Result<Answer> {
    let registry = workspace.registry().as_ref();
    match command {
        ModelCommand::Register(new) => register(registry, *new),
        ModelCommand::List { format } => list(&registry.models()?, format),
        ModelCommand::Show { name, format } => {
            let details = registry.model(&name)?;
            either(format, &json!(WithTimes::of(&details)?), || show(&details, printer))
        }
        ModelCommand::Promote { name, version, alias, format } => {
            let moved = registry.promote(&name, version, &alias)?;
            either(format, &move_object(&name, &moved), || told(&name, &moved))
        }
        ModelCommand::Rollback { name, alias, format } => {
            let moved = registry.rollback(&name, &alias)?;
            either(format, &move_object(&name, &moved), || told(&name, &moved))
        }
        ModelCommand::History { name, alias, at, format } => {
            let mut history = registry.history(&name, &alias)?;
            if let Some(at) = at {
                history.retain(|change| change.contains(at));
                if history.is_empty() {
                    return Err(Error::not_found(format!(
                        "alias `{alias}` of model `{name}` pointed to nothing at {}",
                        text::instant(at)
                    ))
                    .hint(format!("`insightera model history {name} --alias {alias}` shows its moves"))
                    .into());
                }
            }
            show_history(&history, format)
        }
    }
}

fn either(format: ReportFormat, value: &Value, render: impl FnOnce() -> String) -> anyhow::Result<Answer> {
    match format {
        ReportFormat::Json => Answer::json(value),
        ReportFormat::Table => Ok(Answer::done(render())),
    }
}

/// Loads the model before it is registered: what cannot be read is refused.
fn register(registry: &dyn Registry, new: NewVersion) -> anyhow::Result<Answer> {
    let artifact = Artifact::read(&new.path)?;
    insightera_engine::sql::load_model(&artifact)?;
    let mut tags = new.tags;
    if let Some(path) = &new.certificate {
        let certificate = Certificate::read(path, &artifact.sha256())?;
        tags.insert(certify::TAG.to_owned(), serde_json::to_string(&certificate)?);
    }
    let first = is_new(registry, &new.name)?;
    let by_itself = first && new.alias.is_none();
    let registered = registry.register(Registration {
        description: new.description,
        tags,
        metrics: new.metrics,
        alias: if by_itself { Some(PRODUCTION.to_owned()) } else { new.alias },
        if_absent: new.if_absent,
        ..Registration::new(new.name, artifact)
    })?;
    either(new.format, &json!(registered), || registered_text(&registered, by_itself))
}

fn is_new(registry: &dyn Registry, name: &str) -> Result<bool> {
    match registry.model(name) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn registered_text(registered: &Registered, by_itself: bool) -> String {
    let Registered { name, version, sha256, reused, alias } = registered;
    let verb = if *reused { "is registered already as" } else { "registered as" };
    let mut text = format!("model `{name}` {verb} version {version} (sha256 {})\n", &sha256[..sha256.len().min(12)]);
    if let Some(moved) = alias {
        let why = if by_itself { ", as it is the first version" } else { "" };
        text.push_str(&format!("alias `{}` points to version {}{why}\n", moved.alias, moved.to));
    } else if !reused {
        text.push_str(&format!(
            "no alias points to it; `insightera model promote {name} {version}` makes it production\n"
        ));
    }
    text
}

fn move_object(name: &str, moved: &AliasMove) -> Value {
    json!({ "name": name, "alias": moved.alias, "from": moved.from, "to": moved.to, "moved": moved.moved })
}

fn told(name: &str, moved: &AliasMove) -> String {
    let AliasMove { alias, from, to, moved } = moved;
    match from {
        _ if !moved => format!("model `{name}`: alias `{alias}` points to version {to} already\n"),
        Some(from) => format!("model `{name}`: alias `{alias}` moved from version {from} to version {to}\n"),
        None => format!("model `{name}`: alias `{alias}` points to version {to}\n"),
    }
}

/// A value with times as text next to those in microseconds.
struct WithTimes;

impl WithTimes {
    fn of(value: &impl Serialize) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(value)?;
        Self::add(&mut value);
        Ok(value)
    }

    fn add(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(Self::add),
            Value::Object(fields) => {
                let times: Vec<(String, Value)> = fields
                    .iter()
                    .filter_map(|(name, value)| Some((name.strip_suffix("_micros")?.to_owned(), value)))
                    .map(|(name, value)| (name, value.as_i64().map_or(Value::Null, |m| text::instant(m).into())))
                    .collect();
                fields.extend(times);
                fields.values_mut().for_each(Self::add);
            }
            _ => {}
        }
    }
}

fn list(models: &[ModelSummary], format: Format) -> anyhow::Result<Answer> {
    if format == Format::Json {
        return Answer::json(&WithTimes::of(&models)?);
    }
    let header = ["model", "versions", "latest", "aliases", "updated"];
    let rows: Vec<Vec<String>> = models
        .iter()
        .map(|model| {
            let aliases: Vec<String> = model.aliases.iter().map(|(alias, v)| format!("{alias}={v}")).collect();
            vec![
                model.name.clone(),
                model.versions.to_string(),
                model.latest_version.to_string(),
                aliases.join(" "),
                text::instant(model.updated_micros),
            ]
        })
        .collect();
    rows_answer(&header, &[false, true, true, false, false], rows, format)
}

/// Rows as a table or as CSV.
fn rows_answer(header: &[&str], right: &[bool], rows: Vec<Vec<String>>, format: Format) -> anyhow::Result<Answer> {
    Ok(Answer::done(match format {
        Format::Csv => text::csv(header, rows.into_iter().map(|row| row.into_iter().map(Some).collect())),
        Format::Table | Format::Json => text::columns(header, right, &rows),
    }))
}

fn show(model: &ModelDetails, printer: &Printer) -> String {
    let aliases: Vec<String> = model.aliases.iter().map(|(alias, v)| format!("{alias} = version {v}")).collect();
    let mut text = printer.heading(&format!("model {}", model.name));
    text.push_str(&format!("\n  aliases   {}\n", if aliases.is_empty() { "none".into() } else { aliases.join(", ") }));
    for version in &model.versions {
        let aliases =
            if version.aliases.is_empty() { String::new() } else { format!(" ({})", version.aliases.join(", ")) };
        text.push_str(&format!("\n{}\n", printer.heading(&format!("version {}{aliases}", version.version))));
        let mut add = |name: &str, value: String| text.push_str(&format!("  {name:<11} {value}\n"));
        if let Some(description) = &version.description {
            add("about", description.clone());
        }
        if let Some(kind) = &version.model_type {
            add("type", kind.clone());
        }
        add("registered", text::instant(version.created_micros));
        add("sha256", version.sha256.clone());
        if let Some(certificate) = version.tags.get(certify::TAG) {
            let read = serde_json::from_str::<Certificate>(certificate);
            add("parity", read.map_or_else(|e| format!("the certificate cannot be read: {e}"), |c| c.summary()));
        }
        add("files", format!("{}, {}", text::count(version.files.len() as u64), text::bytes(version.bytes)));
        for (what, pairs) in [
            ("metrics", version.metrics.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()),
            ("parameters", version.params.iter().map(|(k, v)| format!("{k}={v}")).collect()),
            (
                "tags",
                version.tags.iter().filter(|(k, _)| *k != certify::TAG).map(|(k, v)| format!("{k}={v}")).collect(),
            ),
        ] {
            if !pairs.is_empty() {
                add(what, pairs.join(" "));
            }
        }
    }
    text
}

fn show_history(history: &[AliasChange], format: Format) -> anyhow::Result<Answer> {
    if format == Format::Json {
        return Ok(Answer::done(json_text(&WithTimes::of(&history)?)?));
    }
    let rows = history
        .iter()
        .map(|change| {
            vec![
                change.version.to_string(),
                text::instant(change.from_micros),
                change.to_micros.map_or_else(|| "now".into(), text::instant),
                change.by.as_str().to_owned(),
            ]
        })
        .collect();
    rows_answer(&["version", "from", "until", "by"], &[true], rows, format)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(from: Option<u64>, moved: bool) -> AliasMove {
        AliasMove { alias: "production".into(), from, to: 2, moved }
    }

    #[test]
    fn a_move_says_where_the_alias_came_from() {
        assert_eq!(
            told("m", &moved(Some(1), true)),
            "model `m`: alias `production` moved from version 1 to version 2\n"
        );
        assert!(told("m", &moved(Some(2), false)).contains("already"));
        assert!(told("m", &moved(None, true)).ends_with("points to version 2\n"));
    }

    #[test]
    fn the_first_version_says_that_it_is_production() {
        let registered = Registered {
            name: "m".into(),
            version: 1,
            sha256: "ab".repeat(32),
            reused: false,
            alias: Some(AliasMove { alias: "production".into(), from: None, to: 1, moved: true }),
        };
        let text = registered_text(&registered, true);
        assert!(text.ends_with("alias `production` points to version 1, as it is the first version\n"), "{text}");
        let later = Registered { version: 2, alias: None, ..registered };
        assert!(registered_text(&later, false).contains("insightera model promote m 2"));
    }

    #[test]
    fn times_in_microseconds_come_with_a_text() {
        let value = WithTimes::of(&json!([{ "from_micros": 1_500_000, "to_micros": null }])).unwrap();
        assert_eq!(value[0]["from"], "1970-01-01T00:00:01.500Z");
        assert!(value[0]["to"].is_null());
    }
}
