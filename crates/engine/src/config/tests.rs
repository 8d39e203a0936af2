use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use insightera_core::ErrorKind;
use tempfile::TempDir;

use super::*;
use crate::{Error, Result};

const PIPELINE: &str = r#"kind = "batch"
[model]
name = "student_dropout_risk_model"
[entity]
key = ["nim"]
[features]
sql = "SELECT nim, ipk, feature_timestamp FROM gold.students"
feature_time = "feature_timestamp"
[output]
table = "ml_predictions.dropout_risk_predictions"
partition_by = ["days(prediction_date)"]
[output.columns]
nim = "nim"
risk_score = "CAST(100 * probability AS INT)"
"#;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn load(dir: &Path) -> Result<Project> {
    load_with(dir, Overrides::default(), &[])
}

fn load_with(dir: &Path, flags: Overrides, environment: &[(&str, &str)]) -> Result<Project> {
    Project::load_from(dir, flags, &|name| {
        environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    })
}

fn settings(text: &str) -> Result<Settings> {
    load(folder(&[("insightera.toml", text)]).path()).map(|project| project.settings)
}

fn pipeline(text: &str) -> Result<Pipeline> {
    let dir = folder(&[("insightera.toml", "format = 1\n"), ("pipelines/dropout.toml", text)]);
    load(dir.path()).unwrap().pipeline("dropout")
}

/// The pipeline with `from` replaced by `to`.
fn changed(from: &str, to: &str) -> Result<Pipeline> {
    assert!(PIPELINE.contains(from), "{from}");
    pipeline(&PIPELINE.replacen(from, to, 1))
}

/// The message without the folder, and the hint.
fn told(error: &Error) -> (String, String) {
    let message = error.to_string();
    let begin = message.find("insightera.toml").or_else(|| message.find("pipelines/")).unwrap_or(0);
    (message[begin..].to_owned(), error.get_hint().unwrap_or_default().to_owned())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, message: &str, hint: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let (text, advice) = told(&error);
    assert!(text.contains(message), "expected `{message}` in:\n{text}");
    assert!(advice.contains(hint), "expected `{hint}` in:\n{advice}");
}

#[test]
fn an_empty_project_has_the_built_in_defaults_below_its_folder() {
    let dir = folder(&[("insightera.toml", "format = 1")]);
    let project = load(dir.path()).unwrap();
    let base = dir.path().canonicalize().unwrap();
    let settings = &project.settings;
    assert_eq!(project.dir, base);
    assert_eq!(
        settings.catalog,
        CatalogSettings::Sqlite { path: base.join("warehouse/catalog.db"), name: "insightera".to_owned() }
    );
    assert_eq!(Path::new(&settings.storage.warehouse), base.join("warehouse"));
    assert_eq!(settings.registry.path, base.join("registry"));
    assert_eq!(settings.run, RunSettings { threads: 0, memory_bytes: 1_000_000_000, commit_attempts: 3 });
    assert_eq!(settings.sql.time_zone, "UTC");
    assert!(settings.inputs.is_empty());
    assert_eq!(project.pipeline_names().count(), 0);
}

#[test]
fn every_setting_of_the_file_is_read() {
    let dir = folder(&[(
        "insightera.toml",
        r#"format = 1
[catalog]
kind = "sqlite"
path = "/elsewhere/catalog.db"
[storage]
warehouse = "lake"
[registry]
path = "models"
[run]
threads = 4
memory = "512MiB"
commit_attempts = 7
[sql]
time_zone = "Asia/Jakarta"
[inputs."financial_features.budget_utilization_features"]
parquet = "gold/budget"
"#,
    )]);
    let base = dir.path().canonicalize().unwrap();
    let settings = load(dir.path()).unwrap().settings;
    assert_eq!(settings.catalog.file(), Some(Path::new("/elsewhere/catalog.db")));
    assert_eq!(Path::new(&settings.storage.warehouse), base.join("lake"));
    assert_eq!(settings.registry.path, base.join("models"));
    assert_eq!(settings.run, RunSettings { threads: 4, memory_bytes: 512 << 20, commit_attempts: 7 });
    assert_eq!(settings.sql.time_zone, "Asia/Jakarta");
    let input = &settings.inputs["financial_features.budget_utilization_features"];
    assert_eq!(input.parquet, base.join("gold/budget"));
}

