//! The right to be forgotten: one entity leaves a project.
//!
//! An *order* names an entity and a reason. Carrying it out is, in this order:
//! a record in the [`ledger`] with keyed hashes of the key, from which moment no
//! run or stream that starts scores the entity; then table by table the erasure
//! of its rows from all of the history ([`crate::lake::erase`]), which also
//! marks the table so that a writer which started before the record cannot
//! commit any more; then the files that nothing needs and the caches; then the
//! proof. Tables that pipelines do not write, the features, are the user's own:
//! they are named, and touched only if the order names them.
//!
//! Each step may be done again: after an accident the same command goes on from
//! the record.

mod ledger;
mod proof;
mod scope;
mod streams;

use std::collections::BTreeMap;
use std::fs::File;

use serde::Serialize;

pub use ledger::{ErasedEntities, KeyedHash, Ledger, Record, Suppressed, TableState};
pub use proof::{Proof, TableProof};
use scope::{InScope, Scope};
pub use scope::{parse_entity, pipelines};
use streams::Streams;

use crate::config::CatalogSettings;
use crate::lake::erase::{self as lake_erase, Entity, Erased, Erasure, Rule};
use crate::lake::storage;
use crate::lake::{TableName, durable, maintain};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Order {
    /// The entity.
    pub entity: Entity,
    /// Why: it is kept.
    pub reason: String,
    /// Tables that pipelines do not write and that are erased from as well.
    pub tables: Vec<TableName>,
}

/// What an order would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The key columns.
    pub columns: Vec<String>,
    /// The order's number in the ledger, if it was given before.
    pub number: Option<u64>,
    /// Whether it was carried out.
    pub completed: bool,
    /// What would be erased, by table; tables without the entity are left out.
    pub tables: Vec<Erased>,
    /// Pipelines that will not score the entity.
    pub pipelines: Vec<String>,
    /// Tables of the user that hold the entity, with the number of rows.
    pub kept: BTreeMap<String, u64>,
}

/// What an order did.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The order's number in the ledger.
    pub number: u64,
    /// The key columns.
    pub columns: Vec<String>,
    /// What was erased, by table; tables without the entity are left out.
    pub tables: Vec<Erased>,
    /// Pipelines that do not score the entity any more.
    pub pipelines: Vec<String>,
    /// Tables of the user that hold the entity, with the number of rows.
    pub kept: BTreeMap<String, u64>,
    /// The file of the proof.
    pub proof_file: String,
    /// What it says.
    pub proof: Proof,
}

impl Report {
    /// Whether everything is erased, and proven.
    pub fn is_complete(&self) -> bool {
        self.tables.iter().all(|table| table.left.is_empty()) && self.proof.ok
    }
}

/// Refuses a catalog through which no history can be replaced.
fn check_catalog(workspace: &Workspace) -> Result<()> {
    if !workspace.lake().catalog().writes_metadata() {
        return Ok(());
    }
    Err(Error::invalid(
        "the catalog is an Iceberg REST server: it writes the metadata of tables itself, and its protocol has no request that replaces what earlier snapshots are made of",
    )
    .hint("keep the tables of predictions in a catalog that moves pointers (SQLite, PostgreSQL, Hive); or delete the rows with SQL, rewrite the files and expire every snapshot before that. Nothing was changed"))
}

/// Refuses a store that keeps what is removed, as far as it tells.
fn check_store(workspace: &Workspace, scope: &Scope) -> Result<()> {
    for table in &scope.erased {
        let table = workspace.lake().table(&table.name)?;
        if table.storage().keeps_versions(table.metadata_location())? {
            return Err(Error::invalid(format!(
                "the bucket of table `{}` keeps versions of its objects: what is removed stays there as an earlier version",
                table.name()
            ))
            .hint("suspend the bucket's versioning, make a commit to each table, erase, and let a lifecycle rule remove noncurrent versions. Nothing was changed"));
        }
    }
    Ok(())
}

/// Says what an order would do; changes nothing.
///
/// # Errors
/// When a table cannot be read, or not be rewritten soundly.
pub fn plan(workspace: &Workspace, order: &Order) -> Result<Plan> {
    check_catalog(workspace)?;
    let scope = scope::scope(workspace, &order.entity, &order.tables)?;
    check_store(workspace, &scope)?;
    let ledger = Ledger::read(&workspace.project().dir)?;
    let record = match &ledger {
        None => None,
        Some(ledger) => of_entity(ledger, &order.entity)?.map(|at| &ledger.records[at]),
    };
    let mut tables = Vec::new();
    for table in &scope.erased {
        let found = lake_erase::survey(&workspace.lake().table(&table.name)?, &erasure(&order.entity, table, None))?;
        if found.data_files + found.delete_files > 0 {
            tables.push(found);
        }
    }
    Ok(Plan {
        columns: order.entity.columns.clone(),
        number: record.map(|record| record.number),
        completed: record.is_some_and(|record| record.completed_at.is_some()),
        tables,
        pipelines: pipelines(workspace, &order.entity),
        kept: kept(workspace, &order.entity, &scope)?,
    })
}

