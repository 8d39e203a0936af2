//! What every catalog must do. SQLite is asked always; others that are named in
//! `INSIGHTERA_TEST_PROJECTS`, a list of project folders with a colon between.

use std::collections::HashMap;

use arrow::datatypes::DataType;
use iceberg::TableUpdate;
use insightera_engine::Workspace;
use insightera_engine::config::Overrides;
use insightera_engine::lake::catalog::{FORMAT_PROPERTY, Next, Swap};
use insightera_engine::lake::schema::Column;
use insightera_engine::lake::{Lake, NewTable, Table, TableName, commit};

use crate::project::{PIPELINE, TestProject};

fn new(name: &TableName) -> NewTable {
    let (partition_by, properties) = Default::default();
    let columns = vec![Column::required("nim", DataType::Utf8), Column::nullable("x", DataType::Float64)];
    NewTable { name: name.clone(), columns, partition_by, properties, location: None }
}

fn set(key: &str, value: &str) -> Vec<TableUpdate> {
    vec![TableUpdate::SetProperties { updates: HashMap::from([(key.to_owned(), value.to_owned())]) }]
}

fn conforms(lake: &Lake) {
    let catalog = lake.catalog();
    // A server that writes the metadata may call one state by several locations.
    let same = |one: &Table, other: &Table| {
        let state = |table: &Table| (table.metadata().properties().clone(), table.schema().clone());
        assert_eq!(state(one), state(other));
        if !catalog.writes_metadata() {
            assert_eq!(one.metadata_location(), other.metadata_location());
        }
    };
    let namespace = format!("suite{}", uuid::Uuid::new_v4().simple());
    let name = |table: &str| TableName { namespace: namespace.clone(), name: table.to_owned() };
    assert!(!catalog.has_namespace(&namespace).unwrap());
    assert!(catalog.load(&name("a")).unwrap().is_none());
    for _ in 0..2 {
        catalog.ensure_namespace(&namespace).unwrap();
    }
    assert!(catalog.has_namespace(&namespace).unwrap());
    assert!(catalog.namespaces().unwrap().contains_key(&namespace));

    // A table is made once.
    let first = lake.create_table(&new(&name("a"))).unwrap();
    let again = commit::create(lake, &first).unwrap();
    assert_eq!(again.metadata().uuid(), first.metadata().uuid());
    assert_eq!(catalog.tables().unwrap().into_iter().filter(|t| t.namespace == namespace).count(), 1);

    // What is there is what was written.
    let changed = commit::alter(lake, &name("a"), |_| Ok(set("judge", "one"))).unwrap();
    let found = lake.table(&name("a")).unwrap();
    same(&found, &changed);
    assert_eq!(found.metadata().properties().get("judge").map(String::as_str), Some("one"));

    // A swap from a base that has moved does nothing.
    let wider = |base: &Table| {
        let mut fields = base.schema().as_struct().fields().to_vec();
        let id = base.metadata().last_column_id() + 1;
        let long = iceberg::spec::Type::Primitive(iceberg::spec::PrimitiveType::Long);
        fields.push(iceberg::spec::NestedField::optional(id, format!("c{id}"), long).into());
        let schema = iceberg::spec::Schema::builder().with_fields(fields).build().unwrap();
        Ok(vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }])
    };
    let moved = commit::alter(lake, &name("a"), wider).unwrap();
    let updates = set("judge", "late");
    let location = if catalog.writes_metadata() { "" } else { found.metadata_location() };
    let next = Next { updates: &updates, metadata: found.metadata(), location };
    assert!(matches!(catalog.swap(&found, next), Swap::Conflict));
    same(&lake.table(&name("a")).unwrap(), &moved);

    // Names.
    let other = lake.create_table(&new(&name("b"))).unwrap();
    assert!(matches!(catalog.rename(&name("a"), &name("b")), Swap::Conflict));
    assert!(matches!(catalog.rename(&name("a"), &name("c")), Swap::Done(_)));
    assert!(lake.find(&name("a")).unwrap().is_none());
    assert_eq!(lake.table(&name("c")).unwrap().metadata().uuid(), first.metadata().uuid());
    assert_eq!(lake.table(&name("b")).unwrap().metadata().uuid(), other.metadata().uuid());
    assert!(matches!(catalog.rename(&name("a"), &name("d")), Swap::Conflict));
    for table in ["b", "c"] {
        assert!(catalog.drop_table(&name(table)).unwrap());
        assert!(!catalog.drop_table(&name(table)).unwrap());
    }
    assert!(catalog.tables().unwrap().iter().all(|t| t.namespace != namespace));
    // Somebody else swaps a table that is gone.
    let next = Next { updates: &updates, metadata: moved.metadata(), location };
    assert!(matches!(catalog.swap(&moved, next), Swap::Conflict));
}

#[test]
fn every_catalog_keeps_the_same_promises() {
    let project = TestProject::new(PIPELINE);
    conforms(project.workspace.lake());
    let others = std::env::var("INSIGHTERA_TEST_PROJECTS").unwrap_or_default();
    for folder in others.split(':').filter(|folder| !folder.is_empty()) {
        let workspace = Workspace::open(folder.as_ref(), Overrides::default(), project.clock.clone()).unwrap();
        conforms(workspace.lake());
    }
}

#[test]
fn a_namespace_of_a_newer_format_is_refused() {
    let project = TestProject::new(PIPELINE);
    project.workspace.lake().catalog().ensure_namespace("later").unwrap();
    let database = rusqlite::Connection::open(project.folder.join("warehouse/catalog.db")).unwrap();
    let sql = "UPDATE iceberg_namespace_properties SET property_value = '2' WHERE property_key = ?1";
    assert!(database.execute(sql, [FORMAT_PROPERTY]).unwrap() > 0);
    let error = Workspace::open(&project.folder, Overrides::default(), project.clock.clone()).unwrap_err();
    assert!(error.to_string().contains("warehouse format `2`"), "{error}");
}
