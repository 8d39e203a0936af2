use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use bytes::Bytes;
use insightera_core::{ErrorKind, ManualClock};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use super::alias_log::{self, LogEntry};
use super::*;
use crate::Error;

const START: i64 = 1_700_000_000_000_000;

/// An implementation of the registry to test.
struct Fixture {
    registry: Arc<dyn Registry>,
    clock: Arc<ManualClock>,
    dir: TempDir,
}

fn embedded() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(START));
    let registry = Arc::new(EmbeddedRegistry::open(&dir.path().join("registry"), clock.clone()).unwrap());
    Fixture { registry, clock, dir }
}

/// Every implementation must keep the laws of the first part of this file.
fn implementations() -> Vec<Fixture> {
    vec![embedded()]
}

impl Fixture {
    fn root(&self) -> PathBuf {
        self.dir.path().join("registry")
    }

    fn database(&self) -> Connection {
        Connection::open(self.root().join("registry.db")).unwrap()
    }

    fn again(&self) -> Arc<dyn Registry> {
        Arc::new(EmbeddedRegistry::open_existing(&self.root(), self.clock.clone()).unwrap())
    }

    fn register(&self, name: &str, content: &str) -> u64 {
        self.registry.register(Registration::new(name, artifact(content))).unwrap().version
    }

    fn alias(&self, name: &str, alias: &str) -> Option<u64> {
        let selector = Selector::Alias(alias.to_owned());
        self.registry.resolve(name, &selector).ok().map(|resolved| resolved.version)
    }
}

fn artifact(content: &str) -> Artifact {
    Artifact::from_files(BTreeMap::from([
        ("MLmodel".to_owned(), Bytes::from_static(b"flavors: {}\n")),
        ("data/model.json".to_owned(), Bytes::from(content.to_owned())),
    ]))
    .unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind, message: &str, hint: &str) {
    let error = result.unwrap_err();
    assert!(error.to_string().contains(message), "expected `{message}` in `{error}`");
    assert!(error.get_hint().unwrap_or_default().contains(hint), "expected `{hint}` in {:?}", error.get_hint());
    assert_eq!(error.kind(), kind, "{error}");
}

// Laws of every registry.

#[test]
fn a_version_is_what_was_registered() {
    for fixture in implementations() {
        let mut new = Registration::new("fraud", artifact("one"));
        let sha256 = new.artifact.sha256();
        new.description = Some("first try".to_owned());
        new.tags = BTreeMap::from([("team".to_owned(), "risk".to_owned())]);
        new.metrics = BTreeMap::from([
            ("auc".to_owned(), 0.91),
            ("loss".to_owned(), f64::INFINITY),
            ("bad".to_owned(), f64::NAN),
        ]);
        new.params = BTreeMap::from([("depth".to_owned(), "6".to_owned())]);
        new.experiment = Some("search".to_owned());
        new.model_type = Some("xgboost".to_owned());
        new.signature = Some(json!({"inputs": [{"name": "z", "type": "double"}, {"name": "a", "type": "long"}]}));
        new.alias = Some("production".to_owned());
        let signature = new.signature.clone();
        let registered = fixture.registry.register(new).unwrap();
        assert_eq!((registered.version, registered.reused, &registered.sha256), (1, false, &sha256));
        let moved = AliasMove { alias: "production".to_owned(), from: None, to: 1, moved: true };
        assert_eq!(registered.alias, Some(moved));

        let model = fixture.again().model("fraud").unwrap();
        assert_eq!((model.created_micros, model.aliases["production"]), (START, 1));
        let version = &model.versions[0];
        assert_eq!((version.version, &version.sha256, version.bytes), (1, &sha256, 12 + 3));
        assert_eq!(version.files, BTreeMap::from([("MLmodel".to_owned(), 12), ("data/model.json".to_owned(), 3)]));
        assert_eq!(version.created_micros, START);
        assert_eq!(version.description.as_deref(), Some("first try"));
        assert_eq!(version.tags["team"], "risk");
        assert_eq!((version.metrics["auc"], version.metrics["loss"]), (0.91, f64::INFINITY));
        assert!(version.metrics["bad"].is_nan());
        assert_eq!(version.params["depth"], "6");
        assert_eq!((version.experiment.as_str(), version.model_type.as_deref()), ("search", Some("xgboost")));
        assert_eq!(version.signature, signature);
        assert_eq!(version.aliases, ["production"]);
        assert_eq!(version.run_id.len(), 32);
    }
}