fn erasure<'a>(entity: &'a Entity, table: &InScope, number: Option<u64>) -> Erasure<'a> {
    Erasure { entity, rule: table.rule, number: number.filter(|_| table.ours), edit: None }
}

/// The user's tables that hold the entity.
fn kept(workspace: &Workspace, entity: &Entity, scope: &Scope) -> Result<BTreeMap<String, u64>> {
    let mut kept = BTreeMap::new();
    for name in &scope.kept {
        let table = workspace.lake().table(name)?;
        let erasure = Erasure { entity, rule: Rule::Key, number: None, edit: None };
        // A table that could not be rewritten is named all the same.
        match lake_erase::survey(&table, &erasure) {
            Ok(found) if found.rows == 0 => {}
            Ok(found) => drop(kept.insert(name.to_string(), found.rows)),
            Err(_) => drop(kept.insert(name.to_string(), 0)),
        }
    }
    Ok(kept)
}

/// Where the ledger has the entity.
fn of_entity(ledger: &Ledger, entity: &Entity) -> Result<Option<usize>> {
    let hashes = ledger.hashes(entity)?;
    Ok(ledger.records.iter().position(|record| record.columns == entity.columns && record.hashes == hashes))
}

/// Carries an order out, or goes on with it. `told` hears of
/// each table, and of what could not be looked at.
///
/// # Errors
/// `Conflict` when another order is being carried out, or others kept changing
/// a table; otherwise as [`plan`]. Given again, the order goes on.
pub async fn carry_out(workspace: &Workspace, order: &Order, told: &dyn Fn(&str)) -> Result<Report> {
    let entity = &order.entity;
    check_catalog(workspace)?;
    if lake_erase::Mentioned::new(entity).by(&[order.reason.as_bytes()]) {
        return Err(Error::invalid("the reason names the entity, and it would be kept")
            .hint("name the request instead, for example `--reason \"request 17 of 2026-03-02\"`"));
    }
    let project = workspace.project().dir.clone();
    // What cannot be done is refused before anything is.
    let scope = scope::scope(workspace, entity, &order.tables)?;
    check_store(workspace, &scope)?;
    for table in &scope.erased {
        lake_erase::survey(&workspace.lake().table(&table.name)?, &erasure(entity, table, None))?;
    }
    durable::create_dirs(&Ledger::folder(&project))?;
    let _lock = lock(workspace)?;
    let mut ledger = Ledger::open(&project)?;
    let at = recorded(workspace, &mut ledger, order)?;
    let number = ledger.records[at].number;
    let streams = Streams::read(workspace, entity, told).await?;
    if !storage::is_local(workspace.lake().warehouse()) {
        told(&format!(
            "copies that the store of `{}` keeps by itself, such as replicas, soft-deleted objects and uploads that were never finished, cannot be seen from here",
            workspace.lake().warehouse()
        ));
    }
    // A pipeline's first run makes its table and then looks at the ledger: the
    // tables are listed after the record.
    let scope = scope::scope(workspace, entity, &order.tables)?;
    let mut tables = Vec::new();
    for table in &scope.erased {
        told(&format!("erasing from {}", table.name));
        let done = erase_table(workspace, &mut ledger, at, (entity, &streams), table)?;
        if done.data_files + done.delete_files > 0 || done.removed_files > 0 || !done.left.is_empty() {
            tables.push(done);
        }
    }
    let pipelines = pipelines(workspace, entity);
    forget_caches(workspace, &pipelines)?;
    told("looking for what is left");
    let proof = prove(workspace, &ledger.records[at], entity, &scope, &pipelines);
    let name = format!("proof-{number:04}.json");
    let text = serde_json::to_vec_pretty(&proof).map_err(|e| Error::internal(format!("the proof: {e}")))?;
    let proof_file = ledger.write_proof(&name, &text)?.display().to_string();
    let report = Report {
        number,
        columns: entity.columns.clone(),
        tables,
        pipelines,
        kept: kept(workspace, entity, &scope)?,
        proof_file,
        proof,
    };
    ledger.records[at].proof = Some(name);
    if report.is_complete() {
        ledger.records[at].completed_at = Some(now(workspace));
    }
    ledger.write()?;
    Ok(report)
}

