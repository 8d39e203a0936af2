//! From arguments to commands: every value is read and checked here, so that a
//! command starts with values it can use.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use insightera_core::validate_name;
use insightera_engine::config::{Overrides, Selector, parse_bytes};
use insightera_engine::features::Export;
use insightera_engine::lake::TableName;
use insightera_engine::score::{AsOf, RunOptions};
use insightera_engine::stream::Bound;
use insightera_engine::{Error, Result};

use crate::cli::{self, Arguments, Format, ReportFormat, StatusFormat, Which};

/// A command with everything it needs.
#[derive(Debug)]
pub struct Invocation {
    /// The project folder.
    pub project: PathBuf,
    /// Settings from the command line.
    pub overrides: Overrides,
    /// The command.
    pub command: Command,
}

/// Which pipelines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// One.
    One(String),
    /// All of the project.
    All,
}

/// The commands.
#[derive(Debug)]
pub enum Command {
    /// A new project.
    Init { dir: PathBuf },
    /// Validate.
    Check { pipelines: Vec<String>, format: ReportFormat },
    /// What a run would do.
    Plan { selection: Selection, format: ReportFormat },
    /// Score.
    Run { selection: Selection, options: RunOptions, format: ReportFormat },
    /// Compare.
    Verify { selection: Selection, format: ReportFormat },
    /// Score events.
    Stream(StreamRun),
    /// Dead letters once more.
    StreamReplayDlq { pipelines: Vec<String>, format: ReportFormat },
    /// Computed once more.
    StreamReplay { pipeline: String, bounds: ReplayBounds, format: ReportFormat },
    /// How far streams are.
    StreamStatus { pipelines: Vec<String>, format: StatusFormat },
    /// A file of rows.
    Score(Score),
    /// Say what a model is.
    Inspect { model: String, format: ReportFormat },
    /// Compare a model with its library.
    Certify(Certify),
    /// Feature views.
    Features(FeaturesCommand),
    /// Models.
    Model(ModelCommand),
    /// Tables.
    Table(TableCommand),
    /// SQL.
    Sql { source: SqlSource, shown: Shown },
    /// The demo.
    Demo(Demo),
}

/// The commands on features.
#[derive(Debug)]
pub enum FeaturesCommand {
    /// All views.
    List { format: Format },
    /// A training set.
    Export { wanted: Export, format: ReportFormat },
}

/// Streams to run.
#[derive(Debug)]
pub struct StreamRun {
    /// Their names; none means all.
    pub pipelines: Vec<String>,
    /// End when there are no more events.
    pub until_end: bool,
    /// Only these partitions.
    pub partitions: Option<Vec<u32>>,
    /// Where Prometheus is answered, `HOST:PORT`.
    pub metrics: Option<String>,
    /// The report.
    pub format: ReportFormat,
}

/// What is computed once more, and where it goes.
#[derive(Debug, PartialEq, Eq)]
pub struct ReplayBounds {
    /// Where it begins.
    pub from: Option<Bound>,
    /// Where it ends.
    pub to: Option<Bound>,
    /// Another version of the model.
    pub as_model: Option<Selector>,
    /// The table for the rows.
    pub into: Option<TableName>,
}

/// A model over a file.
#[derive(Debug)]
pub struct Score {
    /// A path, or a name with an alias or a version.
    pub model: String,
    /// The rows.
    pub input: PathBuf,
    /// Where they go; else to standard output.
    pub output: Option<PathBuf>,
    /// How many reasons each row gets.
    pub explain: Option<usize>,
}

/// A model against golden rows.
#[derive(Debug)]
pub struct Certify {
    /// A path, or a name with an alias or a version.
    pub model: String,
    /// The rows.
    pub golden: PathBuf,
    /// Golden columns and the outputs they are of.
    pub expected: Vec<(String, String)>,
    /// Versions of the libraries that made them.
    pub libraries: BTreeMap<String, String>,
    /// The largest relative difference, else the model's own.
    pub tolerance: Option<f64>,
    /// A file for the certificate.
    pub output: Option<PathBuf>,
    /// Form of the answer.
    pub format: ReportFormat,
}