#[test]
fn the_artifact_that_is_loaded_is_the_one_that_was_registered() {
    for fixture in implementations() {
        let version = fixture.register("fraud", "one");
        let resolved = fixture.again().resolve("fraud", &Selector::Version(version)).unwrap();
        assert_eq!(resolved.sha256, artifact("one").sha256());
        let loaded = fixture.registry.load_artifact(&resolved).unwrap();
        assert_eq!(loaded.files(), artifact("one").files());
    }
}

#[test]
fn every_registration_makes_a_version_unless_an_equal_one_will_do() {
    for fixture in implementations() {
        assert_eq!(fixture.register("fraud", "one"), 1);
        assert_eq!(fixture.register("fraud", "one"), 2);
        assert_eq!(fixture.register("fraud", "two"), 3);
        let reuse = |content: &str| {
            let mut new = Registration::new("fraud", artifact(content));
            new.if_absent = true;
            new.alias = Some("production".to_owned());
            fixture.registry.register(new).unwrap()
        };
        let one = reuse("one");
        assert_eq!((one.version, one.reused), (2, true));
        assert_eq!(fixture.alias("fraud", "production"), Some(2));
        let three = reuse("three");
        assert_eq!((three.version, three.reused), (4, false));
        assert_eq!(fixture.register("other", "one"), 1);
    }
}

#[test]
fn models_are_listed_by_name_with_their_aliases() {
    for fixture in implementations() {
        assert_eq!(fixture.registry.models().unwrap(), []);
        fixture.register("zebra", "z");
        fixture.register("ant", "a");
        fixture.clock.advance(5);
        fixture.register("ant", "b");
        fixture.registry.promote("ant", 1, "production").unwrap();
        let models = fixture.registry.models().unwrap();
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["ant", "zebra"]);
        assert_eq!((models[0].versions, models[0].latest_version), (2, 2));
        assert_eq!(models[0].aliases, BTreeMap::from([("production".to_owned(), 1)]));
        assert_eq!((models[0].created_micros, models[0].updated_micros), (START, START + 5));
    }
}

#[test]
fn names_that_do_not_exist_are_told_with_the_next_step() {
    for fixture in implementations() {
        let registry = &fixture.registry;
        let production = Selector::Alias("production".to_owned());
        refused(
            registry.model("fraud"),
            ErrorKind::NotFound,
            "there is no model `fraud`",
            "`insightera model register`",
        );
        fixture.register("fraud", "one");
        fixture.register("fraud", "two");
        refused(registry.model("fruad"), ErrorKind::NotFound, "there is no model `fruad`", "did you mean `fraud`?");
        refused(registry.resolve("students", &production), ErrorKind::NotFound, "`students`", "model list");
        refused(
            registry.resolve("fraud", &production),
            ErrorKind::NotFound,
            "model `fraud` has no alias `production`",
            "run `insightera model promote fraud 2`",
        );
        refused(
            registry.history("fraud", "shadow"),
            ErrorKind::NotFound,
            "model `fraud` has no alias `shadow`",
            "promote fraud 2 --alias shadow`",
        );
        refused(
            registry.resolve("fraud", &Selector::Version(9)),
            ErrorKind::NotFound,
            "model `fraud` has no version 9",
            "its versions are 1, 2",
        );
        refused(registry.promote("fraud", 3, "production"), ErrorKind::NotFound, "no version 3", "1, 2");
        refused(registry.rollback("fraud", "production"), ErrorKind::NotFound, "no alias `production`", "promote");
        registry.promote("fraud", 1, "production").unwrap();
        let wrong = Selector::Alias("Production".to_owned());
        refused(registry.resolve("fraud", &wrong), ErrorKind::NotFound, "`Production`", "did you mean `production`?");
    }
}

