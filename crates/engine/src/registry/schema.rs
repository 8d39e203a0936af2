//! The tables, as numbered migrations. A migration that was released is never
//! changed; a new one is added to the end.

/// Marks an SQLite file as a registry (`PRAGMA application_id`): "InsR".
pub(super) const APPLICATION_ID: i32 = 0x496e_7352;

/// One step of the schema.
pub(super) struct Migration {
    /// From 1, without gaps.
    pub(super) version: i64,
    /// What it does.
    pub(super) name: &'static str,
    /// Its statements.
    pub(super) sql: &'static str,
}

/// All steps in order.
pub(super) const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, name: "models", sql: include_str!("migrations/0001_models.sql") }];

/// The schema that this build reads and writes.
pub(super) fn latest() -> i64 {
    MIGRATIONS.last().map_or(0, |migration| migration.version)
}
