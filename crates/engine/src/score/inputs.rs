//! The inputs of a pipeline: pinned once, consumed whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::FeatureView;
use crate::lake::folder::Folder;
use crate::lake::scan::{KeyFilter, Scan};
use crate::lake::storage::Storage;
use crate::lake::{Table, TableName};
use crate::sql;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// What a run consumed of one input; stored in the snapshot summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Consumed {
    /// An Iceberg table at a snapshot; none is an empty table.
    Iceberg {
        /// The table's uuid.
        uuid: String,
        /// The snapshot.
        snapshot_id: Option<i64>,
    },
    /// A Parquet folder.
    Parquet {
        /// Changes when any file does.
        fingerprint: String,
        /// The largest feature time consumed, microseconds since the epoch.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        max_feature_time: Option<i64>,
    },
}

/// One pinned input.
#[derive(Debug, Clone)]
pub enum Input {
    /// A table of the catalog.
    Table {
        /// The table as loaded.
        table: Table,
        /// The pinned snapshot.
        snapshot_id: Option<i64>,
    },
    /// A Parquet folder.
    Folder {
        /// The folder.
        root: PathBuf,
        /// Its fingerprint when it was pinned.
        fingerprint: String,
    },
}

/// All inputs of a pipeline, by name.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    inputs: BTreeMap<String, Input>,
    /// The feature views that the query reads.
    views: Vec<FeatureView>,
    /// The tables that the query reads itself, not only through views.
    direct: BTreeSet<String>,
    /// The time that the views are of, microseconds since the epoch.
    at: i64,
    /// Whether that time is not now.
    as_of: bool,
}

/// What a query reads.
#[derive(Debug, Clone, Default)]
pub struct Reads {
    /// The tables and folders that it names.
    pub tables: BTreeSet<TableName>,
    /// The feature views that it names.
    pub views: Vec<FeatureView>,
}

impl Inputs {
    /// Pins the state of the named inputs, of now or of `as_of` (microseconds
    /// since the epoch). Opens no data file.
    pub fn pin(workspace: &Workspace, reads: Reads, as_of: Option<i64>) -> Result<Self> {
        let mut inputs = BTreeMap::new();
        let mut names = reads.tables.clone();
        for view in &reads.views {
            names.insert(TableName::parse(&view.table)?);
        }
        for name in &names {
            let text = name.to_string();
            let input = match workspace.project().settings.inputs.get(&text) {
                Some(folder) => {
                    if !folder.parquet.is_dir() {
                        return Err(Error::not_found(format!(
                            "input `{text}` has no folder `{}`",
                            folder.parquet.display()
                        ))
                        .hint(format!("correct `[inputs.\"{text}\"] parquet` in insightera.toml")));
                    }
                    Input::Folder {
                        root: folder.parquet.clone(),
                        fingerprint: Folder::fingerprint_of(&folder.parquet)?,
                    }
                }
                None => {
                    let table = match workspace.lake().find(name)? {
                        Some(table) => table,
                        None => return Err(missing(workspace, name)?),
                    };
                    let snapshot_id = match as_of {
                        None => table.current_snapshot_id(),
                        Some(at) => Some(sql::snapshot_at(&table, at.div_euclid(1000), &sql::show_time(at))?),
                    };
                    Input::Table { table, snapshot_id }
                }
            };
            inputs.insert(text, input);
        }
        Ok(Self {
            inputs,
            views: reads.views,
            direct: reads.tables.iter().map(ToString::to_string).collect(),
            at: as_of.unwrap_or_else(|| workspace.clock().now_micros()),
            as_of: as_of.is_some(),
        })
    }

