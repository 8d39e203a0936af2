//! The arguments as clap reads them: no decision is taken here. `resolve`
//! turns them into an [`Invocation`](crate::resolve::Invocation).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const ABOUT: &str = "Scores a lakehouse: features by SQL, models from a registry, predictions in Apache Iceberg";

const FIRST_STEPS: &str = "\
First steps:
  insightera demo                        a whole project with data and models, in a minute
  insightera init my-project             an empty one
  insightera check                       are the pipelines right?
  insightera plan PIPELINE               what would a run score, and why?
  insightera run PIPELINE                score what changed, commit once
  insightera verify PIPELINE             does the table say what the features say?
  insightera stream PIPELINE             score events as they come
  insightera sql \"SELECT ...\"            read any table, also AS OF an earlier version

Standard output is data (--format table, json or csv), standard error is progress and
messages. Exit status: 0 done, 1 something for you to correct, 2 a defect of insightera.
Environment: INSIGHTERA_WAREHOUSE, INSIGHTERA_THREADS, INSIGHTERA_MEMORY, NO_COLOR.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "insightera", version, about = ABOUT, after_help = FIRST_STEPS)]
#[command(disable_help_subcommand = true, arg_required_else_help = true, max_term_width = 100)]
pub struct Arguments {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What applies to every command.
#[derive(Debug, Args)]
pub struct Global {
    /// The project folder
    #[arg(long, global = true, value_name = "DIR", default_value = ".", help_heading = "Project")]
    pub project: PathBuf,
    /// Folder of new tables, instead of the project's
    #[arg(long, global = true, value_name = "DIR", help_heading = "Project")]
    pub warehouse: Option<PathBuf>,
    /// Worker threads of a run; 0 is all cores
    #[arg(long, global = true, value_name = "N", help_heading = "Project")]
    pub threads: Option<usize>,
    /// Memory of a run, as in 512MB or 2GiB
    #[arg(long, global = true, value_name = "SIZE", help_heading = "Project")]
    pub memory: Option<String>,
}

/// How rows are written to standard output.
// The values have plain comments, since help would become long with clap's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    // Aligned columns, for reading.
    Table,
    // An array of objects.
    Json,
    // Comma-separated, with a header.
    Csv,
}

/// How a report is written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    // A few lines, for reading.
    Table,
    // One object; an array with `--all`.
    Json,
}

/// How the status of streams is written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    // A few lines, for reading.
    Table,
    // An array.
    Json,
    // Metrics in the text format of Prometheus.
    Prometheus,
}

/// Which pipelines: one by name, or all.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// The pipeline: the name of its file without .toml
    #[arg(value_name = "PIPELINE")]
    pub pipeline: Option<String>,
    /// Every pipeline of the project
    #[arg(long)]
    pub all: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new project folder
    Init {
        /// The folder; it is made if it does not exist
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Validate pipelines against inputs, models and tables, without running them
    Check {
        /// The pipelines; all of them if none is named
        #[arg(value_name = "PIPELINE")]
        pipelines: Vec<String>,
        /// Form of the report; json is an array
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Say what a run would score, and why, without writing
    Plan {
        #[command(flatten)]
        which: Which,
        /// Form of the report; json is one object, with --all an array
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Score what changed and commit once
    #[command(after_help = RUN_HELP)]
    Run {
        #[command(flatten)]
        which: Which,
        /// Score every entity, changed or not
        #[arg(long)]
        full: bool,
        /// Score as if it were this time, in UTC unless it says otherwise; no progress is made
        #[arg(long, value_name = "TIME", conflicts_with = "full")]
        as_of: Option<String>,
        /// The table for these rows; without it they go to the pipeline's own, marked as_of
        #[arg(long, value_name = "TABLE", requires = "as_of", conflicts_with = "all")]
        into: Option<String>,
        /// Form of the report; json is one object, with --all an array
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Compare the predictions with the features as they are; exit status 1 if they differ
    Verify {
        #[command(flatten)]
        which: Which,
        /// Form of the report; json is one object, with --all an array
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Score events as they come, each exactly once; ends when it is told to
    #[command(after_help = STREAM_HELP)]
    Stream(StreamArguments),
    /// Score a file of rows with any model; needs no project
    #[command(after_help = SCORE_HELP)]
    Score {
        /// A model file or folder, else a registered model: name, name@alias or name:version
        #[arg(value_name = "MODEL")]
        model: String,
        /// The rows: a .parquet, .csv or .ndjson file
        #[arg(long, value_name = "FILE")]
        input: PathBuf,
        /// Where they go with the predictions; without it, as NDJSON to standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Add this many reasons for each row's score, the weightiest first
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=100))]
        explain: Option<u8>,
    },
    /// List feature views, export training sets
    #[command(subcommand, arg_required_else_help = true)]
    Features(FeaturesCommand),
    /// Inspect, register, list, promote and roll back models
    #[command(subcommand, arg_required_else_help = true)]
    Model(ModelCommand),
    /// List and describe the tables
    #[command(subcommand, arg_required_else_help = true)]
    Table(TableCommand),
    /// Read and change tables by SQL; without a statement an interactive prompt
    #[command(after_help = SQL_HELP)]
    Sql {
        /// The statement
        #[arg(value_name = "STATEMENT", conflicts_with = "file")]
        statement: Option<String>,
        /// A file with the statement; - is standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Form of the rows; json is an array of objects
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
        /// Show at most so many rows of each answer; all by default
        #[arg(long, value_name = "ROWS")]
        limit: Option<usize>,
        /// Tell the rows and the seconds of each statement on standard error
        #[arg(long)]
        timing: bool,
    },
    /// Build a university with data and models, score it, change it, score the changes
    Demo(DemoArguments),
}

const RUN_HELP: &str = "\
--as-of reads Iceberg tables at the snapshot of that time and Parquet folders up to the
[features] known_time, resolves the model's alias as it was, and scores every entity. The rows
have that prediction_timestamp and inference_type as_of: T_current, verify and later runs leave
them out.";

/// Streams to run, or a command about them.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct StreamArguments {
    /// A command about streams.
    #[command(subcommand)]
    pub command: Option<StreamCommand>,
    /// What to run.
    #[command(flatten)]
    pub run: StreamRun,
}

