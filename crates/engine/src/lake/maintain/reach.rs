//! Which files a table's metadata reaches.

use std::collections::{BTreeSet, HashSet};

use iceberg::spec::{DataContentType, ManifestFile};

use crate::Result;
use crate::lake::files;
use crate::lake::table::Table;

/// The files that some snapshots need, by kind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Manifest lists.
    pub lists: BTreeSet<String>,
    /// Manifests.
    pub manifests: BTreeSet<String>,
    /// Live data files.
    pub data: BTreeSet<String>,
    /// Live position delete files.
    pub position_deletes: BTreeSet<String>,
    /// Live equality delete files.
    pub equality_deletes: BTreeSet<String>,
    /// Statistics and partition statistics.
    pub statistics: BTreeSet<String>,
}

impl Reached {
    /// What the snapshots of `table` for which `wanted` holds need.
    ///
    /// # Errors
    /// When a manifest list or manifest cannot be read: then nothing may be
    /// called unreachable.
    pub fn of(table: &Table, wanted: impl Fn(i64) -> bool) -> Result<Self> {
        let mut reached = Self::default();
        let metadata = table.metadata();
        let mut seen: HashSet<String> = HashSet::new();
        for snapshot in metadata.snapshots().filter(|s| wanted(s.snapshot_id())) {
            reached.lists.insert(snapshot.manifest_list().to_owned());
            for manifest in files::manifest_list(table, snapshot)? {
                if seen.insert(manifest.manifest_path.clone()) {
                    reached.add(table, &manifest)?;
                }
            }
        }
        let statistics =
            metadata.statistics_iter().filter(|s| wanted(s.snapshot_id)).map(|s| s.statistics_path.clone());
        reached.statistics.extend(statistics);
        let partitions = metadata.partition_statistics_iter().filter(|s| wanted(s.snapshot_id));
        reached.statistics.extend(partitions.map(|s| s.statistics_path.clone()));
        Ok(reached)
    }

    /// What all snapshots of `table` need.
    pub fn all(table: &Table) -> Result<Self> {
        Self::of(table, |_| true)
    }

    /// What the snapshots of a table that was replaced needed, as far as its
    /// manifest lists and manifests are still there.
    ///
    /// # Errors
    /// When one that is there cannot be read.
    pub fn of_what_is_there(table: &Table) -> Result<Self> {
        let there = |location: &str| table.storage().exists(location);
        let mut reached = Self::default();
        for snapshot in table.metadata().snapshots().filter(|s| there(s.manifest_list())) {
            reached.lists.insert(snapshot.manifest_list().to_owned());
            for manifest in files::manifest_list(table, snapshot)? {
                if !reached.manifests.contains(&manifest.manifest_path) && there(&manifest.manifest_path) {
                    reached.add(table, &manifest)?;
                }
            }
        }
        let metadata = table.metadata();
        reached.statistics.extend(metadata.statistics_iter().map(|s| s.statistics_path.clone()));
        reached.statistics.extend(metadata.partition_statistics_iter().map(|s| s.statistics_path.clone()));
        Ok(reached)
    }

    fn add(&mut self, table: &Table, manifest: &ManifestFile) -> Result<()> {
        self.manifests.insert(manifest.manifest_path.clone());
        for entry in files::manifest_entries(table, manifest)?.iter().filter(|e| e.is_alive()) {
            let files = match entry.data_file().content_type() {
                DataContentType::Data => &mut self.data,
                DataContentType::PositionDeletes => &mut self.position_deletes,
                DataContentType::EqualityDeletes => &mut self.equality_deletes,
            };
            files.insert(entry.file_path().to_owned());
        }
        Ok(())
    }

    /// What is here and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let less = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
        Self {
            lists: less(&self.lists, &other.lists),
            manifests: less(&self.manifests, &other.manifests),
            data: less(&self.data, &other.data),
            position_deletes: less(&self.position_deletes, &other.position_deletes),
            equality_deletes: less(&self.equality_deletes, &other.equality_deletes),
            statistics: less(&self.statistics, &other.statistics),
        }
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = &String> {
        [&self.lists, &self.manifests, &self.data, &self.position_deletes, &self.equality_deletes, &self.statistics]
            .into_iter()
            .flatten()
    }
}

/// The metadata files of `table`: the current one and those in its log.
pub fn metadata_files(table: &Table) -> BTreeSet<String> {
    let mut files: BTreeSet<String> =
        table.metadata().metadata_log().iter().map(|entry| entry.metadata_file.clone()).collect();
    files.insert(table.metadata_location().to_owned());
    files
}