/// The commands on models.
#[derive(Debug)]
pub enum ModelCommand {
    /// A new version.
    Register(Box<NewVersion>),
    /// All models.
    List { format: Format },
    /// One model.
    Show { name: String, format: ReportFormat },
    /// Move an alias.
    Promote { name: String, version: u64, alias: String, format: ReportFormat },
    /// Move it back.
    Rollback { name: String, alias: String, format: ReportFormat },
    /// Its moves; `at` in microseconds since the epoch.
    History { name: String, alias: String, at: Option<i64>, format: Format },
}

/// A version to register.
#[derive(Debug)]
pub struct NewVersion {
    /// The model.
    pub name: String,
    /// Its file or folder.
    pub path: PathBuf,
    /// Metrics of the training.
    pub metrics: BTreeMap<String, f64>,
    /// The alias that moves.
    pub alias: Option<String>,
    /// What is special.
    pub description: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// A certificate of the model.
    pub certificate: Option<PathBuf>,
    /// Whether an existing version with the same files will do.
    pub if_absent: bool,
    /// Form of the answer.
    pub format: ReportFormat,
}

/// The commands on tables.
#[derive(Debug)]
pub enum TableCommand {
    /// All tables.
    List { format: Format },
    /// One table.
    Show { table: TableName, format: ReportFormat },
    /// Its snapshots.
    History { table: TableName, format: Format },
    /// Rewrites files, expires snapshots and moves orphans away.
    Maintain { table: Option<TableName>, dry_run: bool, format: ReportFormat },
    /// Erases an entity.
    Erase(TableErase),
    /// Moves the table back to an earlier snapshot.
    Rollback { table: TableName, to: String },
    /// Names a snapshot.
    Tag { table: TableName, name: String, snapshot_id: Option<i64> },
}

/// What `table erase` erases.
#[derive(Debug)]
pub struct TableErase {
    /// The entity, as given.
    pub entity: String,
    /// Why; none only in a dry run.
    pub reason: Option<String>,
    /// Tables that no pipeline writes.
    pub tables: Vec<TableName>,
    /// Change nothing.
    pub dry_run: bool,
    /// Do not ask.
    pub yes: bool,
    /// Whether there is somebody to ask.
    pub terminal: bool,
    /// The form of the report.
    pub format: ReportFormat,
}

/// What is shown of the answers to SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The form of the rows.
    pub format: Format,
    /// At most so many rows of an answer.
    pub limit: Option<usize>,
    /// Whether the rows and seconds of each statement are told.
    pub timing: bool,
}

/// Where SQL comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum SqlSource {
    /// The command line.
    Statement(String),
    /// A file.
    File(PathBuf),
    /// Standard input, to its end.
    Input,
    /// A prompt on the terminal.
    Prompt,
}

/// The demo.
#[derive(Debug)]
pub struct Demo {
    /// The folder.
    pub dir: PathBuf,
    /// Students.
    pub students: u64,
    /// The seed.
    pub seed: u64,
    /// Seconds of live events.
    pub events_for: u64,
    /// What to do.
    pub action: DemoAction,
}

/// What the demo does.
#[derive(Debug, PartialEq, Eq)]
pub enum DemoAction {
    /// Builds and shows the university.
    Show,
    /// Removes it.
    Clean,
    /// Writes the training sets into a folder.
    ExportTraining(PathBuf),
}

/// The largest university: student numbers have six digits per year and
/// programme.
const MAX_STUDENTS: u64 = 20_000_000;

/// The longest that the demo's events go on, in seconds.
const MAX_EVENTS_FOR: u64 = 3600;

/// The smallest one in which every pipeline has something to say.
const MIN_STUDENTS: u64 = 100;