#[test]
fn names_that_cannot_be_used_are_refused_before_anything_is_written() {
    for fixture in implementations() {
        let with = |change: &dyn Fn(&mut Registration)| {
            let mut new = Registration::new("fraud", artifact("one"));
            change(&mut new);
            fixture.registry.register(new)
        };
        refused(with(&|new| new.name = "../fraud".to_owned()), ErrorKind::Invalid, "`../fraud`", "");
        for alias in ["latest", "v3", "7", "a b"] {
            refused(with(&|new| new.alias = Some(alias.to_owned())), ErrorKind::Invalid, alias, "");
        }
        refused(
            with(&|new| new.metrics = BTreeMap::from([(" ".to_owned(), 1.0)])),
            ErrorKind::Invalid,
            "metric",
            "printable",
        );
        assert_eq!(fixture.registry.models().unwrap(), []);
    }
}

#[test]
fn a_tag_of_a_version_can_be_set_and_set_again() {
    for fixture in implementations() {
        fixture.register("fraud", "one");
        fixture.register("fraud", "two");
        fixture.registry.tag_version("fraud", 2, "owner", "a").unwrap();
        fixture.registry.tag_version("fraud", 2, "owner", "b").unwrap();
        let versions = fixture.registry.model("fraud").unwrap().versions;
        assert!(versions[0].tags.is_empty());
        assert_eq!(versions[1].tags["owner"], "b");
        refused(fixture.registry.tag_version("fraud", 3, "owner", "a"), ErrorKind::NotFound, "no version 3", "1, 2");
        refused(fixture.registry.tag_version("fraud", 1, " ", "a"), ErrorKind::Invalid, "not a name", "printable");
    }
}

#[test]
fn promoting_to_where_the_alias_is_changes_nothing() {
    for fixture in implementations() {
        fixture.register("fraud", "one");
        assert!(fixture.registry.promote("fraud", 1, "production").unwrap().moved);
        let again = fixture.registry.promote("fraud", 1, "production").unwrap();
        assert_eq!(again, AliasMove { alias: "production".to_owned(), from: Some(1), to: 1, moved: false });
        assert_eq!(fixture.registry.history("fraud", "production").unwrap().len(), 1);
    }
}

#[test]
fn rollbacks_go_further_back_and_a_promotion_takes_them_back() {
    for fixture in implementations() {
        let registry = &fixture.registry;
        for version in 1..=3 {
            fixture.register("fraud", &version.to_string());
            fixture.clock.advance(10);
            registry.promote("fraud", version, "production").unwrap();
        }
        let rollback = || registry.rollback("fraud", "production").map(|moved| (moved.from.unwrap(), moved.to));
        assert_eq!(rollback().unwrap(), (3, 2));
        assert_eq!(rollback().unwrap(), (2, 1));
        refused(rollback(), ErrorKind::Invalid, "no version before 1 to roll `production` back to", "promote");
        registry.promote("fraud", 3, "production").unwrap();
        assert_eq!(rollback().unwrap(), (3, 1), "the version before the promotion");
        let history = registry.history("fraud", "production").unwrap();
        let moves: Vec<(u64, &str)> = history.iter().map(|change| (change.version, change.by.as_str())).collect();
        assert_eq!(
            moves,
            [
                (1, "promote"),
                (2, "promote"),
                (3, "promote"),
                (2, "rollback"),
                (1, "rollback"),
                (3, "promote"),
                (1, "rollback")
            ]
        );
    }
}

#[test]
fn a_rollback_reaches_the_version_that_a_registration_put_there() {
    for fixture in implementations() {
        for content in ["one", "two"] {
            let mut new = Registration::new("fraud", artifact(content));
            new.alias = Some("production".to_owned());
            fixture.registry.register(new).unwrap();
        }
        assert_eq!(fixture.registry.rollback("fraud", "production").unwrap().to, 1);
        let history = fixture.registry.history("fraud", "production").unwrap();
        assert_eq!(history[1].by, AliasAction::Register);
    }
}

#[test]
fn history_says_which_version_was_the_one_at_any_time() {
    for fixture in implementations() {
        fixture.register("fraud", "one");
        fixture.register("fraud", "two");
        for version in [1, 2, 1] {
            fixture.clock.advance(100);
            fixture.registry.promote("fraud", version, "production").unwrap();
        }
        let at = |micros: i64| fixture.registry.production_at("fraud", "production", START + micros).unwrap();
        assert_eq!(
            [at(99), at(100), at(199), at(200), at(299), at(300), at(9_999)],
            [None, Some(1), Some(1), Some(2), Some(2), Some(1), Some(1)]
        );
    }
}

