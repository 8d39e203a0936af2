//! A Hive Metastore, with Iceberg's conventions for it: Spark, Trino, PyIceberg
//! and Java's library find the same tables.
//!
//! The pointer is the parameter `metadata_location` of a table's entry. A swap
//! takes the metastore's exclusive lock of the table, as all writers do, reads
//! the entry, compares, and writes the whole entry back. Servers from Hive 4
//! (and 2.3.10) also compare by themselves, in the database's transaction,
//! since the alteration says what it expects; older ones rely on the lock, and
//! so does Hive 4 over Derby, whose columns cannot be compared. With the lock
//! alone, an alteration whose answer was lost and that the server carries out
//! after the lock is given back is compared by nobody, as with every writer.
//!
//! What a server declares is known; of `MetaException` it is not known what was
//! done, and of an answer that is lost neither: the entry is read, while the
//! lock is held, and where that does not tell the outcome is unknown.

mod client;
mod entry;
mod lock;
mod thrift;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use self::client::{
    ALTER_DATABASE, ALTER_TABLE, Answer, CREATE_DATABASE, CREATE_TABLE, Client, Connection, DROP_TABLE, Failure,
    GET_ALL_DATABASES, GET_ALL_TABLES, GET_DATABASE, GET_TABLE, GET_TABLE_REQ, GET_TABLES, GET_TABLES_REQ, Told,
};
use self::thrift::{Record, Value};
use super::{Catalog, FORMAT, FORMAT_PROPERTY, Loaded, Next, Swap, check_format};
use crate::config::HiveSettings;
use crate::lake::faults::{self, Bug, Stage};
use crate::lake::storage;
use crate::lake::table::{Table, TableName};
use crate::{Error, Result};

/// Tables whose entries are asked for at once: each has a schema in it.
const TABLES_AT_ONCE: usize = 100;

/// Tables of a Hive Metastore.
pub struct HiveCatalog {
    client: Arc<Client>,
    /// The folder of databases that are made here.
    warehouse: String,
    user: String,
    lock: bool,
    /// Whether alterations say what they expect.
    compared: AtomicBool,
    /// Namespaces whose format has been checked.
    checked: Mutex<HashSet<String>>,
}

impl fmt::Debug for HiveCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HiveCatalog").field(&self.client.shown()).finish()
    }
}

impl HiveCatalog {
    /// The catalog of the settings' servers. `warehouse` is where databases
    /// that are made here have their folders, if the settings do not say.
    ///
    /// # Errors
    /// When no server can be reached.
    pub fn open(settings: &HiveSettings, warehouse: &str) -> Result<Self> {
        let client = Client::new(settings.servers.clone(), settings.user.clone());
        let connection = client.connection()?;
        client.keep(connection);
        Ok(Self::with_client(client, settings, warehouse))
    }

    fn with_client(client: Client, settings: &HiveSettings, warehouse: &str) -> Self {
        Self {
            client: Arc::new(client),
            warehouse: settings.warehouse.as_deref().unwrap_or(warehouse).trim_end_matches('/').to_owned(),
            user: settings.user.clone().unwrap_or_else(|| "insightera".to_owned()),
            lock: settings.lock,
            compared: AtomicBool::new(true),
            checked: Mutex::default(),
        }
    }

    fn database(&self, namespace: &str) -> Result<Option<Record>> {
        match self.client.repeat(&GET_DATABASE, &Record::new([(1, Value::text(namespace))])) {
            Ok(Some(Value::Record(database))) => Ok(Some(database)),
            Ok(_) => Err(self.unreadable("a database")),
            Err(Failure::Told(Told::NoSuchObject, _)) => Ok(None),
            Err(failure) => Err(failure.error()),
        }
    }

    /// Refuses a namespace of a newer format; asks once for each.
    fn check(&self, namespace: &str) -> Result<()> {
        let known = || self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(namespace) {
            return Ok(());
        }
        if let Some(database) = self.database(namespace)? {
            if let Some(value) = database.texts_by_text(DATABASE_PARAMETERS).get(FORMAT_PROPERTY) {
                check_format(namespace, value)?;
            }
            known().insert(namespace.to_owned());
        }
        Ok(())
    }