/// Reads and checks every value. `terminal` says whether standard input is one.
///
/// # Errors
/// `Invalid`, with the option and its value.
pub fn resolve(arguments: Arguments, terminal: bool) -> Result<Invocation> {
    let global = arguments.global;
    let overrides = Overrides {
        warehouse: global.warehouse,
        threads: global.threads,
        memory_bytes: global.memory.as_deref().map(parse_bytes).transpose()?,
    };
    let command = match arguments.command {
        cli::Command::Init { dir } => Command::Init { dir },
        cli::Command::Check { pipelines, format } => Command::Check { pipelines, format },
        cli::Command::Plan { which, format } => Command::Plan { selection: selection(which), format },
        cli::Command::Run { which, full, as_of, into, format } => {
            let into = into.map(|table| TableName::parse(&table)).transpose()?;
            let as_of =
                as_of.map(|time| Ok::<_, Error>(AsOf { micros: parse_time("--as-of", &time)?, into })).transpose()?;
            Command::Run { selection: selection(which), options: RunOptions { full, as_of }, format }
        }
        cli::Command::Verify { which, format } => Command::Verify { selection: selection(which), format },
        cli::Command::Stream(stream) => match stream.command {
            Some(cli::StreamCommand::ReplayDlq { pipelines, format }) => Command::StreamReplayDlq { pipelines, format },
            Some(cli::StreamCommand::Replay { pipeline, from, to, as_model, into, format }) => {
                let bounds = ReplayBounds {
                    from: from.map(|text| bound("--from", &text)).transpose()?,
                    to: to.map(|text| bound("--to", &text)).transpose()?,
                    as_model: as_model.map(|text| selector(&text)).transpose()?,
                    into: into.map(|table| TableName::parse(&table)).transpose()?,
                };
                Command::StreamReplay { pipeline, bounds, format }
            }
            Some(cli::StreamCommand::Status { pipelines, format }) => Command::StreamStatus { pipelines, format },
            None => {
                let cli::StreamRun { pipelines, until_end, partitions, metrics, format } = stream.run;
                let partitions = (!partitions.is_empty()).then_some(partitions);
                let metrics = metrics.map(|text| host_and_port("--metrics", text)).transpose()?;
                Command::Stream(StreamRun { pipelines, until_end, partitions, metrics, format })
            }
        },
        cli::Command::Score { model, input, output, explain } => {
            Command::Score(Score { model, input, output, explain: explain.map(usize::from) })
        }
        cli::Command::Features(features) => Command::Features(features_command(features)),
        cli::Command::Model(model) => model_command(model)?,
        cli::Command::Table(table) => Command::Table(table_command(table, terminal)?),
        cli::Command::Sql { statement, file, format, limit, timing } => {
            Command::Sql { source: sql_source(statement, file, terminal), shown: Shown { format, limit, timing } }
        }
        cli::Command::Demo(demo) => Command::Demo(demo_command(demo)?),
    };
    Ok(Invocation { project: global.project, overrides, command })
}

/// `HOST:PORT`, as it is; an IPv6 address stands in brackets.
fn host_and_port(option: &str, text: String) -> Result<String> {
    let is_host = |host: &str| match host.strip_prefix('[') {
        Some(rest) => rest.ends_with(']'),
        None => !host.is_empty() && !host.contains(':'),
    };
    if text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok()) {
        return Ok(text);
    }
    Err(Error::invalid(format!("`{option} {text}` is not a host and a port"))
        .hint("write HOST:PORT, as in `127.0.0.1:9464`, `localhost:9464` or `[::1]:9464`"))
}

/// An offset, offsets by partition, or a time.
fn bound(option: &str, text: &str) -> Result<Bound> {
    if let Ok(offset) = text.parse::<i64>() {
        return Ok(Bound::Offset(offset));
    }
    let pair = |word: &str| {
        let (partition, offset) = word.split_once(':')?;
        Some((partition.parse::<u32>().ok()?, offset.parse::<i64>().ok()?))
    };
    if let Some(pairs) = text.split(',').map(pair).collect::<Option<Vec<_>>>() {
        let offsets: BTreeMap<u32, i64> = pairs.iter().copied().collect();
        if offsets.len() < pairs.len() {
            return Err(Error::invalid(format!("`{option} {text}` names a partition twice")));
        }
        return Ok(Bound::Offsets(offsets));
    }
    parse_time(option, text).map(Bound::Time).map_err(|_| {
        Error::invalid(format!("`{option} {text}` is neither an offset nor a time"))
            .hint("write it as `1200`, as `0:1200,1:800` by partition, or as `2026-01-31 10:00:00`")
    })
}

