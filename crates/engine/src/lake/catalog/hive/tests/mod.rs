mod fake;

use std::collections::HashMap;
use std::time::Duration;

use arrow::datatypes::DataType;
use iceberg::TableUpdate;
use iceberg::spec::{NestedField, PrimitiveType};
use insightera_core::{ErrorKind, SystemClock};

use self::fake::{Fake, Fault, database};
use super::*;
use crate::config::StoreSettings;
use crate::lake::schema::Column;
use crate::lake::storage::Storage;
use crate::lake::{Lake, NewTable, commit};

const ALTER: &str = "alter_table_with_environment_context";

struct World {
    fake: Fake,
    lake: Lake,
    _folder: tempfile::TempDir,
}

fn settings(servers: &[&str]) -> HiveSettings {
    let servers = servers.iter().map(|server| (*server).to_owned()).collect();
    HiveSettings { servers, warehouse: None, user: None, lock: true }
}

fn world_with(settings: impl FnOnce(&str) -> HiveSettings) -> World {
    let (fake, folder) = (Fake::start(), tempfile::tempdir().unwrap());
    let settings = settings(&fake.server);
    let client = Client::new(settings.servers.clone(), settings.user.clone()).with_timeout(Duration::from_secs(1));
    let warehouse = format!("file://{}", folder.path().display());
    let catalog = Arc::new(HiveCatalog::with_client(client, &settings, &warehouse));
    let lake = Lake::new(catalog, Storage::new(StoreSettings::default()), warehouse, Arc::new(SystemClock::new()));
    World { fake, lake, _folder: folder }
}

fn world() -> World {
    world_with(|server| settings(&[server]))
}

fn name(table: &str) -> TableName {
    TableName { namespace: "ns".into(), name: table.into() }
}

fn make(lake: &Lake, table: &str) -> Table {
    let (partition_by, properties) = Default::default();
    let columns = vec![Column::required("nim", DataType::Utf8), Column::nullable("x", DataType::Float64)];
    lake.create_table(&NewTable { name: name(table), columns, partition_by, properties, location: None }).unwrap()
}

fn set(key: &str, value: &str) -> Vec<TableUpdate> {
    vec![TableUpdate::SetProperties { updates: HashMap::from([(key.to_owned(), value.to_owned())]) }]
}

fn put(lake: &Lake, key: &str) -> Result<Table> {
    commit::alter(lake, &name("a"), |base| {
        Ok(if base.metadata().properties().contains_key(key) { Vec::new() } else { set(key, "1") })
    })
}

fn property(lake: &Lake, key: &str) -> Option<String> {
    lake.table(&name("a")).unwrap().metadata().properties().get(key).cloned()
}