#[test]
fn valid_times_increase_although_the_clock_stands_still_or_goes_back() {
    for fixture in implementations() {
        fixture.register("fraud", "one");
        fixture.register("fraud", "two");
        for (version, step) in [(1, 0), (2, 0), (1, -50)] {
            fixture.clock.advance(step);
            fixture.registry.promote("fraud", version, "production").unwrap();
        }
        let history = fixture.registry.history("fraud", "production").unwrap();
        let times: Vec<(i64, i64)> =
            history.iter().map(|change| (change.from_micros - START, change.system_micros - START)).collect();
        assert_eq!(times, [(0, 0), (1, 0), (2, -50)]);
    }
}

#[test]
fn aliases_move_independently() {
    for fixture in implementations() {
        fixture.register("fraud", "one");
        fixture.register("fraud", "two");
        fixture.registry.promote("fraud", 1, "production").unwrap();
        fixture.registry.promote("fraud", 2, "staging").unwrap();
        fixture.registry.promote("fraud", 1, "staging").unwrap();
        fixture.registry.rollback("fraud", "staging").unwrap();
        assert_eq!((fixture.alias("fraud", "production"), fixture.alias("fraud", "staging")), (Some(1), Some(2)));
    }
}

/// Two writers and a reader: what the reader sees is always one version.
#[test]
fn there_is_exactly_one_production_version_while_two_promote_at_once() {
    for fixture in implementations() {
        for content in ["one", "two", "three"] {
            fixture.register("fraud", content);
        }
        fixture.registry.promote("fraud", 3, "production").unwrap();
        // Two share a connection, the others have their own.
        let registries = [fixture.registry.clone(), fixture.registry.clone(), fixture.again(), fixture.again()];
        let barrier = Barrier::new(registries.len());
        std::thread::scope(|scope| {
            for (index, registry) in registries.iter().enumerate() {
                let (barrier, clock) = (&barrier, &fixture.clock);
                scope.spawn(move || {
                    barrier.wait();
                    for turn in 0..15_u64 {
                        match index {
                            3 => {
                                let details = registry.model("fraud").unwrap();
                                assert!((1..=3).contains(&details.aliases["production"]));
                                registry.history("fraud", "production").unwrap();
                            }
                            2 if turn % 3 == 2 => drop(registry.rollback("fraud", "production")),
                            _ => drop(registry.promote("fraud", 1 + (turn + index as u64) % 3, "production").unwrap()),
                        }
                        clock.advance(1);
                    }
                });
            }
        });
        let history = fixture.registry.history("fraud", "production").unwrap();
        assert!(history.windows(2).all(|pair| pair[0].to_micros == Some(pair[1].from_micros)));
        assert!(history.iter().all(|change| change.to_micros.is_none_or(|to| change.from_micros < to)));
        assert_eq!(history.last().map(|change| (change.version, change.to_micros)), {
            fixture.alias("fraud", "production").map(|version| (version, None))
        });
        let log: Vec<LogEntry> = history
            .iter()
            .map(|change| LogEntry {
                version: change.version,
                valid_from: change.from_micros,
                system_time: change.system_micros,
                action: change.by,
            })
            .collect();
        assert_eq!(alias_log::violation(&log, fixture.alias("fraud", "production")), None);
    }
}