/// A version is a number, everything else an alias.
fn selector(text: &str) -> Result<Selector> {
    if let Ok(version) = text.parse() {
        return Ok(Selector::Version(version));
    }
    validate_name("alias", text)?;
    Ok(Selector::Alias(text.to_owned()))
}

/// clap has made sure that it is one or the other.
fn selection(which: Which) -> Selection {
    which.pipeline.map_or(Selection::All, Selection::One)
}

fn model_command(command: cli::ModelCommand) -> Result<Command> {
    Ok(Command::Model(match command {
        cli::ModelCommand::Inspect { model, format } => return Ok(Command::Inspect { model, format }),
        cli::ModelCommand::Certify { model, golden, expected, library, tolerance, output, format } => {
            if let Some(wrong) = tolerance.filter(|t| !(t.is_finite() && *t >= 0.0)) {
                return Err(Error::invalid(format!("`--tolerance {wrong}` is no difference"))
                    .hint("write a number from 0, such as 1e-9"));
            }
            let pair = |word: &String| match word.split_once('=') {
                Some((column, output)) => (column.to_owned(), output.to_owned()),
                None => (word.clone(), "prediction".to_owned()),
            };
            let libraries = pairs("--library", &library)?;
            let expected = expected.iter().map(pair).collect();
            return Ok(Command::Certify(Certify { model, golden, expected, libraries, tolerance, output, format }));
        }
        cli::ModelCommand::Register {
            name,
            path,
            metrics,
            alias,
            description,
            tag,
            certificate,
            if_absent,
            format,
        } => {
            validate_name("model", &name)?;
            if let Some(alias) = &alias {
                validate_name("alias", alias)?;
            }
            ModelCommand::Register(Box::new(NewVersion {
                name,
                path,
                metrics: pairs("--metrics", &metrics)?,
                alias,
                description,
                tags: pairs("--tag", &tag)?,
                certificate,
                if_absent,
                format,
            }))
        }
        cli::ModelCommand::List { format } => ModelCommand::List { format },
        cli::ModelCommand::Show { name, format } => ModelCommand::Show { name, format },
        cli::ModelCommand::Promote { name, version, alias, format } => {
            ModelCommand::Promote { name, version, alias, format }
        }
        cli::ModelCommand::Rollback { name, alias, format } => ModelCommand::Rollback { name, alias, format },
        cli::ModelCommand::History { name, alias, at, format } => ModelCommand::History {
            name,
            alias,
            at: at.as_deref().map(|at| parse_time("--at", at)).transpose()?,
            format,
        },
    }))
}

fn table_command(command: cli::TableCommand, terminal: bool) -> Result<TableCommand> {
    Ok(match command {
        cli::TableCommand::List { format } => TableCommand::List { format },
        cli::TableCommand::Show { table, format } => TableCommand::Show { table: TableName::parse(&table)?, format },
        cli::TableCommand::History { table, format } => {
            TableCommand::History { table: TableName::parse(&table)?, format }
        }
        cli::TableCommand::Maintain { table, all: _, dry_run, format } => {
            let table = table.map(|table| TableName::parse(&table)).transpose()?;
            TableCommand::Maintain { table, dry_run, format }
        }
        cli::TableCommand::Erase { entity, reason, tables, dry_run, yes, format } => {
            let tables = tables.iter().map(|table| TableName::parse(table)).collect::<Result<_>>()?;
            if reason.as_ref().is_some_and(|reason| reason.trim().is_empty()) {
                return Err(Error::invalid("--reason is empty").hint("say why, for example the number of the request"));
            }
            TableCommand::Erase(TableErase { entity, reason, tables, dry_run, yes, terminal, format })
        }
        cli::TableCommand::Rollback { table, to } => TableCommand::Rollback { table: TableName::parse(&table)?, to },
        cli::TableCommand::Tag { table, name, snapshot } => {
            TableCommand::Tag { table: TableName::parse(&table)?, name, snapshot_id: snapshot }
        }
    })
}