#[test]
fn catalogs_and_stores_are_read_and_their_secrets_are_references() {
    let postgres =
        "format = 1\n[catalog]\nkind = \"postgres\"\nuri = \"postgresql://me@db/lake\"\npassword = \"env:PW\"";
    let CatalogSettings::Postgres(found) = settings(postgres).unwrap().catalog else { panic!() };
    assert_eq!((found.name.as_str(), found.password), ("insightera", Some(Secret::new("env:PW"))));
    let rest =
        "format = 1\n[catalog]\nkind = \"rest\"\nuri = \"https://lake/api\"\nwarehouse = \"w\"\ncredential = \"env:C\"";
    let CatalogSettings::Rest(found) = settings(rest).unwrap().catalog else { panic!() };
    assert_eq!((found.uri.as_str(), found.warehouse.as_deref(), found.vended), ("https://lake/api", Some("w"), false));
    let hive = "format = 1\n[catalog]\nkind = \"hive\"\nuri = \"thrift://one, thrift://[::1]:9084/\"\nlock = false";
    let CatalogSettings::Hive(found) = settings(hive).unwrap().catalog else { panic!() };
    assert_eq!(found.servers, ["one:9083", "[::1]:9084"]);
    assert_eq!((found.lock, found.user, found.warehouse), (false, None, None));
    let store = "format = 1\n[storage]\nwarehouse = \"s3://bucket/lake/\"\n[storage.s3]\nendpoint = \"http://127.0.0.1:9000/\"\nsecret_access_key = \"env:KEY\"";
    let found = settings(store).unwrap().storage;
    assert_eq!(found.warehouse, "s3://bucket/lake");
    assert_eq!(found.stores.s3.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    let json = serde_json::to_string(&found).unwrap();
    assert!(json.contains("***") && !json.contains("KEY"), "{json}");
    for (text, message, hint) in [
        ("[catalog]\nkind = \"rest\"", "`uri` is missing in [catalog]", ""),
        ("[catalog]\nkind = \"rest\"\nuri = \"lake\"", "`uri` is no address of the web", "https"),
        ("[catalog]\nkind = \"rest\"\nuri = \"http://x\"\npath = \"y\"", "unknown key `path` in [catalog]", ""),
        ("[catalog]\nkind = \"postgres\"\nuri = \"mysql://x\"", "not the address of a PostgreSQL database", "env:NAME"),
        ("[catalog]\nkind = \"hive\"", "`uri` is missing in [catalog]", ""),
        (
            "[catalog]\nkind = \"hive\"\nuri = \"http://x:9083\"",
            "does not begin with `thrift://`",
            "thrift://host:9083",
        ),
        ("[catalog]\nkind = \"hive\"\nuri = \"thrift://x:y\"", "`y` is no port", "thrift://host:9083"),
        ("[catalog]\nkind = \"hive\"\nuri = \"thrift://x,\"", "does not begin with `thrift://`", ""),
        ("[catalog]\nkind = \"hive\"\nuri = \"thrift://me@x\"", "is no host and port", ""),
        ("[catalog]\nkind = \"hive\"\nuri = \"thrift://x\"\nwarehouse = \"ftp://y\"", "ftp", ""),
        ("[catalog]\nkind = \"hive\"\nuri = \"thrift://x\"\nlocks = true", "unknown key `locks`", "`lock`"),
        ("[storage.s3]\nendpiont = \"http://x\"", "unknown key `endpiont` in [storage.s3]", "`endpoint`"),
        ("[storage.s3]\npath_style = 1", "`path_style` must be true or false", ""),
    ] {
        refused(settings(&format!("format = 1\n{text}")), message, hint);
    }
    // What is refused because it may be a secret is not shown.
    for text in [
        "[storage.s3]\nsecret_access_key = \"hunter2\"",
        "[catalog]\nkind = \"rest\"\nuri = \"http://x\"\ntoken = \"hunter2\"",
    ] {
        let error = settings(&format!("format = 1\n{text}")).unwrap_err();
        assert!(!format!("{error} {:?}", error.get_hint()).contains("hunter2"), "{error}");
        assert!(error.get_hint().unwrap().contains("env:NAME"));
    }
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let dir = folder(&[("insightera.toml", "format = 1\n[run]\nthreads = 2\nmemory = \"2GB\"\n")]);
    let environment = [("INSIGHTERA_THREADS", "3"), ("INSIGHTERA_WAREHOUSE", "/env"), ("INSIGHTERA_MEMORY", "")];
    let run = |flags, environment: &[(&str, &str)]| {
        let settings = load_with(dir.path(), flags, environment).unwrap().settings;
        (settings.run.threads, settings.run.memory_bytes, PathBuf::from(settings.storage.warehouse))
    };
    let base = dir.path().canonicalize().unwrap();
    assert_eq!(run(Overrides::default(), &[]), (2, 2_000_000_000, base.join("warehouse")));
    assert_eq!(run(Overrides::default(), &environment), (3, 2_000_000_000, PathBuf::from("/env")));
    let flags = Overrides { warehouse: Some("/flag".into()), threads: Some(0), memory_bytes: Some(5_000_000) };
    assert_eq!(run(flags, &environment), (0, 5_000_000, PathBuf::from("/flag")));
}

#[test]
fn a_wrong_environment_variable_is_named() {
    let dir = folder(&[("insightera.toml", "format = 1")]);
    let with = |name, value| load_with(dir.path(), Overrides::default(), &[(name, value)]);
    refused(with("INSIGHTERA_THREADS", "many"), "`INSIGHTERA_THREADS` must be an integer from 0 to 1024", "");
    refused(with("INSIGHTERA_MEMORY", "1XB"), "`INSIGHTERA_MEMORY` is not a size: `1XB`", "`512MB`");
    refused(with("INSIGHTERA_MEMORY", "12"), "`INSIGHTERA_MEMORY` must be 1 MB or more", "");
}

#[test]
fn a_relative_path_of_a_flag_is_relative_to_the_current_directory() {
    let dir = folder(&[("insightera.toml", "format = 1")]);
    let flags = |warehouse: &str| Overrides { warehouse: Some(warehouse.into()), ..Overrides::default() };
    let settings = load_with(dir.path(), flags("lake"), &[]).unwrap().settings;
    assert_eq!(Path::new(&settings.storage.warehouse), std::env::current_dir().unwrap().join("lake"));
    let small = Overrides { memory_bytes: Some(5), ..Overrides::default() };
    refused(load_with(dir.path(), small, &[]), "`--memory` must be 1 MB or more", "");
}

#[test]
fn a_folder_without_a_project_file_is_told_how_to_make_one() {
    let dir = tempfile::tempdir().unwrap();
    for missing in [dir.path().to_owned(), dir.path().join("nowhere")] {
        let error = load(&missing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.get_hint().unwrap(), format!("run `insightera init {}` to make one", missing.display()));
    }
}

#[test]
fn parents_are_not_searched_for_a_project_file() {
    let dir = folder(&[("insightera.toml", "format = 1"), ("inner/x", "")]);
    assert_eq!(load(&dir.path().join("inner")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_project_of_another_format_or_of_none_is_refused() {
    refused(settings(""), "insightera.toml: `format` is missing", "add the line `format = 1`");
    refused(settings("format = 2"), "insightera.toml:1:10: this version of insightera reads format 1, not 2", "newer");
    refused(settings("format = \"1\""), "`format` must be an integer, found a string", "");
}

#[test]
fn wrong_settings_are_refused_at_their_place() {
    let cases = [
        ("[catlog]\n", "insightera.toml:2:2: unknown key `catlog` in the top level of the file", "`catalog`"),
        ("[catalog]\nkind = \"glue\"", ":3:8: `glue` is not a value of `kind`", "`hive`"),
        ("[catalog]\nkind = \"sqlit\"", "`sqlit` is not a value of `kind`", "did you mean `sqlite`?"),
        ("[run]\nthread = 1", ":3:1: unknown key `thread` in [run]", "did you mean `threads`?"),
        ("[run]\nthreads = -1", ":3:11: `threads` must be from 0 to 1024, found -1", ""),
        ("[run]\nthreads = \"all\"", "`threads` must be an integer, found a string", ""),
        ("[run]\ncommit_attempts = 0", "`commit_attempts` must be from 1 to 100", ""),
        ("[run]\nmemory = \"lots\"", ":3:10: `memory` is not a size: `lots`", "`1.5GB`"),
        ("[run]\nmemory = 10", "`memory` must be from 1000000", ""),
        (
            "[storage]\nwarehouse = \"ftp://bucket/x\"",
            ":3:13: `ftp://bucket/x` is not a location of files",
            "`s3://bucket/path`",
        ),
        ("[storage]\nthreads = 1", "unknown key `threads` in [storage]", "`threads` belongs in [run]"),
        ("[sql]\ntime_zone = \"Asia/Jakrta\"", "`Asia/Jakrta` is not a time zone", "`+07:00`"),
        ("run = 3", "`run` must be a section `[run]`, found an integer", ""),
        ("[inputs.gold.students]\nparquet = \"x\"", "`gold` is not a table name", "`[inputs.\"namespace.table\"]`"),
        ("[inputs.\"gold.students\"]\n", "`parquet` is missing in [inputs.gold.students]", ""),
        ("[inputs.\"gold.students\"]\npath = \"x\"", "unknown key `path`", "`parquet`"),
    ];
    for (text, message, hint) in cases {
        refused(settings(&format!("format = 1\n{text}")), message, hint);
    }
}

#[test]
fn sizes_are_numbers_with_units_of_1000_or_1024() {
    let cases: &[(&str, u64)] = &[
        ("0", 0),
        ("17", 17),
        ("1B", 1),
        ("1 kb", 1_000),
        ("1KiB", 1_024),
        ("512MB", 512_000_000),
        ("1.5GB", 1_500_000_000),
        ("2GiB", 2 << 30),
        (" 1TB ", 1_000_000_000_000),
    ];
    for (text, bytes) in cases {
        assert_eq!(parse_bytes(text).unwrap(), *bytes, "{text}");
    }
    for text in
        ["", "GB", "1XB", "-1GB", "1.2.3MB", "1e9", "NaN", "inf", "99999999999GB", "18446744073709551615TB", "１GB"]
    {
        assert_eq!(parse_bytes(text).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
    }
}

#[test]
fn a_pipeline_has_the_documented_defaults() {
    let read = pipeline(PIPELINE).unwrap();
    assert_eq!(read.name, "dropout");
    assert!(read.file.is_absolute() && read.file.ends_with("pipelines/dropout.toml"));
    let model = read.model.unwrap();
    assert_eq!(model.selector, Selector::Alias("production".to_owned()));
    assert_eq!(read.entity_key, ["nim"]);
    assert_eq!(read.features.feature_time.as_deref(), Some("feature_timestamp"));
    assert_eq!(read.features.known_time, None);
    assert_eq!(read.features.strategy, Strategy::Auto);
    assert_eq!(read.features.on_model_change, OnModelChange::Rescore);
    assert_eq!(read.features.duplicates, Duplicates::Error);
    assert_eq!(read.features.time_zone, "UTC");
    assert_eq!(read.output.full_name(), "ml_predictions.dropout_risk_predictions");
    assert_eq!(read.output.partition_by, [PartitionTransform::Days { column: "prediction_date".to_owned() }]);
}

#[test]
fn a_pipeline_without_a_model_is_a_rule() {
    let text = PIPELINE.replacen("[model]\nname = \"student_dropout_risk_model\"\n", "", 1);
    assert_eq!(pipeline(&text).unwrap().model, None);
}

#[test]
fn output_columns_keep_the_order_of_the_file() {
    let columns = "zeta = \"1\"\n\"alpha\" = \"2\"\nnim = \"nim\"\nmid = '''3'''\n";
    let read = changed("nim = \"nim\"\nrisk_score = \"CAST(100 * probability AS INT)\"\n", columns).unwrap();
    let names: Vec<&str> = read.output.columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["zeta", "alpha", "nim", "mid"]);
    assert_eq!(read.output.columns[3].1, "3");
}

#[test]
fn table_properties_are_strings_numbers_or_booleans() {
    let properties = "[output.properties]\n\"a.b\" = \"zstd\"\n\"c\" = 5\n\"d\" = true\n[output.columns]";
    let read = changed("[output.columns]", properties).unwrap();
    let pairs: Vec<(&str, &str)> = read.output.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(pairs, [("a.b", "zstd"), ("c", "5"), ("d", "true")]);
    refused(
        changed("[output.columns]", "[output.properties]\na.b = \"x\"\n[output.columns]"),
        "`a` is not in quotes",
        "zstd",
    );
    let ours = "[output.properties]\n\"insightera.format\" = \"9\"\n[output.columns]";
    refused(changed("[output.columns]", ours), "`insightera.format` belongs to insightera", "");
}

#[test]
fn sql_comes_from_a_file_next_to_the_pipeline_whichever_key_names_it() {
    for key in ["sql_file = \"queries/dropout.sql\"", "sql = \"queries/dropout.sql\""] {
        let text = PIPELINE.replacen("sql = \"SELECT nim, ipk, feature_timestamp FROM gold.students\"", key, 1);
        let dir = folder(&[
            ("insightera.toml", "format = 1"),
            ("pipelines/dropout.toml", &text),
            ("pipelines/queries/dropout.sql", "\u{feff}SELECT 1 AS nim\n"),
        ]);
        let features = load(dir.path()).unwrap().pipeline("dropout").unwrap().features;
        assert_eq!(features.sql, "SELECT 1 AS nim\n");
        assert!(features.sql_file.unwrap().ends_with("pipelines/queries/dropout.sql"));
    }
}

#[test]
fn a_missing_or_empty_sql_file_is_told_with_the_line_that_names_it() {
    let text =
        PIPELINE.replacen("sql = \"SELECT nim, ipk, feature_timestamp FROM gold.students\"", "sql = \"x.sql\"", 1);
    let dir = folder(&[("insightera.toml", "format = 1"), ("pipelines/dropout.toml", &text)]);
    let error = load(dir.path()).unwrap().pipeline("dropout").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let message = told(&error).0;
    assert!(
        message.starts_with("pipelines/dropout.toml:7:7: ") && message.contains("x.sql: no such file"),
        "{message}"
    );
    fs::write(dir.path().join("pipelines/x.sql"), " \n").unwrap();
    refused(load(dir.path()).unwrap().pipeline("dropout"), "x.sql: the file is empty", "");
}

#[test]
fn reasons_are_three_unless_the_model_section_says_otherwise() {
    let name = "name = \"student_dropout_risk_model\"";
    let read = |line: &str| changed(name, &format!("{name}\n{line}"));
    let explain = |text: &str| read(text).unwrap().model.unwrap().explain;
    assert_eq!(explain(""), None);
    assert_eq!(explain("explain = {}"), Some(Explain { top: 3, score: "score".into() }));
    assert_eq!(explain("explain = { top = 5, score = \"risk\" }"), Some(Explain { top: 5, score: "risk".into() }));
    refused(read("explain = { top = 0 }"), "top", "");
    refused(read("explain = { topp = 1 }"), "topp", "top");
    refused(read("explain = true"), "explain", "");
}

#[test]
fn a_model_is_chosen_by_alias_or_by_version() {
    let name = "name = \"student_dropout_risk_model\"";
    let with = |line: &str| changed(name, &format!("{name}\n{line}"));
    assert_eq!(with("version = 3").unwrap().model.unwrap().selector, Selector::Version(3));
    let alias = with("alias = \"challenger\"").unwrap().model.unwrap().selector;
    assert_eq!(alias, Selector::Alias("challenger".to_owned()));
    refused(with("version = 3\nalias = \"a\""), ":4:11: a model has `alias` or `version`, not both", "remove");
    refused(with("version = 0"), "`version` must be from 1", "");
    refused(with("alias = \"a b\""), "`a b` is not a name for a model alias", "");
}

#[test]
fn wrong_pipelines_are_refused_at_their_place() {
    let sql = "sql = \"SELECT nim, ipk, feature_timestamp FROM gold.students\"";
    let time = "feature_time = \"feature_timestamp\"";
    let partition = "partition_by = [\"days(prediction_date)\"]";
    let columns = "nim = \"nim\"\nrisk_score = \"CAST(100 * probability AS INT)\"\n";
    let cases: &[(&str, &str, &str, &str)] = &[
        ("kind = \"batch\"\n", "", "pipelines/dropout.toml: `kind` is missing", ""),
        ("\"batch\"", "\"stream\"", "`dropout` is a stream, not a batch pipeline", "insightera stream dropout"),
        ("\"batch\"", "\"serve\"", "`kind = \"serve\"` is not supported yet", "`batch`"),
        ("\"batch\"", "\"bacth\"", "`bacth` is not a value of `kind`", "did you mean `batch`?"),
        ("\"batch\"", "3", "`kind` must be a string, found an integer", ""),
        ("[features]", "[featuers]", "unknown key `featuers`", "did you mean `features`?"),
        ("[entity]\nkey = [\"nim\"]\n", "", "the section [entity] is missing", ""),
        ("key = [\"nim\"]", "", ":4:2: `key` is missing in [entity]", "`key = [\"nim\"]`"),
        ("[\"nim\"]", "[]", ":5:7: `key` needs at least one column", ""),
        ("[\"nim\"]", "\"nim\"", "`key` must be an array of strings", ""),
        ("[\"nim\"]", "[\"nim\", 3]", ":5:15: `key` must hold strings, found an integer", ""),
        ("[\"nim\"]", "[\"nim\", \"nim\"]", "`key` names `nim` twice", ""),
        ("[\"nim\"]", "[\"nim\", \"NIM\"]", "the column `NIM` is there twice", ""),
        ("[\"nim\"]", "[\"nik\"]", ":5:8: the key column `nik` is not in [output.columns]", "`nik = \"nik\"`"),
        (sql, "", "`sql` is missing in [features]", "sql_file"),
        (sql, "sql = \" \"", "`sql` is empty", ""),
        (sql, &format!("{sql}\nsql_file = \"a.sql\""), "`sql` or `sql_file`, not both", ""),
        (time, "stratgey = \"hash\"", ":8:1: unknown key `stratgey` in [features]", "did you mean `strategy`?"),
        (time, "table = \"a.b\"", "unknown key `table` in [features]", "`table` belongs in [output]"),
        (time, "strategy = \"hsah\"", "`hsah` is not a value of `strategy`", "did you mean `hash`?"),
        (time, "strategy = \"timestamp\"", "`strategy = \"timestamp\"` needs `feature_time`", "feature_time"),
        (time, "duplicates = \"latest\"", ":8:14: `duplicates = \"latest\"` needs `feature_time`", "feature_time"),
        (time, "feature_time = \"nim\"", "`feature_time` is `nim`, which is in the entity key", ""),
        (time, "on_model_change = \"never\"", "`never` is not a value of `on_model_change`", "`rescore`, `new_only`"),
        (time, "time_zone = \"Mars\"", "`Mars` is not a time zone", ""),
        (time, "unhashed = true", "`unhashed` must be an array of strings", ""),
        ("ml_predictions.dropout_risk_predictions", "dropout", "`dropout` is not a table name", ""),
        ("ml_predictions.dropout_risk_predictions", "a.b.c", "`a.b.c` is not a table name", ""),
        ("ml_predictions.dropout_risk_predictions", "a.b/c", "`b/c` is not a name for a table", ""),
        (
            partition,
            "partition_by = [\"dayz(prediction_date)\"]",
            "`dayz(prediction_date)` is not a partition",
            "`days(column)`",
        ),
        (partition, "partition_by = [\"bucket(x, nim)\"]", "must be an integer of 1 or more", "`bucket(n, column)`"),
        (partition, "partition_by = [\"days(nim\"]", "no closing parenthesis", ""),
        (
            partition,
            "partition_by = [\"risk_scor\"]",
            "`risk_scor` is not in [output.columns]",
            "did you mean `risk_score`?",
        ),
        (partition, "partition_by = [\"days(nim)\", \"day( nim )\"]", "has `days(nim)` twice", ""),
        ("nim = \"nim\"\nr", "nim = \"nim\"\nNIM = \"nim\"\nr", "the column `NIM` is there already, as `nim`", ""),
        ("nim = \"nim\"\nr", "nim = 1\nr", "`nim` must be an SQL expression in quotes, found an integer", ""),
        ("nim = \"nim\"\nr", "nim = \"\"\nr", "`nim` is empty", ""),
        (
            "nim = \"nim\"\nr",
            "nim = \"nim\"\nRun_Id = \"1\"\nr",
            "the column `run_id` is filled by insightera",
            "remove it",
        ),
        ("nim = \"nim\"\nr", "nim = \"nim\"\n\"a b\" = \"1\"\nr", "`a b` is not a name for a column", ""),
        (
            "nim = \"nim\"\nr",
            "nim = \"nim\"\nmodel = \"1\"\n[output.colums]\nr",
            "unknown key `colums` in [output]",
            "`columns`",
        ),
        (columns, "", "[output.columns] needs at least one column", ""),
    ];
    for (from, to, message, hint) in cases {
        refused(changed(from, to), message, hint);
    }
}

#[test]
fn an_error_shows_the_line_with_carets_under_the_wrong_text() {
    let text = PIPELINE.replacen("feature_time = \"feature_timestamp\"", "\tstratgey = \"hash\" # ü", 1);
    let (message, hint) = told(&pipeline(&text).unwrap_err());
    assert_eq!(
        message,
        "pipelines/dropout.toml:8:2: unknown key `stratgey` in [features]\n  |\n8 | \tstratgey = \"hash\" # ü\n  | \t^^^^^^^^"
    );
    assert_eq!(hint, "did you mean `strategy`?");
}

#[test]
fn a_syntax_error_has_its_line_and_a_caret() {
    let cases = [
        ("kind = \"batch\nx = 1", "pipelines/dropout.toml:1:"),
        ("kind = \"batch\"\n[features\n", "pipelines/dropout.toml:2:"),
        ("a = 1\na = 2\n", "pipelines/dropout.toml:2:"),
        ("π = 1", "pipelines/dropout.toml:1:"),
        ("a = ", "pipelines/dropout.toml:1:"),
        ("x = \"\u{1b}[31m\"", "pipelines/dropout.toml:1:"),
    ];
    for (text, place) in cases {
        let message = told(&pipeline(text).unwrap_err()).0;
        assert!(message.starts_with(place), "{message}");
        assert!(message.contains("not valid TOML: ") && message.contains('^'), "{message}");
        assert!(!message.contains('\u{1b}'), "{message:?}");
    }
}

#[test]
fn a_caret_stands_right_after_wide_text_and_in_long_lines() {
    let text = format!("kind = \"batch\"\ndescription = \"{}\" oops", "é".repeat(500));
    let message = told(&pipeline(&text).unwrap_err()).0;
    let lines: Vec<&str> = message.lines().collect();
    assert!(message.starts_with(&format!("pipelines/dropout.toml:2:{}: ", 14 + 502 + 1 + 1)), "{message}");
    assert!(lines[2].chars().count() <= 130, "{message}");
    let caret = lines[3].chars().position(|c| c == '^').unwrap();
    assert_eq!(lines[2].chars().nth(caret), Some('o'), "{message}");
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let windows = format!("\u{feff}{}", PIPELINE.replace('\n', "\r\n"));
    assert_eq!(pipeline(&windows).unwrap().output, pipeline(PIPELINE).unwrap().output);
    let wrong = windows.replacen("key = [\"nim\"]", "key = 3", 1);
    let message = told(&pipeline(&wrong).unwrap_err()).0;
    assert_eq!(
        message,
        "pipelines/dropout.toml:5:7: `key` must be an array of strings, as in `[\"a\", \"b\"]`, found an integer\n  |\n5 | key = 3\n  |       ^"
    );
}

#[test]
fn a_file_that_is_not_utf_8_is_told_where() {
    let dir = folder(&[("insightera.toml", "")]);
    fs::write(dir.path().join("insightera.toml"), b"format = 1\n# caf\xe9\n").unwrap();
    refused(load(dir.path()), "insightera.toml:2: not UTF-8 text", "UTF-8");
}

#[test]
fn an_unknown_pipeline_offers_the_nearest_name() {
    let dir = folder(&[
        ("insightera.toml", "format = 1"),
        ("pipelines/dropout.toml", PIPELINE),
        ("pipelines/budget_3m.toml", PIPELINE),
        ("pipelines/.hidden.toml", "x"),
        ("pipelines/notes.txt", "x"),
        ("pipelines/folder.toml/x", "x"),
    ]);
    let project = load(dir.path()).unwrap();
    assert_eq!(project.pipeline_names().collect::<Vec<_>>(), ["budget_3m", "dropout"]);
    for (name, hint) in [
        ("dropuot", "did you mean `dropout`?"),
        ("pipelines/dropout.toml", "did you mean `dropout`?"),
        ("anomalies", "the pipelines are `budget_3m`, `dropout`"),
    ] {
        let error = project.pipeline(name).unwrap_err();
        assert_eq!((error.kind(), error.get_hint()), (ErrorKind::NotFound, Some(hint)), "{name}");
    }
    assert_eq!(project.pipelines().unwrap().len(), 2);
}

#[test]
fn a_broken_pipeline_does_not_stop_the_others() {
    let dir = folder(&[
        ("insightera.toml", "format = 1"),
        ("pipelines/good.toml", PIPELINE),
        ("pipelines/broken.toml", "kind = "),
        ("pipelines/bad name.toml", PIPELINE),
    ]);
    let project = load(dir.path()).unwrap();
    assert!(project.pipeline("good").is_ok());
    refused(project.pipeline("broken"), "pipelines/broken.toml:1:", "");
    refused(project.pipeline("bad name"), "`bad name` is not a name for a pipeline", "rename the file");
    assert!(project.pipelines().is_err());
}

#[test]
fn partition_transforms_are_written_as_they_are_read() {
    for text in ["nim", "years(t)", "months(t)", "days(t)", "hours(t)", "bucket(16, nim)", "truncate(4, nim)"] {
        assert_eq!(PartitionTransform::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(
        PartitionTransform::parse(" BUCKET( 8 ,nim ) ").unwrap(),
        PartitionTransform::Bucket { buckets: 8, column: "nim".to_owned() }
    );
    for text in
        ["", "()", "days()", "days(a, b)", "bucket(nim)", "bucket(0, nim)", "truncate(-1, nim)", "days(a))", "a b"]
    {
        assert!(PartitionTransform::parse(text).is_err(), "{text}");
    }
}

/// The template with its optional lines made active.
fn uncommented(template: &str) -> String {
    let active = |line: &str| {
        let rest = line.strip_prefix("# ")?;
        let (key, value) = rest.split_once(" = ")?;
        let is_key = key.chars().all(|c| c.is_ascii_alphanumeric() || "_.-\"".contains(c));
        (is_key && !value.is_empty()).then(|| rest.to_owned())
    };
    template.lines().map(|line| active(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[test]
fn the_templates_are_a_valid_project_as_written_and_with_every_option() {
    let (project, example) = (render_default_project(), render_example_pipeline());
    assert_eq!(settings(project).unwrap().run, settings("format = 1").unwrap().run);
    let default = pipeline(example).unwrap();
    assert_eq!(default.features.strategy, Strategy::Auto);

    let full = uncommented(project);
    assert!(full.contains("\nthreads = 0") && full.contains("\ntime_zone = \"UTC\""), "{full}");
    assert_eq!(settings(&full).unwrap().run, settings("format = 1").unwrap().run);
    let full = pipeline(&uncommented(example)).unwrap();
    assert_eq!(full.features.unhashed, ["name"]);
    assert_eq!(full.features.strategy, default.features.strategy);
    assert_eq!(full.output.properties.len(), 1);
    assert_eq!(full.output.columns.len(), 4);
}

/// A stream with `source` in `[source]`, and `more` sections.
fn stream(source: &str, more: &str) -> Result<StreamPipeline> {
    let text = format!(
        r#"kind = "stream"
[source]
{source}
[events]
time = "at"
[events.fields]
nim = "string"
at = {{ type = "timestamp", format = "iso" }}
[entity]
key = ["nim"]
[output]
table = "ml.live"
[output.columns]
nim = "nim"
{more}
"#
    );
    let dir = folder(&[("insightera.toml", "format = 1\n"), ("pipelines/live.toml", &text)]);
    load(dir.path()).unwrap().stream("live")
}

/// What `[live]` of a stream says.
fn live(section: &str) -> Result<Option<LiveSettings>> {
    Ok(stream("files = \"events\"", section)?.live)
}

/// Where a topic is begun, by the line that says it.
fn begun(line: &str) -> Result<Start> {
    let source = format!("{line}\ntopic = \"t\"\n[source.kafka]\n\"bootstrap.servers\" = \"localhost:9092\"");
    match stream(&source, "")?.source {
        SourceSettings::Kafka { start, .. } => Ok(start),
        SourceSettings::Files { .. } => unreachable!(),
    }
}

#[test]
fn a_topic_is_begun_at_an_end_or_at_a_time_and_files_are_not() {
    assert_eq!(begun("").unwrap(), Start::Earliest);
    assert_eq!(begun("start = \"earliest\"").unwrap(), Start::Earliest);
    assert_eq!(begun("start = \"latest\"").unwrap(), Start::Latest);
    // 1970-01-02 in one zone and in another.
    for time in ["1970-01-02T00:00:00Z", "1970-01-02T07:00:00.000+07:00"] {
        assert_eq!(begun(&format!("start = \"{time}\"")).unwrap(), Start::Time(86_400_000_000));
    }
    for wrong in ["now", "2026-01-31", "2026-01-31T00:00:00", "2026-02-30T00:00:00Z", "-1"] {
        let message = format!("live.toml:3:9: `{wrong}` is not where a topic can be begun");
        refused(begun(&format!("start = \"{wrong}\"")), &message, "2026-01-31T00:00:00Z");
    }
    refused(begun("start = 2026-01-31T00:00:00Z"), "`start` must be a string", "");
    let files = stream("files = \"events\"\nstart = \"latest\"", "");
    refused(files, "live.toml:4:1: `start` goes with `topic`, not with `files`", "");
}

const BROKER: &str = "[source.kafka]\n\"bootstrap.servers\" = \"localhost:9092\"";
const WEEK: &str =
    "[windows.week]\nrolling = { tile = \"1 day\", tiles = 7 }\n[windows.week.columns]\nseen = \"count(*)\"";

/// A stream of topics, by the lines of `[source]` that say which.
fn of_topics(lines: &str, more: &str) -> Result<StreamPipeline> {
    stream(&format!("{lines}\n{BROKER}"), more)
}

#[test]
fn a_source_is_a_topic_or_a_list_of_them() {
    let read = |lines: &str| match of_topics(lines, "").unwrap().source {
        SourceSettings::Kafka { topics, is_list, .. } => (topics.join(" "), is_list),
        SourceSettings::Files { .. } => unreachable!(),
    };
    assert_eq!(read("topic = \"a\""), ("a".to_owned(), false));
    assert_eq!(read("topics = [\"a\"]"), ("a".to_owned(), true));
    assert_eq!(read("topics = [\"b-1\", \"a_2.x\"]"), ("b-1 a_2.x".to_owned(), true));
    let wrong = |lines: &str, message: &str, hint: &str| refused(of_topics(lines, ""), message, hint);
    wrong("topics = []", "live.toml:3:10: `topics` must name 1 to 1000 topics, found 0", "topics = [\"a\", \"b\"]");
    wrong("topics = [\"a\", \"a\"]", "live.toml:3:16: `topics` names `a` twice", "");
    wrong("topics = [\"a\", \"\"]", "`topics` holds an empty string", "");
    wrong("topics = \"a\"", "`topics` must be an array of strings", "");
    wrong("topics = [\"a,b\"]", "live.toml:3:11: `a,b` is not the name of a topic", "letters, digits");
    wrong("topic = \"a\"\ntopics = [\"a\", \"b\"]", "a source has `topic` or `topics`, not both", "first");
    let many: Vec<String> = (0..1001).map(|number| format!("\"t{number}\"")).collect();
    wrong(&format!("topics = [{}]", many.join(", ")), "found 1001", "");
    refused(stream("files = \"events\"\ntopics = [\"a\"]", ""), "`files` or `topics`, not both", "");
}

#[test]
fn partitions_of_a_list_are_told_by_topic() {
    let names = |lines: &str| {
        let source = of_topics(lines, "").unwrap().source;
        [0, 7, 65_536, 131_071, 131_072].map(|number| source.partition_name(number)).join(" ")
    };
    assert_eq!(names("topics = [\"a\", \"b\"]"), "a/0 a/7 b/0 b/65535 131072");
    assert_eq!(names("topic = \"a\""), "0 7 65536 131071 131072");
}

#[test]
fn keys_of_several_topics_must_be_said_to_be_in_one_partition() {
    const TWO: &str = "topics = [\"a\", \"b\"]";
    const CHANGE: &str = "[alerts.high]\nwhen = \"true\"\non_change = true\ntable = \"ml.high\"";
    assert!(of_topics(TWO, "").unwrap().is_shareable());
    refused(
        of_topics(TWO, WEEK),
        "the window `week` is kept by key, and nothing says that all events",
        "partition_key",
    );
    refused(of_topics(TWO, CHANGE), "[alerts.high] on_change is about an entity, and nothing says", "on_close");
    let keyed = format!("{TWO}\npartition_key = [\"nim\"]");
    for more in [WEEK, CHANGE] {
        assert!(of_topics(&keyed, more).unwrap().is_shareable());
        assert!(!of_topics("topics = [\"a\"]", more).unwrap().is_shareable());
    }
    // A window that closes takes its key from all of them.
    let closing = format!("{WEEK}\n[stream]\nemit = \"on_close\"")
        .replace("rolling", "hopping")
        .replace("{ tile = \"1 day\", tiles = 7 }", "{ size = \"7 days\", slide = \"1 day\" }");
    assert!(!of_topics(TWO, &closing).unwrap().is_shareable());
}

#[test]
fn events_of_a_list_have_a_column_for_their_topic() {
    let lines = |topics: &str, field: &str| {
        let text = format!("{topics}\n{BROKER}\n[events.columns]\n{field} = \"upper(nim)\"");
        // The columns come before [events] itself, which TOML does not mind.
        stream(&text, "")
    };
    assert!(lines("topic = \"a\"", "source_topic").is_ok());
    assert!(lines("topics = [\"a\"]", "origin").is_ok());
    refused(lines("topics = [\"a\"]", "Source_Topic"), "a column `Source_Topic` of its own", "another name");
}

#[test]
fn live_output_goes_to_a_topic_or_to_a_webhook() {
    const KAFKA: &str = "[live.kafka]\n\"bootstrap.servers\" = \"localhost:9092\"";
    const URL: &str = "[live]\nurl = \"env:RISK_URL\"\n";
    let options = [("bootstrap.servers".to_owned(), "localhost:9092".to_owned())].into();
    assert_eq!(
        live(&format!("[live]\ntopic = \"risk\"\n{KAFKA}")).unwrap(),
        Some(LiveSettings::Topic { topic: "risk".to_owned(), options })
    );
    let url = Secret::new("env:RISK_URL");
    assert_eq!(live(URL).unwrap(), Some(LiveSettings::Webhook { url: url.clone(), timeout: 10_000_000 }));
    let settings = live(&format!("{URL}timeout = \"500 ms\"")).unwrap();
    assert_eq!(settings, Some(LiveSettings::Webhook { url, timeout: 500_000 }));
    assert_eq!(live("").unwrap(), None);
    refused(live("[live]"), ": [live] has neither `topic` nor `url`", "[live.kafka]");
    refused(live(&format!("{URL}topic = \"risk\"\n{KAFKA}")), "`topic` or `url`, not both", "leave one of them out");
    refused(live(&format!("{URL}{KAFKA}")), "`kafka` goes with `topic`, not with `url`", "");
    refused(live("[live]\ntopic = \"risk\"\ntimeout = \"1 s\""), "`timeout` goes with `url`, not with `topic`", "");
    refused(live("[live]\nurl = \"risk.example.org\""), "`url` is no address of the web", "env:NAME");
    refused(live("[live]\nadress = \"https://risk.example.org\""), "unknown key `adress`", "`topic`, `kafka`, `url`");
}

#[test]
fn the_words_of_an_enumeration_are_those_of_the_file() {
    assert_eq!(Strategy::Snapshot.as_str(), "snapshot");
    assert_eq!(OnModelChange::NewOnly.as_str(), "new_only");
    assert_eq!(Duplicates::Latest.as_str(), "latest");
}