/// Streams to run.
#[derive(Debug, Args)]
pub struct StreamRun {
    /// The streams; all of the project if none is named
    #[arg(value_name = "PIPELINE")]
    pub pipelines: Vec<String>,
    /// End when every event that is there has been committed
    #[arg(long)]
    pub until_end: bool,
    /// Only these partitions, as `stream status` numbers them, as in 0,1,4; others are for other processes
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub partitions: Vec<u32>,
    /// Answer Prometheus at this address, under /metrics, with what `stream status` says
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<String>,
    /// Form of the report at the end; json is an array
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    pub format: ReportFormat,
}

/// Commands about streams.
#[derive(Debug, Subcommand)]
pub enum StreamCommand {
    /// Score the dead letters that can be read now, each once
    ReplayDlq {
        /// The streams; all of the project if none is named
        #[arg(value_name = "PIPELINE")]
        pipelines: Vec<String>,
        /// Form of the report; json is an array
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Compute once more what a stream computed; exit status 1 if it differs from its table
    #[command(after_help = REPLAY_HELP)]
    Replay {
        /// The stream
        #[arg(value_name = "PIPELINE")]
        pipeline: String,
        /// Where it begins: an offset, offsets by partition as in 0:120,1:80, or a time of commits
        #[arg(long, value_name = "TIME|OFFSET")]
        from: Option<String>,
        /// Where it ends, before that offset or time
        #[arg(long, value_name = "TIME|OFFSET")]
        to: Option<String>,
        /// A version or an alias of the model, instead of the versions that scored
        #[arg(long, value_name = "VERSION|ALIAS")]
        as_model: Option<String>,
        /// The table for the rows, which are marked as_of
        #[arg(long, value_name = "TABLE")]
        into: Option<String>,
        /// Form of the report
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Say how far streams are, by the tables and by the running processes
    Status {
        /// The streams; all of the project if none is named
        #[arg(value_name = "PIPELINE")]
        pipelines: Vec<String>,
        /// Form of the report; json is an array, prometheus is metrics in its text format
        #[arg(long, value_enum, default_value_t = StatusFormat::Table)]
        format: StatusFormat,
    },
}

const STREAM_HELP: &str = "\
Ctrl-C and SIGTERM end it gracefully: what was read is committed first. After kill -9 or a power
loss the next start goes on from where the tables are: no event is lost, none is there twice.
Alerts are told on standard error as they happen, and are in their table.";

const REPLAY_HELP: &str = "\
The events are read again from the source; the windows before the first come from a checkpoint,
or from the events before. Features are joined from the snapshots, and scored by the versions,
that the commits of the table name. Every row is compared with that of its event, to the bit.
With --as-model differences are an answer and no failure. Rows of --into have the time of the
commit they are a replay of; T_current leaves them out.";

const SQL_HELP: &str = "\
Every Iceberg table and every Parquet input is there by its name; a prediction table T also as
T_current, with the newest row of each entity; a feature view V as feature_views.V. Earlier states: T VERSION AS OF <snapshot id>,
T VERSION AS OF '<tag>', T TIMESTAMP AS OF '2026-01-31 10:00:00'. Of the metadata: T.snapshots,
T.history, T.files, T.entries, T.manifests, T.partitions, T.refs, T.metadata_log_entries.

Tables are changed in Spark's words: CREATE TABLE … USING iceberg, ALTER TABLE, INSERT INTO,
UPDATE, DELETE FROM, MERGE INTO, CALL system.expire_snapshots, remove_orphan_files,
rewrite_data_files, rewrite_manifests, rollback_to_snapshot, set_current_snapshot.

json: 64-bit integers are numbers with all digits; NaN and infinities, which JSON does not
have, are null; times are ISO 8601. csv: null is empty, an empty text is \"\".";

/// Below the help of `table erase`.
const ERASE_HELP: &str = "\
Rows of the entity leave the live tables, every snapshot, tag and branch, the dead letters, late events and
alerts of streams, their window state, and what was put aside; snapshots keep their numbers. Only a keyed hash
is kept, by which no later run scores the entity. Tables that no pipeline writes are named and left alone.
A command that was interrupted goes on when it is given again.";

const MAINTAIN_HELP: &str = "\
What is kept is the section [maintenance] of insightera.toml. Tags and branches, and what they
lead to, stay. Nothing that a snapshot needs is touched; files of no snapshot are moved to
.quarantine in the warehouse and deleted from there days later.";

const SCORE_HELP: &str = "\
The output keeps the columns of the input and adds prediction, probability (a list, one value
a class) and rawPrediction (a list); in .csv a column for each class. With --explain it adds
reasons (a list of texts; in .csv reason_1, reason_2, ...), by exact Shapley values for trees:
of several classes, for the one that is predicted. The types of .csv and .ndjson columns are
those that fit every row.";

const CERTIFY_HELP: &str = "\
Outputs: prediction, probability (of the positive class), probability_CLASS, margin, raw_0,
raw_1, ... Without --expected, every column expected_OUTPUT is compared. Classes must be the
same, also where the column holds labels; the rest may differ by --tolerance, which is 2.4e-7
for XGBoost, whose outputs are in single precision, and 1e-12 for the others. The certificate
of a registered model is stored with its version.";

const EXPORT_HELP: &str = "\
Each label row gets, of every view, the newest features that were true and known at its time;
features older than the view's ttl are null, VIEW_status says so. Nothing is written, and the
exit status is 1, when a value could not have been had then: it became true or known later, its
known time is before its feature time, the lake did not have it yet whatever its known time says
(a table filled in afterwards: --trust-known-time), or a feature alone tells the label.