fn sql_source(statement: Option<String>, file: Option<PathBuf>, terminal: bool) -> SqlSource {
    match (statement, file) {
        (Some(statement), _) => SqlSource::Statement(statement),
        (None, Some(file)) if file.as_os_str() == "-" => SqlSource::Input,
        (None, Some(file)) => SqlSource::File(file),
        (None, None) if terminal => SqlSource::Prompt,
        (None, None) => SqlSource::Input,
    }
}

fn demo_command(demo: cli::DemoArguments) -> Result<Demo> {
    if !(MIN_STUDENTS..=MAX_STUDENTS).contains(&demo.students) {
        return Err(Error::invalid(format!("`--students {}` is out of range", demo.students))
            .hint(format!("choose from {MIN_STUDENTS} to {MAX_STUDENTS}; the default is 100000")));
    }
    let action = match (demo.export_training, demo.clean) {
        (Some(dir), _) => DemoAction::ExportTraining(dir),
        (None, true) => DemoAction::Clean,
        (None, false) => DemoAction::Show,
    };
    let cli::DemoArguments { dir, students, seed, events_for, .. } = demo;
    if events_for > MAX_EVENTS_FOR {
        return Err(Error::invalid(format!("`--events-for {events_for}` is out of range"))
            .hint(format!("choose from 0 to {MAX_EVENTS_FOR} seconds; the default is 20")));
    }
    Ok(Demo { dir, students, seed, events_for, action })
}

fn features_command(command: cli::FeaturesCommand) -> FeaturesCommand {
    match command {
        cli::FeaturesCommand::List { format } => FeaturesCommand::List { format },
        cli::FeaturesCommand::Export { labels, time, label, views, output, trust_known_time, format } => {
            FeaturesCommand::Export { wanted: Export { labels, time, label, views, output, trust_known_time }, format }
        }
    }
}

/// `key=value` pairs; a key may stand only once.
fn pairs<T: FromStr>(option: &str, words: &[String]) -> Result<BTreeMap<String, T>> {
    let mut pairs = BTreeMap::new();
    for word in words {
        let wrong = |what: &str| {
            Error::invalid(format!("`{option} {word}`: {what}")).hint(format!("write `{option} KEY=VALUE`"))
        };
        let (key, value) = word.split_once('=').ok_or_else(|| wrong("there is no `=`"))?;
        if key.is_empty() {
            return Err(wrong("there is no key before `=`"));
        }
        let value = value.parse().map_err(|_| wrong("the value is not a number"))?;
        if pairs.insert(key.to_owned(), value).is_some() {
            return Err(wrong("the key stands twice"));
        }
    }
    Ok(pairs)
}