#[test]
fn an_entry_is_as_other_engines_expect_it_and_keeps_what_they_put_there() {
    let World { fake, lake, _folder } = world();
    let table = make(&lake, "a");
    let entry = fake.table("ns", "a");
    let parameters = entry.texts_by_text(9);
    assert_eq!(parameters["table_type"], "ICEBERG");
    assert_eq!(parameters["EXTERNAL"], "TRUE");
    assert_eq!(parameters["metadata_location"], table.metadata_location());
    assert_eq!(parameters["uuid"], table.metadata().uuid().to_string());
    assert_eq!(parameters["write.parquet.compression-codec"], "snappy");
    assert!(!parameters.contains_key("previous_metadata_location"));
    assert_eq!(entry.text(12), Some("EXTERNAL_TABLE"));
    let descriptor = entry.record(7).unwrap();
    assert_eq!(descriptor.text(2), Some(table.metadata().location()));
    assert_eq!(descriptor.text(3), Some("org.apache.hadoop.mapred.FileInputFormat"));
    let Value::Record(column) = &descriptor.get(1).and_then(Value::as_list).unwrap()[1] else { panic!() };
    assert_eq!((column.text(1), column.text(2)), (Some("x"), Some("double")));

    // Somebody else's parameter, and a field that this build does not know.
    let mut other = entry.clone();
    let mut with = parameters.clone();
    with.insert("comment".into(), "ours".into());
    other.set(9, Value::texts_by_text(with));
    other.set(99, Value::Long(7));
    fake.state.lock().unwrap().tables.insert(("ns".into(), "a".into()), other);
    put(&lake, "one").unwrap();
    let now =
        commit::alter(&lake, &name("a"), |_| Ok(vec![TableUpdate::RemoveProperties { removals: vec!["one".into()] }]));
    let entry = fake.table("ns", "a");
    let parameters = entry.texts_by_text(9);
    assert_eq!(parameters["comment"], "ours");
    assert_eq!(entry.get(99), Some(&Value::Long(7)));
    assert_eq!(parameters["metadata_location"], now.unwrap().metadata_location());
    assert!(parameters["previous_metadata_location"].contains("/00001-"));
    assert!(!parameters.contains_key("one"));

    // Names.
    let other = make(&lake, "b");
    let catalog = lake.catalog();
    assert!(matches!(catalog.rename(&name("a"), &name("b")), Swap::Conflict));
    assert!(matches!(catalog.rename(&name("a"), &name("c")), Swap::Done(_)));
    assert_eq!(catalog.tables().unwrap(), [name("b"), name("c")]);
    assert_eq!(lake.table(&name("b")).unwrap().metadata().uuid(), other.metadata().uuid());
    assert!(catalog.drop_table(&name("c")).unwrap());
    assert!(!catalog.drop_table(&name("c")).unwrap());
    assert_eq!(fake.locks(), 0);
}

#[test]
fn servers_before_hive_3_have_other_methods() {
    let World { fake, lake, _folder } = world();
    fake.state.lock().unwrap().missing.extend(["get_table_req", "get_table_objects_by_name_req"]);
    make(&lake, "a");
    put(&lake, "one").unwrap();
    assert_eq!(lake.catalog().tables().unwrap(), [name("a")]);
    assert!(fake.count("get_table") > 0);
}

#[test]
fn an_answer_that_is_lost_after_the_entry_was_changed_is_found_out_by_reading() {
    let World { fake, lake, _folder } = world();
    make(&lake, "a");
    fake.fail(ALTER, Fault::LostAfter);
    put(&lake, "one").unwrap();
    assert_eq!((fake.count(ALTER), fake.locks()), (1, 0));
    assert_eq!(property(&lake, "one").as_deref(), Some("1"));
    // And where somebody has written on top of it meanwhile.
    let base = lake.table(&name("a")).unwrap();
    assert_eq!(base.metadata().metadata_log().len(), 1);
}

#[test]
fn a_change_that_was_lost_on_its_way_is_unknown_and_made_again_after_reading() {
    let World { fake, lake, _folder } = world();
    let base = make(&lake, "a");
    fake.fail(ALTER, Fault::LostBefore);
    let next = Next { updates: &[], metadata: base.metadata(), location: "file:///elsewhere" };
    let told = lake.catalog().swap(&base, next);
    assert!(matches!(told, Swap::Unknown(_)), "{told:?}");
    assert_eq!((fake.count(ALTER), fake.locks()), (1, 0));
    fake.fail(ALTER, Fault::LostBefore);
    let before = fake.count("get_table_req");
    put(&lake, "one").unwrap();
    assert_eq!((fake.count(ALTER), fake.locks()), (3, 0));
    assert!(fake.count("get_table_req") > before + 3);
    assert_eq!(property(&lake, "one").as_deref(), Some("1"));
    // The same of a new table.
    fake.fail("create_table", Fault::LostAfter);
    let made = make(&lake, "b");
    assert_eq!(lake.table(&name("b")).unwrap().metadata().uuid(), made.metadata().uuid());
    fake.fail("drop_table", Fault::LostAfter);
    assert!(lake.catalog().drop_table(&name("b")).unwrap());
}

#[test]
fn who_writes_without_the_lock_is_noticed_by_a_server_that_compares() {
    let World { fake, lake, _folder } = world();
    make(&lake, "a");
    fake.fail(ALTER, Fault::Overtaken);
    put(&lake, "one").unwrap();
    assert_eq!(fake.count(ALTER), 2);
    let now = lake.table(&name("a")).unwrap();
    // The commit stands on what came in between.
    let log = now.metadata().metadata_log();
    assert!(log.last().unwrap().metadata_file.contains("-other."), "{log:?}");
    assert_eq!(fake.locks(), 0);
}