    fn unreadable(&self, what: &str) -> Error {
        Error::unavailable(format!(
            "the Hive Metastore at `{}` answered with {what} of another form",
            self.client.shown()
        ))
    }

    /// A table's entry as the connection's server has it.
    fn entry(&self, connection: &mut Connection, table: &TableName) -> std::result::Result<Option<Record>, Failure> {
        self.entry_by(table, |method, arguments| self.client.call(connection, method, arguments))
    }

    fn entry_by(
        &self,
        table: &TableName,
        mut call: impl FnMut(&client::Method, Record) -> Answer,
    ) -> std::result::Result<Option<Record>, Failure> {
        let names = || [(1, Value::text(&table.namespace)), (2, Value::text(&table.name))];
        let answer = match call(&GET_TABLE_REQ, Record::new([(1, Value::Record(Record::new(names())))])) {
            Ok(Some(Value::Record(result))) => Ok(result.record(1).cloned().map(Value::Record)),
            Err(Failure::NoMethod(_)) => call(&GET_TABLE, Record::new(names())),
            other => other,
        };
        match answer {
            Ok(Some(Value::Record(entry))) => Ok(Some(entry)),
            Ok(_) => Err(Failure::Lost(self.unreadable("a table"))),
            Err(Failure::Told(Told::NoSuchObject, _)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn read_entry(&self, table: &TableName) -> Result<Option<Record>> {
        let found = self.entry_by(table, |method, arguments| self.client.repeat(method, &arguments));
        found.map_err(Failure::error)
    }

    /// Entries of tables by name; those that are gone are left out.
    fn entries(&self, namespace: &str, names: &[String]) -> Result<Vec<Record>> {
        let arguments = || [(1, Value::text(namespace)), (2, Value::texts(names))];
        let request = Record::new([(1, Value::Record(Record::new(arguments())))]);
        let answer = match self.client.repeat(&GET_TABLES_REQ, &request) {
            Ok(Some(Value::Record(result))) => Ok(result.get(1).cloned()),
            Err(Failure::NoMethod(_)) => self.client.repeat(&GET_TABLES, &Record::new(arguments())),
            other => other,
        };
        match answer {
            Ok(Some(Value::List(_, entries))) => Ok(entries
                .into_iter()
                .filter_map(|entry| match entry {
                    Value::Record(entry) => Some(entry),
                    _ => None,
                })
                .collect()),
            Ok(_) => Err(self.unreadable("tables")),
            // A namespace that went away meanwhile.
            Err(Failure::Told(Told::NoSuchObject, _)) => Ok(Vec::new()),
            Err(failure) => Err(failure.error()),
        }
    }

    fn names(&self, answer: Answer) -> Result<Vec<String>> {
        match answer.map_err(Failure::error)? {
            Some(Value::List(_, names)) => Ok(names.iter().filter_map(Value::as_text).map(str::to_owned).collect()),
            _ => Err(self.unreadable("names")),
        }
    }

    fn not_iceberg(&self, table: &TableName, why: &str) -> Error {
        Error::invalid(format!(
            "`{table}` in the Hive Metastore at `{}` is no table of Iceberg: {why}",
            self.client.shown()
        ))
        .hint("convert it with Spark's procedures `migrate` or `snapshot`, or use another name")
    }

    /// Changes an entry under the table's lock. `decide` gives the new entry, or
    /// says how it ends; `after` is where the pointer then stands under which name.
    fn alter(
        &self,
        table: &TableName,
        lock: bool,
        after: (&TableName, &str),
        decide: impl FnOnce(Option<&Record>) -> std::result::Result<Record, Swap>,
    ) -> Swap {
        let mut connection = match self.client.connection() {
            Ok(connection) => connection,
            Err(error) => return Swap::Unknown(error),
        };
        let held = match lock.then(|| lock::acquire(&self.client, &mut connection, table, &self.user)).transpose() {
            Ok(held) => held,
            Err(ended) => return ended,
        };
        let outcome = self.alter_locked(&mut connection, table, after, decide, held.as_ref());
        self.client.keep(connection);
        drop(held);
        outcome
    }

    fn alter_locked(
        &self,
        connection: &mut Connection,
        table: &TableName,
        after: (&TableName, &str),
        decide: impl FnOnce(Option<&Record>) -> std::result::Result<Record, Swap>,
        held: Option<&lock::Held>,
    ) -> Swap {
        let entry = match self.entry(connection, table) {
            Ok(entry) => entry,
            Err(failure) => return Swap::Unknown(failure.error()),
        };
        let next = match decide(entry.as_ref()) {
            Ok(next) => next,
            Err(ended) => return ended,
        };
        let expected = entry.as_ref().and_then(|entry| entry::location(entry).ok()).unwrap_or_default();
        if let Err(error) = held.map_or(Ok(()), lock::Held::check) {
            return Swap::Unknown(error);
        }
        // Without the lock the server's comparison is all there is.
        let compared = held.is_none() || self.compared.load(Ordering::Relaxed);
        let mut answer = self.send(connection, table, &next, compared.then_some(&expected));
        let cannot = |told: &Error| told.to_string().contains(CANNOT_COMPARE);
        match answer {
            // The server has undone it: nothing was changed.
            Err(Failure::Told(Told::Meta, error)) if cannot(&error) && held.is_none() => {
                return Swap::Refused(error.hint(
                    "this metastore's database cannot compare, so that the lock is needed: take `lock = false` out of \
                     [catalog], and `engine.hive.lock-enabled` from the table",
                ));
            }
            Err(Failure::Told(Told::Meta, error)) if cannot(&error) && compared => {
                self.compared.store(false, Ordering::Relaxed);
                answer = self.send(connection, table, &next, None);
            }
            _ => {}
        }
        match answer {
            // Without the lock somebody may have written in between.
            Ok(_) => match held.map_or(Ok(()), lock::Held::check) {
                Ok(()) => Swap::Done(None),
                Err(error) => Swap::Unknown(error),
            },
            Err(Failure::Told(Told::InvalidOperation, error)) => match error.to_string() {
                gone if gone.contains("doesn't exist") || gone.contains("already exists") => Swap::Conflict,
                columns if columns.contains("incompatible with the existing columns") => Swap::Refused(error.hint(
                    "Iceberg allows this change of columns: set `metastore.disallow.incompatible.col.type.changes` \
                     (before Hive 3 `hive.metastore.…`) to `false` in the metastore, as Iceberg's documentation says",
                )),
                _ => Swap::Refused(error),
            },
            Err(Failure::Told(told, error)) if told != Told::Meta => Swap::Refused(error),
            Err(Failure::NoMethod(error)) => Swap::Refused(error),
            Err(failure) => {
                // While the lock is held nobody else moves the pointer.
                let (name, location) = after;
                match self.read_entry(name) {
                    Ok(Some(now)) if entry::location(&now).as_deref() == Ok(location) => Swap::Done(None),
                    _ => Swap::Unknown(failure.error()),
                }
            }
        }
    }

    /// Sends an alteration, with what the entry is expected to name.
    fn send(&self, connection: &mut Connection, table: &TableName, next: &Record, expected: Option<&String>) -> Answer {
        let mut context = vec![("DO_NOT_UPDATE_STATS", "true")];
        if let Some(expected) = expected.filter(|_| !faults::bug(Bug::BlindSwap)) {
            context.push(("expected_parameter_key", entry::LOCATION));
            context.push(("expected_parameter_value", expected.as_str()));
        }
        let arguments = Record::new([
            (1, Value::text(&table.namespace)),
            (2, Value::text(&table.name)),
            (3, Value::Record(next.clone())),
            (4, Value::Record(Record::new([(1, Value::texts_by_text(context))]))),
        ]);
        self.change(|| self.client.call(connection, &ALTER_TABLE, arguments))
    }

    /// The call that changes a table's entry.
    fn change(&self, call: impl FnOnce() -> Answer) -> Answer {
        let place = self.client.shown();
        faults::step(Stage::Swap, "commit", Path::new(&place), || Ok(call())).unwrap_or_else(|error| {
            Err(Failure::Lost(Error::unavailable(format!("cannot write the catalog: {error}")).cause(error)))
        })
    }
}

/// What Derby says of the comparison that Hive 4 asks it for.
const CANNOT_COMPARE: &str = "Comparisons between 'CLOB";
/// The field of a database's parameters.
const DATABASE_PARAMETERS: i16 = 4;

/// Refuses a name that the metastore would keep in another spelling.
fn check_name(kind: &str, name: &str) -> Result<()> {
    if name.chars().any(char::is_uppercase) {
        return Err(Error::invalid(format!(
            "a Hive Metastore keeps names in lower case, which {kind} `{name}` is not"
        ))
        .hint(format!("write `{}`", name.to_lowercase())));
    }
    Ok(())
}

fn check_names(table: &TableName) -> Result<()> {
    check_name("namespace", &table.namespace)?;
    check_name("table", &table.name)
}

/// The table property by which Java's library too decides whether writers take
/// the lock; without it the settings say.
const LOCK_PROPERTY: &str = "engine.hive.lock-enabled";

fn takes_lock(property: Option<&String>, settings: bool) -> bool {
    property.map_or(settings, |value| !value.eq_ignore_ascii_case("false"))
}

impl Catalog for HiveCatalog {
    fn namespaces(&self) -> Result<BTreeMap<String, HashMap<String, String>>> {
        let names = self.names(self.client.repeat(&GET_ALL_DATABASES, &Record::default()))?;
        Ok(names.into_iter().map(|name| (name, HashMap::new())).collect())
    }

    fn has_namespace(&self, namespace: &str) -> Result<bool> {
        Ok(self.database(namespace)?.is_some())
    }

    fn ensure_namespace(&self, namespace: &str) -> Result<()> {
        check_name("namespace", namespace)?;
        let name = || (1, Value::text(namespace));
        if let Some(mut database) = self.database(namespace)? {
            let mut parameters = database.texts_by_text(DATABASE_PARAMETERS);
            if let Some(value) = parameters.get(FORMAT_PROPERTY) {
                return check_format(namespace, value);
            }
            parameters.insert(FORMAT_PROPERTY.into(), FORMAT.to_string());
            database.set(DATABASE_PARAMETERS, Value::texts_by_text(parameters));
            return match self.client.repeat(&ALTER_DATABASE, &Record::new([name(), (2, Value::Record(database))])) {
                // A server need not let anybody set properties.
                Ok(_) | Err(Failure::Told(..)) => Ok(()),
                Err(failure) => Err(failure.error()),
            };
        }
        let database = Record::new([
            name(),
            (3, Value::text(storage::join(&self.warehouse, namespace))),
            (DATABASE_PARAMETERS, Value::texts_by_text([(FORMAT_PROPERTY, FORMAT.to_string())])),
            (6, Value::text(&self.user)),
            // A user, not a role or a group.
            (7, Value::Int(1)),
        ]);
        // Twice is as once: the second is told that it is there.
        match self.client.repeat(&CREATE_DATABASE, &Record::new([(1, Value::Record(database))])) {
            Ok(_) | Err(Failure::Told(Told::AlreadyExists, _)) => Ok(()),
            Err(failure) => match self.database(namespace) {
                Ok(Some(_)) => Ok(()),
                _ => Err(failure.error().hint(
                    "the metastore makes the folder of a database itself: it needs to reach and write `warehouse`",
                )),
            },
        }
    }

    fn tables(&self) -> Result<Vec<TableName>> {
        let mut found = Vec::new();
        for namespace in self.namespaces()?.into_keys() {
            let answer = self.client.repeat(&GET_ALL_TABLES, &Record::new([(1, Value::text(&namespace))]));
            let names = match answer {
                Err(Failure::Told(Told::NoSuchObject, _)) => continue,
                other => self.names(other)?,
            };
            for some in names.chunks(TABLES_AT_ONCE) {
                let entries = self.entries(&namespace, some)?;
                let iceberg = entries.iter().filter(|entry| entry::location(entry).is_ok());
                found.extend(iceberg.filter_map(entry::name));
            }
        }
        found.sort();
        Ok(found)
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        self.check(&table.namespace)?;
        let Some(entry) = self.read_entry(table)? else { return Ok(None) };
        let location = entry::location(&entry).map_err(|why| self.not_iceberg(table, &why))?;
        Ok(Some(Loaded { location, metadata: None, properties: HashMap::new() }))
    }

    fn create(&self, table: &TableName, next: Next<'_>) -> Swap {
        if let Err(error) = check_names(table) {
            return Swap::Refused(error);
        }
        let mut connection = match self.client.connection() {
            Ok(connection) => connection,
            Err(error) => return Swap::Unknown(error),
        };
        let entry = entry::new(table, &self.user, next.metadata, next.location);
        let arguments = Record::new([(1, Value::Record(entry))]);
        let answer = self.change(|| self.client.call(&mut connection, &CREATE_TABLE, arguments));
        self.client.keep(connection);
        match answer {
            Ok(_) => Swap::Done(None),
            Err(Failure::Told(Told::AlreadyExists, _)) => Swap::Conflict,
            Err(Failure::Told(Told::Meta, error) | Failure::Lost(error)) => {
                Swap::Unknown(error.hint(
                    "the metastore makes the folder of a table itself: it needs to reach and write the warehouse",
                ))
            }
            Err(Failure::Told(_, error) | Failure::NoMethod(error)) => Swap::Refused(error),
        }
    }

    fn swap(&self, base: &Table, next: Next<'_>) -> Swap {
        let table = base.name();
        let lock = takes_lock(base.metadata().properties().get(LOCK_PROPERTY), self.lock);
        self.alter(table, lock, (table, next.location), |entry| {
            let Some(entry) = entry else { return Err(Swap::Conflict) };
            let stands = match entry::location(entry) {
                Ok(location) => location == base.metadata_location() || faults::bug(Bug::BlindSwap),
                // Something else of that name.
                Err(_) => false,
            };
            match stands {
                true => Ok(entry::moved(entry, base.metadata(), next.metadata, next.location)),
                false => Err(Swap::Conflict),
            }
        })
    }

    fn rename(&self, from: &TableName, to: &TableName) -> Swap {
        let there = match check_names(to).and_then(|()| Ok((self.read_entry(from)?, self.read_entry(to)?))) {
            Ok((Some(entry), None)) => entry,
            Ok(_) => return Swap::Conflict,
            Err(error) => return Swap::Refused(error),
        };
        let location = match entry::location(&there) {
            Ok(location) => location,
            Err(why) => return Swap::Refused(self.not_iceberg(from, &why)),
        };
        let lock = takes_lock(entry::parameters(&there).get(LOCK_PROPERTY), self.lock);
        self.alter(from, lock, (to, &location), |entry| match entry {
            // It moved since it was looked at.
            Some(entry) if entry::location(entry).as_ref() == Ok(&location) => Ok(entry::renamed(entry, to)),
            _ => Err(Swap::Conflict),
        })
    }

    fn drop_table(&self, table: &TableName) -> Result<bool> {
        let Some(entry) = self.read_entry(table)? else { return Ok(false) };
        entry::location(&entry).map_err(|why| self.not_iceberg(table, &why))?;
        let arguments = Record::new([
            (1, Value::text(&table.namespace)),
            (2, Value::text(&table.name)),
            // Files stay.
            (3, Value::Bool(false)),
        ]);
        let mut connection = self.client.connection()?;
        let answer = self.change(|| self.client.call(&mut connection, &DROP_TABLE, arguments));
        self.client.keep(connection);
        match answer {
            Ok(_) => Ok(true),
            Err(Failure::Told(Told::NoSuchObject, _)) => Ok(false),
            Err(failure) => match self.read_entry(table) {
                Ok(None) => Ok(true),
                _ => Err(failure.error()),
            },
        }
    }
}

#[cfg(test)]
mod tests;