    /// Goes back to what was consumed before.
    ///
    /// # Errors
    /// When an input is not there any more as it was.
    pub fn pin_again(&mut self, consumed: &BTreeMap<String, Consumed>) -> Result<()> {
        for (name, input) in &mut self.inputs {
            let missing = || {
                Error::invalid(format!("input `{name}` was not read then: the query was another one"))
                    .hint("bring the query back as it was")
            };
            match (input, consumed.get(name).ok_or_else(missing)?) {
                (Input::Table { table, snapshot_id }, Consumed::Iceberg { uuid, snapshot_id: then }) => {
                    if table.metadata().uuid().to_string() != *uuid {
                        return Err(Error::data(format!("table `{name}` was dropped and made again since then")));
                    }
                    if let Some(id) = then.filter(|id| table.metadata().snapshot_by_id(*id).is_none()) {
                        return Err(Error::not_found(format!(
                            "snapshot {id} of table `{name}`, which was read then, has been expired"
                        ))
                        .hint(
                            "begin later; [maintenance] of insightera.toml says how long snapshots are kept, and \
                               `insightera table tag` keeps one",
                        ));
                    }
                    *snapshot_id = *then;
                }
                (Input::Folder { root, fingerprint }, Consumed::Parquet { fingerprint: then, .. }) => {
                    if fingerprint != then {
                        return Err(Error::not_found(format!(
                            "the files of input `{name}` in `{}` are not those that were read then",
                            root.display()
                        ))
                        .hint("files have no snapshots: begin later, or make the input an Iceberg table"));
                    }
                }
                _ => {
                    return Err(Error::data(format!(
                        "input `{name}` was a table then and is a folder now, or the other way round"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The feature views that the query reads: their rows depend on the time.
    pub fn views(&self) -> &[FeatureView] {
        &self.views
    }

    /// The time that the views are of, microseconds since the epoch.
    pub fn at(&self) -> i64 {
        self.at
    }

    /// The folders that must be cut off at [`Inputs::at`], since they have no
    /// snapshots; empty when that is now.
    pub fn folders_to_cut(&self) -> impl Iterator<Item = &String> {
        let folder = |(_, input): &(&String, &Input)| matches!(input, Input::Folder { .. });
        self.inputs
            .iter()
            .filter(|_| self.as_of)
            .filter(folder)
            .map(|(name, _)| name)
            .filter(|name| self.direct.contains(*name))
    }

    /// The inputs, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Input)> {
        self.inputs.iter()
    }

    /// One input.
    pub fn get(&self, name: &str) -> Option<&Input> {
        self.inputs.get(name)
    }

    /// A provider for every input; with `keys`, filtered to a set of keys.
    pub fn scans(&self, keys: &BTreeMap<String, KeyFilter>) -> Result<BTreeMap<String, Scan>> {
        self.inputs
            .iter()
            .map(|(name, input)| {
                let scan = match input {
                    Input::Table { table, snapshot_id } => Scan::table(table.clone(), *snapshot_id)?,
                    Input::Folder { root, .. } => Scan::folder(Arc::new(Folder::open(name, root)?)),
                };
                let scan = match keys.get(name) {
                    Some(filter) => scan.with_keys(filter.clone()),
                    None => scan,
                };
                Ok((name.clone(), scan))
            })
            .collect()
    }

    /// Reads every file of the inputs to find the first that is damaged; used
    /// only to name it after a read has failed.
    pub fn find_damaged(&self) -> Option<Error> {
        for (name, input) in &self.inputs {
            let (storage, paths): (Storage, Vec<String>) = match input {
                Input::Table { table, snapshot_id } => match crate::lake::files::live_files(table, *snapshot_id) {
                    Ok(files) => {
                        let all = files.data.iter().chain(&files.deletes);
                        (table.storage().clone(), all.map(|f| f.data_file().file_path().to_owned()).collect())
                    }
                    Err(error) => return Some(error),
                },
                Input::Folder { root, .. } => match Folder::open(name, root) {
                    Ok(folder) => {
                        (Storage::default(), folder.files.iter().map(|f| f.path.display().to_string()).collect())
                    }
                    Err(error) => return Some(error),
                },
            };
            for path in paths {
                if let Err(error) = crate::lake::deletes::read_through(&storage, &path) {
                    let shown = Error::new(error.kind(), format!("input `{name}`: {error}"));
                    return Some(match error.get_hint() {
                        Some(hint) => shown.hint(hint),
                        None => shown,
                    });
                }
            }
        }
        None
    }

    /// What a run on these inputs consumes.
    pub fn consumed(&self, max_feature_times: &BTreeMap<String, i64>) -> BTreeMap<String, Consumed> {
        self.inputs
            .iter()
            .map(|(name, input)| {
                let consumed = match input {
                    Input::Table { table, snapshot_id } => {
                        Consumed::Iceberg { uuid: table.metadata().uuid().to_string(), snapshot_id: *snapshot_id }
                    }
                    Input::Folder { fingerprint, .. } => Consumed::Parquet {
                        fingerprint: fingerprint.clone(),
                        max_feature_time: max_feature_times.get(name).copied(),
                    },
                };
                (name.clone(), consumed)
            })
            .collect()
    }

    /// Whether these are exactly the inputs that were consumed before.
    pub fn same_as(&self, before: &BTreeMap<String, Consumed>) -> bool {
        self.inputs.len() == before.len()
            && self.inputs.iter().all(|(name, input)| match (input, before.get(name)) {
                (Input::Table { table, snapshot_id }, Some(Consumed::Iceberg { uuid, snapshot_id: then })) => {
                    table.metadata().uuid().to_string() == *uuid && snapshot_id == then
                }
                (Input::Folder { fingerprint, .. }, Some(Consumed::Parquet { fingerprint: then, .. })) => {
                    fingerprint == then
                }
                _ => false,
            })
    }
}

fn missing(workspace: &Workspace, name: &TableName) -> Result<Error> {
    let mut names: Vec<String> = workspace.lake().catalog().tables()?.iter().map(ToString::to_string).collect();
    names.extend(workspace.project().settings.inputs.keys().cloned());
    let error = Error::not_found(format!("there is no table or input `{name}`"));
    Ok(match insightera_core::closest(&name.to_string(), names.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!(
            "create the Iceberg table, or declare the Parquet folder as `[inputs.\"{name}\"] parquet = \"…\"` in insightera.toml"
        )),
    })
}