#[test]
fn a_database_that_cannot_compare_is_trusted_under_the_lock_alone() {
    for lock in [true, false] {
        let World { fake, lake, _folder } = world_with(|server| HiveSettings { lock, ..settings(&[server]) });
        fake.state.lock().unwrap().derby = true;
        make(&lake, "a");
        if lock {
            put(&lake, "one").unwrap();
            put(&lake, "two").unwrap();
            // It is asked once.
            assert_eq!(fake.count(ALTER), 3);
        } else {
            let error = put(&lake, "one").unwrap_err();
            assert!(error.get_hint().unwrap().contains("lock = false"), "{error}");
            assert_eq!(property(&lake, "one"), None);
        }
        assert_eq!(fake.locks(), 0);
    }
}

#[test]
fn a_swap_from_a_base_that_has_moved_or_is_gone_is_a_conflict_and_unlocks() {
    let World { fake, lake, _folder } = world();
    let first = make(&lake, "a");
    put(&lake, "one").unwrap();
    let next = || Next { updates: &[], metadata: first.metadata(), location: first.metadata_location() };
    assert!(matches!(lake.catalog().swap(&first, next()), Swap::Conflict));
    assert!(lake.catalog().drop_table(&name("a")).unwrap());
    assert!(matches!(lake.catalog().swap(&first, next()), Swap::Conflict));
    assert!(matches!(lake.catalog().rename(&name("a"), &name("d")), Swap::Conflict));
    assert_eq!((fake.count(ALTER), fake.locks()), (1, 0));
}

#[test]
fn a_lock_is_waited_for_and_one_whose_number_was_lost_is_given_back() {
    let World { fake, lake, _folder } = world();
    make(&lake, "a");
    {
        let mut state = fake.state.lock().unwrap();
        state.locks.insert(-1, ("ns".into(), "a".into()));
        state.agents.insert(-1, "somebody".into());
    }
    let shared = fake.clone();
    let other = std::thread::spawn(move || {
        while shared.count("check_lock") < 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(shared.count(ALTER), 0);
        shared.state.lock().unwrap().locks.remove(&-1);
    });
    put(&lake, "one").unwrap();
    other.join().unwrap();
    fake.fail("lock", Fault::LostAfter);
    put(&lake, "two").unwrap();
    assert_eq!((fake.count("show_locks"), fake.locks()), (1, 0));
    // Without a lock where the settings or the table say so.
    let before = fake.count("lock");
    commit::alter(&lake, &name("a"), |_| Ok(set(LOCK_PROPERTY, "false"))).unwrap();
    put(&lake, "three").unwrap();
    assert_eq!(fake.count("lock"), before + 1);
}

#[test]
fn writers_at_once_lose_nothing_with_the_lock_alone_or_the_comparison_alone() {
    for lock in [true, false] {
        let World { fake, lake, _folder } = world_with(|server| HiveSettings { lock, ..settings(&[server]) });
        fake.state.lock().unwrap().compares = !lock;
        make(&lake, "a");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let lake = &lake;
                scope.spawn(move || (0..5).for_each(|n| drop(put(lake, &format!("w{writer}-{n}")).unwrap())));
            }
        });
        let table = lake.table(&name("a")).unwrap();
        let kept = table.metadata().properties().keys().filter(|key| key.starts_with('w') && key.contains('-'));
        assert_eq!(kept.filter(|key| !key.starts_with("write")).count(), 20);
        assert_eq!(fake.locks(), 0);
    }
}