fn prove(workspace: &Workspace, record: &Record, entity: &Entity, scope: &Scope, pipelines: &[String]) -> Proof {
    let (project, lake) = (&workspace.project().dir, workspace.lake());
    let mut folders = vec![Ledger::folder(project).display().to_string()];
    for pipeline in pipelines {
        folders.push(storage::join(&storage::join(lake.warehouse(), "_streams"), pipeline));
        folders.push(crate::score::index_folder(workspace, pipeline).display().to_string());
    }
    let quarantine = storage::join(lake.warehouse(), maintain::orphans::QUARANTINE);
    folders.extend(
        scope
            .erased
            .iter()
            .map(|table| storage::join(&storage::join(&quarantine, &table.name.namespace), &table.name.name)),
    );
    let pointer = |namespace: &str, name: &str| match &workspace.project().settings.catalog {
        CatalogSettings::Sqlite { path, name: catalog } => proof::sqlite_pointer(path, catalog, namespace, name),
        _ => {
            let name = TableName { namespace: namespace.to_owned(), name: name.to_owned() };
            let found = lake.catalog().load(&name).map_err(|e| e.to_string())?;
            found.map(|loaded| loaded.location).ok_or_else(|| "the catalog has no such table".to_owned())
        }
    };
    let tables = scope
        .erased
        .iter()
        .map(|table| (table.name.namespace.clone(), table.name.name.clone(), table.rule == Rule::Key));
    let places =
        proof::Places { pointer: &pointer, storage: lake.storage(), project, tables: tables.collect(), folders };
    let key: Vec<(&str, &str)> =
        entity.columns.iter().map(String::as_str).zip(entity.values.iter().map(String::as_str)).collect();
    let hashes = record.hashes.iter().map(|hash| hash.hmac.clone()).collect();
    proof::prove(&places, &key, record.number, hashes, now(workspace))
}

fn now(workspace: &Workspace) -> String {
    chrono::DateTime::from_timestamp_micros(workspace.clock().now_micros())
        .map_or_else(String::new, |time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

/// One order at a time.
fn lock(workspace: &Workspace) -> Result<File> {
    let path = Ledger::folder(&workspace.project().dir).join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| durable::io_error("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Error::conflict("another entity is being erased in this project at the moment")
                .hint("wait until that command has ended; if it was killed the lock went with it"))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(durable::io_error("lock", &path, error)),
    }
}

/// The record of the order, made or taken up again.
fn recorded(workspace: &Workspace, ledger: &mut Ledger, order: &Order) -> Result<usize> {
    if let Some(at) = of_entity(ledger, &order.entity)? {
        let record = &mut ledger.records[at];
        if record.completed_at.take().is_some() {
            record.tables.values_mut().for_each(|table| table.done = false);
        }
        ledger.write()?;
        return Ok(at);
    }
    ledger.records.push(Record {
        number: ledger.records.last().map_or(0, |record| record.number) + 1,
        columns: order.entity.columns.clone(),
        hashes: ledger.hashes(&order.entity)?,
        reason: order.reason.clone(),
        ordered_at: now(workspace),
        completed_at: None,
        tables: BTreeMap::new(),
        proof: None,
    });
    ledger.write()?;
    Ok(ledger.records.len() - 1)
}

fn erase_table(
    workspace: &Workspace,
    ledger: &mut Ledger,
    at: usize,
    (entity, streams): (&Entity, &Streams),
    table: &InScope,
) -> Result<Erased> {
    let lake = workspace.lake();
    let number = ledger.records[at].number;
    let key = table.name.to_string();
    let mut gone = maintain::erased::Gone::default();
    // An accident came between the swap and the removal.
    if let Some(base) = ledger.records[at].tables.get(&key).and_then(|state| state.replacing.clone()) {
        gone += maintain::erased::remove_replaced(lake, &table.name, &base)?;
    }
    let edit = |metadata: &mut serde_json::Value| streams.edit(&table.name, metadata);
    let erasure = Erasure { edit: Some(&edit), ..erasure(entity, table, Some(number)) };
    let mut done = lake_erase::erase(lake, &table.name, &erasure, &mut |base| {
        let state = ledger.records[at].tables.entry(key.clone()).or_default();
        state.replacing = Some(base.to_owned());
        ledger.write()
    })?;
    gone += maintain::erased::remove_abandoned(lake, &table.name)?;
    let holds = |of: &crate::lake::Table, location: &str| lake_erase::holds(of, &erasure, location);
    let leftovers = maintain::erased::remove_leftovers(lake, &table.name, &holds, table.ours)?;
    gone += leftovers.gone;
    gone += maintain::erased::remove_files(lake.storage(), &streams.leftovers(&lake.table(&table.name)?)?)?;
    done.removed_files += gone.files;
    done.kept_versions += gone.versions;
    done.left = leftovers.left;
    if done.kept_versions > 0 {
        done.left.push(format!(
            "{} removed files stay in their bucket as earlier versions: remove those there, by a lifecycle rule for noncurrent versions for example",
            done.kept_versions
        ));
    }
    let state = ledger.records[at].tables.entry(key).or_default();
    state.replacing = None;
    state.done = done.left.is_empty();
    state.rows += done.rows;
    state.data_files += done.data_files as u64;
    state.snapshots += done.snapshots.len() as u64;
    state.removed_files += done.removed_files;
    ledger.write()?;
    Ok(done)
}

/// The state indexes of pipelines are caches: they are made again without the
/// entity.
fn forget_caches(workspace: &Workspace, pipelines: &[String]) -> Result<()> {
    for pipeline in pipelines {
        let folder = crate::score::index_folder(workspace, pipeline);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(durable::io_error("remove", &folder, error));
            }
            _ => {}
        }
    }
    Ok(())
}