  insightera features export --labels gold.outcomes --time seen_at --label dropped_out \\
      --views grades,attendance --output training.parquet";

/// The commands on features.
#[derive(Debug, Subcommand)]
pub enum FeaturesCommand {
    /// List the feature views
    List {
        /// Form of the rows; json is an array of objects
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Write a training set: label rows with the features that were known at their times
    #[command(after_help = EXPORT_HELP)]
    Export {
        /// The label rows: a table, or a query in quotes; with the key columns of the views
        #[arg(long, value_name = "TABLE|QUERY")]
        labels: String,
        /// Their column that says when the label became true
        #[arg(long, value_name = "COLUMN")]
        time: String,
        /// Their column that a model shall learn; features that tell it alone are leaks
        #[arg(long, value_name = "COLUMN")]
        label: Option<String>,
        /// The feature views
        #[arg(long, value_name = "VIEW,...", value_delimiter = ',', required = true)]
        views: Vec<String>,
        /// The file: .parquet or .csv
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Believe known times although the lake got the rows later
        #[arg(long)]
        trust_known_time: bool,
        /// Form of the report
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
}

/// The commands on models.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Say what a model is: format, objective, features, classes, size
    Inspect {
        /// A model file or folder, else a registered model: name, name@alias or name:version
        model: String,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Compare a model's scores with those of the library that made it; exit status 1 if they differ
    #[command(after_help = CERTIFY_HELP)]
    Certify {
        /// A model file or folder, else a registered model: name, name@alias or name:version
        model: String,
        /// Rows with the library's own answers: a .parquet, .csv or .ndjson file
        #[arg(long, value_name = "FILE")]
        golden: PathBuf,
        /// A column of answers, and the output it is of; without OUTPUT the prediction
        #[arg(long, value_name = "COLUMN[=OUTPUT]")]
        expected: Vec<String>,
        /// A library that made the answers, as in xgboost=3.2.0; may be repeated
        #[arg(long, value_name = "NAME=VERSION")]
        library: Vec<String>,
        /// The largest difference allowed, relative to the answer
        #[arg(long, value_name = "R")]
        tolerance: Option<f64>,
        /// Write the certificate to a file, for `model register --certificate`
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Add a version; the model is loaded first, so an unreadable one is refused
    Register {
        /// The model's name
        name: String,
        /// The model: a file, or a folder such as Spark ML or MLflow writes
        path: PathBuf,
        /// Metrics of the training, as in auc=0.85 log_loss=0.26
        #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
        metrics: Vec<String>,
        /// Alias that moves to the new version; the first version gets `production` by itself
        #[arg(long, value_name = "ALIAS")]
        alias: Option<String>,
        /// What is special about this version
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// A tag; may be repeated
        #[arg(long, value_name = "KEY=VALUE")]
        tag: Vec<String>,
        /// What `model certify` wrote for this model; stored with the version
        #[arg(long, value_name = "FILE")]
        certificate: Option<PathBuf>,
        /// Take an existing version with the same files rather than add one
        #[arg(long)]
        if_absent: bool,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// List the models
    List {
        /// Form of the rows; json is an array of objects
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Show a model with all its versions
    Show {
        /// The model's name
        name: String,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Point an alias to a version, in one move
    Promote {
        /// The model's name
        name: String,
        /// The version
        version: u64,
        /// The alias
        #[arg(long, default_value = "production")]
        alias: String,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Undo the last move of an alias
    Rollback {
        /// The model's name
        name: String,
        /// The alias
        #[arg(long, default_value = "production")]
        alias: String,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Show what an alias pointed to, and when
    History {
        /// The model's name
        name: String,
        /// The alias
        #[arg(long, default_value = "production")]
        alias: String,
        /// Only the version at this time, in UTC unless it says otherwise
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
        /// Form of the rows; json is an array of objects
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

/// The commands on tables.
#[derive(Debug, Subcommand)]
pub enum TableCommand {
    /// List the tables and the Parquet inputs
    List {
        /// Form of the rows; json is an array of objects
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Show columns, partitions, properties and size of a table
    Show {
        /// The table: namespace.name
        table: String,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Show the snapshots of a table, oldest first
    History {
        /// The table: namespace.name
        table: String,
        /// Form of the rows; json is an array of objects
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Rewrite small files, expire snapshots, move files of no snapshot into a quarantine
    #[command(after_help = MAINTAIN_HELP)]
    Maintain {
        /// The table: namespace.name
        #[arg(value_name = "TABLE", required_unless_present = "all", conflicts_with = "all")]
        table: Option<String>,
        /// Every Iceberg table of the catalog
        #[arg(long)]
        all: bool,
        /// Say what is due, change nothing
        #[arg(long)]
        dry_run: bool,
        /// Form of the report; json is an array of objects
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Erase one entity, such as a student, from all tables of predictions and all of their history
    #[command(after_help = ERASE_HELP)]
    Erase {
        /// The entity: COLUMN=VALUE[,COLUMN=VALUE], or a value if all pipelines have one key
        #[arg(long, value_name = "KEY")]
        entity: String,
        /// Why; it is kept, and may not name the entity
        #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
        reason: Option<String>,
        /// Erase from this table as well, which no pipeline writes; may be repeated
        #[arg(long = "table", value_name = "TABLE")]
        tables: Vec<String>,
        /// Say what would be erased, change nothing
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Form of the report; json is one object
        #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
        format: ReportFormat,
    },
    /// Move a table back to an earlier snapshot of its history
    Rollback {
        /// The table: namespace.name
        table: String,
        /// The snapshot's number, or a tag
        #[arg(long, value_name = "SNAPSHOT")]
        to: String,
    },
    /// Name a snapshot, so that it is kept and can be read AS OF its name
    Tag {
        /// The table: namespace.name
        table: String,
        /// The tag
        name: String,
        /// The snapshot's number; by default the current one
        #[arg(long, value_name = "SNAPSHOT")]
        snapshot: Option<i64>,
    },
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Students; units, researchers and transactions follow in proportion
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub students: u64,
    /// The same seed gives the same university
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,
    /// The folder
    #[arg(long, value_name = "DIR", default_value = "./insightera-demo")]
    pub dir: PathBuf,
    /// Seconds of live events at the end; 0 is none
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub events_for: u64,
    /// Remove what an earlier demo made in the folder, and nothing else
    #[arg(long)]
    pub clean: bool,
    /// Write the training sets of the demo's models as Parquet files, and do nothing else
    #[arg(long, value_name = "DIR", hide = true, conflicts_with = "clean")]
    pub export_training: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_arguments_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_run_needs_a_pipeline_or_all_but_not_both() {
        let parse = |words: &[&str]| Arguments::try_parse_from([&["insightera"], words].concat());
        assert!(parse(&["run", "risk"]).is_ok());
        assert!(parse(&["run", "--all", "--full"]).is_ok());
        assert!(parse(&["run"]).is_err());
        assert!(parse(&["run", "risk", "--all"]).is_err());
    }
}