#[test]
fn a_hostile_answer_is_an_error_that_names_the_server() {
    let World { fake, lake, _folder } = world();
    make(&lake, "a");
    for (answer, told) in [
        (Fault::Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "begins no message"),
        (Fault::Garbage(b"\x80\x01\x00\x02\x7f\xff\xff\xff"), "longer than 256"),
        (Fault::Garbage(b"\x80\x01\x00\x02\x00\x00\x00\x01x\x00\x00\x00\x63\x00"), "another call"),
        (Fault::LostBefore, "ended before the answer"),
        (Fault::Silence, "no answer within 1 s"),
    ] {
        // More often than a read is tried.
        (0..9).for_each(|_| fake.fail("get_table_req", answer));
        let error = lake.find(&name("a")).unwrap_err();
        fake.state.lock().unwrap().faults.clear();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.to_string();
        assert!(text.contains(told) && text.contains(&fake.server), "{text}");
    }
    // The next question is asked on a connection that is in step.
    assert!(lake.find(&name("a")).unwrap().is_some());
}

#[test]
fn the_next_server_is_asked_where_one_is_away() {
    // A port that was free a moment ago.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let World { lake, _folder, .. } = world_with(|server| settings(&[gone.as_str(), server]));
    make(&lake, "a");
    let error = HiveCatalog::open(&settings(&[gone.as_str()]), "file:///w").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&gone), "{error}");
}

#[test]
fn what_is_not_ours_is_refused() {
    let World { fake, lake, _folder } =
        world_with(|server| HiveSettings { user: Some("me".into()), ..settings(&[server]) });
    make(&lake, "a");
    assert!(fake.count("set_ugi") > 0);
    assert_eq!(fake.table("ns", "a").text(3), Some("me"));
    // A table of Hive.
    let hive = Record::new([(1, Value::text("h")), (2, Value::text("ns"))]);
    fake.state.lock().unwrap().tables.insert(("ns".into(), "h".into()), hive);
    let error = lake.find(&name("h")).unwrap_err();
    assert!(error.to_string().contains("no table of Iceberg: it has no `table_type`"), "{error}");
    assert!(lake.catalog().drop_table(&name("h")).is_err());
    assert_eq!(lake.catalog().tables().unwrap(), [name("a")]);
    // A newer format, and none yet.
    let mut state = fake.state.lock().unwrap();
    state.databases.insert("later".into(), database("later", FORMAT_PROPERTY, "2"));
    state.databases.insert("foreign".into(), database("foreign", "theirs", "kept"));
    drop(state);
    let later = TableName { namespace: "later".into(), name: "t".into() };
    for error in [lake.find(&later).unwrap_err(), lake.catalog().ensure_namespace("later").unwrap_err()] {
        assert!(error.to_string().contains("warehouse format `2`"), "{error}");
    }
    lake.catalog().ensure_namespace("foreign").unwrap();
    let parameters = fake.state.lock().unwrap().databases["foreign"].texts_by_text(DATABASE_PARAMETERS);
    assert_eq!((parameters["theirs"].as_str(), parameters[FORMAT_PROPERTY].as_str()), ("kept", "1"));
    // Names that would be others.
    let error = lake.catalog().ensure_namespace("Lab").unwrap_err();
    assert_eq!(error.get_hint(), Some("write `lab`"));
}

#[test]
fn types_have_the_names_of_hive() {
    let nested =
        |id, name: &str, of: PrimitiveType| NestedField::optional(id, name, iceberg::spec::Type::Primitive(of));
    let fields = [nested(1, "a", PrimitiveType::Timestamptz), nested(2, "b", PrimitiveType::Uuid)];
    let of = iceberg::spec::Type::Struct(iceberg::spec::StructType::new(fields.map(Into::into).to_vec()));
    let list = iceberg::spec::Type::List(iceberg::spec::ListType::new(NestedField::list_element(3, of, false).into()));
    let key = NestedField::map_key_element(4, iceberg::spec::Type::Primitive(PrimitiveType::Int));
    let map = iceberg::spec::MapType::new(key.into(), NestedField::map_value_element(5, list, false).into());
    assert_eq!(
        entry::hive_type(&iceberg::spec::Type::Map(map)),
        "map<int,array<struct<a:timestamp with local time zone,b:string>>>"
    );
    let decimal = iceberg::spec::Type::Primitive(PrimitiveType::Decimal { precision: 12, scale: 3 });
    assert_eq!(entry::hive_type(&decimal), "decimal(12,3)");
}
