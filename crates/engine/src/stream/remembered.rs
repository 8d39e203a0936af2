//! Which alerts' conditions held at the last row of an entity: an alert with
//! `on_change` is told when its condition begins to hold.
//!
//! It is a part of a partition's state: written behind the windows in the same
//! file, all of it in a base, what changed in an increment.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use xxhash_rust::xxh3::xxh3_64;

use crate::key::{HashOfHash, KeyHash, KeySet};
use crate::{Error, Result};

/// More alerts with `on_change` than this are refused.
pub const MOST: usize = 32;

/// The end of a file that has them.
const MAGIC: &[u8; 8] = b"ALERTS01";
/// Bytes of an entity: its hash, then a bit for each alert.
const ENTITY: usize = 16 + 4;
/// Bytes behind the entities: their number, their hash, which alerts the bits
/// are of, the magic word.
const FOOT: usize = 8 + 8 + 8 + 8;
/// Bytes in memory of an entity, about.
const HELD: u64 = 48;

/// By partition and entity; an entity without any is not listed.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Which alerts the bits are of.
    of: u64,
    partitions: BTreeMap<u32, Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    held: HashMap<KeyHash, u32, BuildHasherDefault<HashOfHash>>,
    changed: KeySet,
}

impl Remembered {
    /// Nothing yet, of the alerts that `of` stands for.
    pub fn new(of: u64) -> Self {
        Self { of, partitions: BTreeMap::new() }
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> u64 {
        self.partitions.values().map(|own| (own.held.len() + own.changed.len()) as u64 * HELD).sum()
    }

    /// Notes whether the condition of alert number `alert` holds at a row;
    /// whether it begins to.
    pub fn begins(&mut self, alert: usize, partition: u32, entity: KeyHash, holds: bool) -> bool {
        let own = self.partitions.entry(partition).or_default();
        let before = own.held.get(&entity).copied().unwrap_or(0);
        let bit = 1 << alert;
        let now = if holds { before | bit } else { before & !bit };
        if now != before {
            own.changed.insert(entity);
            if now == 0 {
                own.held.remove(&entity);
            } else {
                own.held.insert(entity, now);
            }
        }
        holds && before & bit == 0
    }

    /// Adds what a partition's file says behind its windows: all, or what
    /// changed since the last time.
    pub fn write(&mut self, partition: u32, all: bool, file: &mut Vec<u8>) {
        let own = self.partitions.entry(partition).or_default();
        let from = file.len();
        let mut entity = |hash: &KeyHash, bits: u32| {
            file.extend(hash.to_le_bytes());
            file.extend(bits.to_le_bytes());
        };
        if all {
            own.held.iter().for_each(|(hash, bits)| entity(hash, *bits));
        } else {
            own.changed.iter().for_each(|hash| entity(hash, own.held.get(hash).copied().unwrap_or(0)));
        }
        own.changed.clear();
        let (count, hash) = (((file.len() - from) / ENTITY) as u64, xxh3_64(&file[from..]));
        file.extend(count.to_le_bytes());
        file.extend(hash.to_le_bytes());
        file.extend(self.of.to_le_bytes());
        file.extend(MAGIC);
    }

    /// Takes in what [`Remembered::write`] wrote, unless it is of other alerts.
    /// Answers the bytes before it.
    ///
    /// # Errors
    /// `Data` when it is damaged.
    pub fn read<'a>(&mut self, partition: u32, file: &'a [u8], what: &str) -> Result<&'a [u8]> {
        let Some(rest) = file.strip_suffix(MAGIC) else { return Ok(file) };
        let damaged = || Error::data(format!("{what}: what it says of alerts is damaged"));
        let foot = rest.len().checked_sub(FOOT - MAGIC.len()).ok_or_else(damaged)?;
        let number = |at: usize| rest[at..at + 8].try_into().map(u64::from_le_bytes).map_err(|_| damaged());
        let bytes = number(foot)?.checked_mul(ENTITY as u64).filter(|bytes| *bytes <= foot as u64);
        let (windows, entities) = rest[..foot].split_at(foot - bytes.ok_or_else(damaged)? as usize);
        if xxh3_64(entities) != number(foot + 8)? {
            return Err(damaged());
        }
        if number(foot + 16)? != self.of {
            return Ok(windows);
        }
        let own = self.partitions.entry(partition).or_default();
        for entity in entities.chunks_exact(ENTITY) {
            let (hash, bits) = entity.split_at(16);
            let hash = hash.try_into().map(KeyHash::from_le_bytes).map_err(|_| damaged())?;
            match bits.try_into().map(u32::from_le_bytes).map_err(|_| damaged())? {
                0 => own.held.remove(&hash),
                bits => own.held.insert(hash, bits),
            };
        }
        Ok(windows)
    }

    /// Forgets an entity. Answers whether it was known.
    pub fn forget_entity(&mut self, entity: KeyHash) -> bool {
        self.partitions.values_mut().fold(false, |known, own| {
            own.changed.remove(&entity);
            own.held.remove(&entity).is_some() | known
        })
    }

    /// Forgets a partition.
    pub fn forget(&mut self, partition: u32) {
        self.partitions.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_begins_once_until_it_ends() {
        let mut remembered = Remembered::default();
        let told: Vec<bool> =
            [false, true, true, false, true].iter().map(|holds| remembered.begins(3, 0, 7, *holds)).collect();
        assert_eq!(told, [false, true, false, false, true]);
        assert!(remembered.begins(2, 0, 7, true), "another alert");
        assert!(remembered.begins(3, 0, 8, true), "another entity");
        assert!(remembered.begins(3, 1, 7, true), "another partition");
    }

    #[test]
    fn files_hold_it_and_damage_is_told() {
        let mut remembered = Remembered::default();
        remembered.begins(0, 5, 1, true);
        remembered.begins(0, 5, 2, true);
        let mut base = b"windows".to_vec();
        remembered.write(5, true, &mut base);
        remembered.begins(0, 5, 1, false);
        remembered.begins(1, 5, 3, true);
        let mut next = Vec::new();
        remembered.write(5, false, &mut next);

        let mut again = Remembered::default();
        assert_eq!(again.read(5, &base, "base").unwrap(), b"windows");
        assert_eq!(again.read(5, &next, "next").unwrap(), b"");
        assert_eq!(again.partitions[&5].held, remembered.partitions[&5].held);
        assert_eq!(again.read(5, b"only windows", "old").unwrap(), b"only windows");
        let mut other = Remembered::new(1);
        assert_eq!(other.read(5, &base, "base").unwrap(), b"windows");
        assert!(other.partitions.is_empty(), "the bits are of other alerts");
        for at in (0..next.len()).filter(|at| !(next.len() - 16..next.len() - 8).contains(at)) {
            let mut damaged = next.clone();
            damaged[at] ^= 0x40;
            let read = Remembered::default().read(5, &damaged, "next").map(<[u8]>::len);
            // Without its last word it is a file of windows, which have a check of their own.
            assert!(read.is_err() || at >= next.len() - MAGIC.len(), "{at}");
        }
    }
}