#[test]
fn registrations_at_once_get_different_versions() {
    for fixture in implementations() {
        let registries = [fixture.registry.clone(), fixture.again(), fixture.again()];
        let versions: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = registries
                .iter()
                .map(|registry| {
                    scope.spawn(move || {
                        let register = |content| registry.register(Registration::new("fraud", artifact(content)));
                        ["same", "same", "same"].map(|content| register(content).unwrap().version)
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(BTreeSet::from_iter(versions), BTreeSet::from_iter(1..=9));
        assert_eq!(registry_files(&fixture.root()), [artifact("same").sha256()]);
        let resolved = fixture.registry.resolve("fraud", &Selector::Version(9)).unwrap();
        assert!(fixture.registry.load_artifact(&resolved).is_ok());
    }
}

// The alias log.

#[test]
fn any_sequence_of_moves_keeps_the_log_sound() {
    // A small linear congruential generator: every sequence is reproducible.
    for seed in 0..200_u64 {
        let mut state = seed;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let mut log: Vec<LogEntry> = Vec::new();
        for _ in 0..40 {
            let now = next(20) as i64;
            let entry = match next(3) {
                0 => match alias_log::rollback_target(&log) {
                    Some(target) => {
                        let entry = alias_log::plan_move(&log, target, now, AliasAction::Rollback);
                        assert!(entry.is_some(), "seed {seed}: a rollback always moves: {log:?}");
                        entry
                    }
                    None => None,
                },
                _ => alias_log::plan_move(&log, 1 + next(4), now, AliasAction::Promote),
            };
            log.extend(entry);
            let current = log.last().map(|last| last.version);
            assert_eq!(alias_log::violation(&log, current), None, "seed {seed}: {log:?}");
        }
    }
}

#[test]
fn a_broken_log_is_noticed() {
    let entry = |version, valid_from, action| LogEntry { version, valid_from, system_time: 0, action };
    let promote = AliasAction::Promote;
    let sound = [entry(1, 1, promote), entry(2, 2, promote), entry(1, 3, AliasAction::Rollback)];
    assert_eq!(alias_log::violation(&sound, Some(1)), None);
    assert!(alias_log::violation(&sound, Some(2)).is_some());
    assert!(alias_log::violation(&[], Some(2)).is_some());
    assert!(alias_log::violation(&[entry(1, 1, promote), entry(2, 1, promote)], Some(2)).is_some());
    assert!(alias_log::violation(&[entry(1, 1, promote), entry(1, 2, promote)], Some(1)).is_some());
    assert!(alias_log::violation(&[entry(1, 1, promote), entry(7, 2, AliasAction::Rollback)], Some(7)).is_some());
    assert!(alias_log::violation(&[entry(1, 1, AliasAction::Rollback)], Some(1)).is_some());
}

// The embedded registry: files, crashes and foreign hands.

fn registry_files(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root.join("artifacts"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn equal_artifacts_are_stored_once_and_nothing_is_left_beside() {
    let fixture = embedded();
    fixture.register("fraud", "one");
    fixture.register("fraud", "one");
    fixture.register("other", "one");
    assert_eq!(registry_files(&fixture.root()), [artifact("one").sha256()]);
}

#[test]
fn a_damaged_file_is_named_and_registering_again_repairs_it() {
    for (message, content) in [
        ("is not the file that was registered", Some("onE")),
        ("is shorter than the 3 bytes registered", Some("on")),
        ("is longer than the 3 bytes registered", Some("onee")),
        ("is missing", None),
    ] {
        let fixture = embedded();
        fixture.register("fraud", "one");
        let resolved = fixture.registry.resolve("fraud", &Selector::Version(1)).unwrap();
        let file = resolved.artifact_path.join("data/model.json");
        match content {
            Some(content) => fs::write(file, content).unwrap(),
            None => fs::remove_file(file).unwrap(),
        }
        let error = fixture.registry.load_artifact(&resolved).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("version 1 of model `fraud`") && text.contains("data/model.json"), "{text}");
        refused(Err::<(), _>(error), ErrorKind::Data, message, "register the same model again");

        fixture.register("fraud", "one");
        let loaded = fixture.registry.load_artifact(&resolved).unwrap();
        assert_eq!(loaded.files(), artifact("one").files());
    }
}

#[test]
fn a_foreign_file_beside_the_registered_ones_is_not_loaded() {
    let fixture = embedded();
    fixture.register("fraud", "one");
    let resolved = fixture.registry.resolve("fraud", &Selector::Version(1)).unwrap();
    fs::write(resolved.artifact_path.join("evil.json"), "x").unwrap();
    assert_eq!(fixture.registry.load_artifact(&resolved).unwrap().files().len(), 2);
}

#[test]
fn an_artifact_without_a_row_is_harmless() {
    let fixture = embedded();
    let root = fixture.root();
    // A crash between the files and the row, and one while the files were written.
    let one = artifact("one");
    let folder = artifacts::ArtifactFolder::new(root.join("artifacts"));
    folder.store(&one.sha256(), &one, &artifacts::describe(&one).unwrap()).unwrap();
    fs::create_dir(root.join("artifacts/.new-0")).unwrap();
    fs::write(root.join("artifacts/.new-0/model.json"), "hal").unwrap();

    assert_eq!(fixture.again().models().unwrap(), []);
    assert_eq!(fixture.register("fraud", "one"), 1);
    let resolved = fixture.registry.resolve("fraud", &Selector::Version(1)).unwrap();
    assert!(fixture.registry.load_artifact(&resolved).is_ok());
}

#[test]
fn a_half_written_artifact_in_the_final_place_is_replaced() {
    let fixture = embedded();
    let place = fixture.root().join("artifacts").join(artifact("one").sha256());
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("MLmodel"), "fla").unwrap();
    fixture.register("fraud", "one");
    let resolved = fixture.registry.resolve("fraud", &Selector::Version(1)).unwrap();
    assert!(fixture.registry.load_artifact(&resolved).is_ok());
}

#[test]
fn a_registration_whose_files_cannot_be_written_leaves_no_row() {
    let fixture = embedded();
    fs::write(fixture.root().join("artifacts"), "a file in the way").unwrap();
    let new = Registration::new("fraud", artifact("one"));
    refused(fixture.registry.register(new), ErrorKind::Invalid, "artifacts` cannot be written", "a file in the place");
    assert_eq!(fixture.registry.models().unwrap(), []);
}

#[test]
fn a_registration_that_fails_in_the_database_leaves_no_row_at_all() {
    let fixture = embedded();
    fixture
        .database()
        .execute_batch(
            "CREATE TRIGGER fail BEFORE INSERT ON registered_model_aliases BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        .unwrap();
    let mut new = Registration::new("fraud", artifact("one"));
    new.metrics.insert("auc".to_owned(), 0.5);
    new.alias = Some("production".to_owned());
    refused(fixture.registry.register(new), ErrorKind::Internal, "failed", "");
    for table in ["experiments", "runs", "metrics", "artifacts", "logged_models", "registered_models", "alias_log"] {
        let rows: i64 =
            fixture.database().query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[test]
fn the_alias_log_and_the_versions_cannot_be_rewritten() {
    let fixture = embedded();
    fixture.register("fraud", "one");
    fixture.registry.promote("fraud", 1, "production").unwrap();
    for statement in [
        "UPDATE alias_log SET version = 2",
        "DELETE FROM alias_log",
        "UPDATE model_versions SET version = 2",
        "UPDATE logged_models SET artifact_sha256 = 'x'",
    ] {
        assert!(fixture.database().execute(statement, []).is_err(), "{statement}");
    }
}

#[test]
fn the_database_has_the_durability_that_is_promised() {
    let fixture = embedded();
    fixture.register("fraud", "one");
    let mode: String = fixture.database().query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    assert_eq!(fs::read_dir(fixture.root()).unwrap().count(), 2, "registry.db and artifacts");
    let broken: i64 =
        fixture.database().query_row("SELECT COUNT(*) FROM pragma_foreign_key_check", [], |row| row.get(0)).unwrap();
    assert_eq!(broken, 0);
}

#[test]
fn a_locked_registry_is_told_after_the_busy_timeout() {
    let fixture = embedded();
    let options = RegistryOptions { create: false, busy_timeout: Duration::from_millis(20) };
    let impatient = EmbeddedRegistry::open_with(&fixture.root(), fixture.clock.clone(), options).unwrap();
    let other = fixture.database();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let new = Registration::new("fraud", artifact("one"));
    let error = impatient.register(new).unwrap_err();
    assert!(error.retryable());
    refused(Err::<(), _>(error), ErrorKind::Unavailable, "is locked by another process", "try again");
    refused(impatient.models(), ErrorKind::Unavailable, "is locked", "try again");
    let opened = EmbeddedRegistry::open_with(&fixture.root(), fixture.clock.clone(), options);
    refused(opened, ErrorKind::Unavailable, "is locked", "try again");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(impatient.models().unwrap(), []);
    assert_eq!(impatient.register(Registration::new("fraud", artifact("one"))).unwrap().version, 1);
}

fn reopen(fixture: &Fixture) -> Result<Vec<ModelSummary>> {
    EmbeddedRegistry::open(&fixture.root(), fixture.clock.clone())?.models()
}

#[test]
fn a_truncated_or_foreign_database_is_told_apart_from_a_new_one() {
    let damaged = |damage: &dyn Fn(&Path)| {
        let mut fixture = embedded();
        fixture.register("fraud", "one");
        // Closes the database before it is damaged.
        fixture.registry = embedded().registry;
        damage(&fixture.root().join("registry.db"));
        reopen(&fixture)
    };
    let cut = |length: u64| {
        move |path: &Path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap()
    };
    refused(damaged(&cut(0)), ErrorKind::Data, "is empty", "truncated");
    refused(damaged(&cut(50)), ErrorKind::Data, "is damaged", "backup");
    refused(damaged(&cut(4096)), ErrorKind::Data, "is damaged", "backup");
    refused(damaged(&cut(3 * 4096 + 17)), ErrorKind::Data, "is damaged", "backup");
    refused(damaged(&|path| fs::write(path, "not a database".repeat(500)).unwrap()), ErrorKind::Data, "is damaged", "");
    let foreign = |path: &Path| {
        fs::remove_file(path).unwrap();
        Connection::open(path).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    };
    refused(damaged(&foreign), ErrorKind::Data, "not a model registry", "[registry] path");
    let folder = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    };
    refused(damaged(&folder), ErrorKind::Invalid, "is not a file", "");
}

#[test]
fn an_empty_database_without_artifacts_is_a_crash_of_the_first_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("registry.db"), "").unwrap();
    let clock = Arc::new(ManualClock::new(START));
    refused(EmbeddedRegistry::open_existing(dir.path(), clock.clone()), ErrorKind::Data, "is empty", "");
    assert_eq!(EmbeddedRegistry::open(dir.path(), clock).unwrap().models().unwrap(), []);
}

#[test]
fn a_registry_that_must_exist_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(START));
    let missing = EmbeddedRegistry::open_existing(&dir.path().join("registry"), clock);
    refused(missing, ErrorKind::NotFound, "there is no model registry in", "`insightera model register`");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_registry_cannot_be_made_in_the_place_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let clock = Arc::new(ManualClock::new(START));
    let opened = EmbeddedRegistry::open(&dir.path().join("file/registry"), clock);
    assert!(matches!(opened.unwrap_err().kind(), ErrorKind::Invalid | ErrorKind::Unavailable));
}

#[test]
fn a_registry_of_a_newer_version_is_refused() {
    let fixture = embedded();
    fixture.database().execute("INSERT INTO schema_migrations VALUES (99, 'future', 0)", []).unwrap();
    refused(reopen(&fixture), ErrorKind::Invalid, "has schema 99, this version of insightera knows up to 1", "newer");
}

#[test]
fn opening_at_once_migrates_once() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(START));
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                barrier.wait();
                EmbeddedRegistry::open(&dir.path().join("a/b"), clock.clone()).unwrap().models().unwrap();
            });
        }
    });
    let database = Connection::open(dir.path().join("a/b/registry.db")).unwrap();
    let applied: i64 = database.query_row("SELECT COUNT(*) FROM schema_migrations", [], |row| row.get(0)).unwrap();
    assert_eq!(applied, 1);
}

#[test]
fn the_meaning_of_database_errors_is_told() {
    let explained = |code| {
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        let error = database::explain(Path::new("r.db"), database::Failure::Sqlite(error));
        (error.kind(), error.to_string())
    };
    use rusqlite::ffi;
    for (code, kind, message) in [
        (ffi::SQLITE_BUSY, ErrorKind::Unavailable, "the model registry `r.db` is locked by another process"),
        (ffi::SQLITE_READONLY, ErrorKind::Invalid, "the model registry `r.db` cannot be written"),
        (ffi::SQLITE_READONLY_DIRECTORY, ErrorKind::Invalid, "the model registry `r.db` cannot be written"),
        (ffi::SQLITE_FULL, ErrorKind::Unavailable, "the model registry `r.db` cannot grow: the disk is full"),
        (ffi::SQLITE_CORRUPT, ErrorKind::Data, "the model registry `r.db` is damaged"),
        (ffi::SQLITE_IOERR, ErrorKind::Unavailable, "the model registry `r.db` cannot be read or written"),
        (ffi::SQLITE_MISUSE, ErrorKind::Internal, "the model registry `r.db` failed"),
    ] {
        assert_eq!(explained(code), (kind, message.to_owned()));
    }
}