/// A time in microseconds since the epoch; without a zone it is UTC.
fn parse_time(option: &str, text: &str) -> Result<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_micros());
    }
    for form in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, form) {
            return Ok(time.and_utc().timestamp_micros());
        }
    }
    match NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0)) {
        Some(time) => Ok(time.and_utc().timestamp_micros()),
        None => Err(Error::invalid(format!("`{option} {text}` is not a time"))
            .hint("write it as `2026-01-31`, `2026-01-31 10:00:00` or `2026-01-31T10:00:00+07:00`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn resolved(words: &[&str]) -> Result<Invocation> {
        resolve(Arguments::try_parse_from([&["insightera"], words].concat()).unwrap(), true)
    }

    #[test]
    fn metrics_are_numbers_by_name_and_each_stands_once() {
        let Command::Model(ModelCommand::Register(new)) =
            resolved(&["model", "register", "m", "p", "--metrics", "auc=0.5", "rows=1e6", "--tag", "a=b=c"])
                .unwrap()
                .command
        else {
            panic!("not a registration");
        };
        assert_eq!(new.metrics, BTreeMap::from([("auc".into(), 0.5), ("rows".into(), 1e6)]));
        assert_eq!(new.tags["a"], "b=c");
        for wrong in [["--metrics", "auc"], ["--metrics", "=1"], ["--metrics", "auc=high"]] {
            let error = resolved(&[&["model", "register", "m", "p"], &wrong[..]].concat()).unwrap_err();
            assert!(error.to_string().contains(wrong[1]), "{error}");
        }
        assert!(resolved(&["model", "register", "m", "p", "--metrics", "a=1", "a=2"]).is_err());
    }

    #[test]
    fn a_place_to_listen_at_is_a_host_and_a_port() {
        let of = |text: &str| match resolved(&["stream", "--metrics", text])?.command {
            Command::Stream(run) => Ok(run.metrics.unwrap()),
            other => panic!("{other:?}"),
        };
        for right in ["localhost:9464", "127.0.0.1:0", "[::1]:9464", "metrics.example.org:80"] {
            assert_eq!(of(right).unwrap(), right);
        }
        for wrong in [
            "localhost",
            "127.0.0.1",
            "9464",
            ":9464",
            "localhost:",
            "localhost:http",
            "localhost:65536",
            "::1:9464",
            "",
        ] {
            let error: Error = of(wrong).unwrap_err();
            assert!(error.to_string().contains(&format!("`--metrics {wrong}`")), "{wrong}: {error}");
            assert!(error.get_hint().unwrap().contains("HOST:PORT"), "{wrong}");
        }
    }

    #[test]
    fn a_bound_is_an_offset_or_offsets_by_partition_or_a_time() {
        let of = |text: &str| bound("--from", text);
        assert_eq!(of("1200").unwrap(), Bound::Offset(1200));
        assert_eq!(of("0:12,3:4").unwrap(), Bound::Offsets([(0, 12), (3, 4)].into()));
        assert_eq!(of("1970-01-01 00:00:01").unwrap(), Bound::Time(1_000_000));
        assert_eq!(of("1970-01-01T00:00:01Z").unwrap(), Bound::Time(1_000_000));
        for wrong in ["soon", "0:1,0:2", "0:1,2", "", "0:x"] {
            let error = of(wrong).unwrap_err();
            assert!(error.to_string().contains("--from"), "{wrong}: {error}");
        }
        assert_eq!(selector("12").unwrap(), Selector::Version(12));
        assert_eq!(selector("production").unwrap(), Selector::Alias("production".into()));
        assert!(selector("no alias").is_err());
    }

    #[test]
    fn a_time_without_a_zone_is_utc() {
        assert_eq!(parse_time("--at", "1970-01-02").unwrap(), 86_400_000_000);
        assert_eq!(parse_time("--at", "1970-01-01 00:00:01.5").unwrap(), 1_500_000);
        assert_eq!(parse_time("--at", "1970-01-01T07:00:00+07:00").unwrap(), 0);
        assert!(parse_time("--at", "yesterday").is_err());
    }

    #[test]
    fn sql_without_a_statement_prompts_only_on_a_terminal() {
        assert_eq!(sql_source(None, None, true), SqlSource::Prompt);
        assert_eq!(sql_source(None, None, false), SqlSource::Input);
        assert_eq!(sql_source(None, Some("-".into()), true), SqlSource::Input);
        assert_eq!(sql_source(Some("SELECT 1".into()), None, true), SqlSource::Statement("SELECT 1".into()));
    }

    #[test]
    fn a_selection_is_one_pipeline_or_all() {
        let of = |words: &[&str]| match resolved(words).unwrap().command {
            Command::Plan { selection, .. } => selection,
            other => panic!("{other:?}"),
        };
        assert_eq!(of(&["plan", "risk"]), Selection::One("risk".into()));
        assert_eq!(of(&["plan", "--all"]), Selection::All);
    }

    #[test]
    fn flags_become_settings() {
        let invocation = resolved(&["--memory", "2GiB", "--threads", "3", "table", "list"]).unwrap();
        assert_eq!(invocation.overrides.memory_bytes, Some(2 << 30));
        assert_eq!(invocation.overrides.threads, Some(3));
        assert!(resolved(&["--memory", "much", "table", "list"]).is_err());
    }
}
