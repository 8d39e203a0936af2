-- The entities of MLflow. Times are microseconds since 1970-01-01T00:00:00Z.

CREATE TABLE experiments (
    experiment_id    TEXT PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    lifecycle_stage  TEXT NOT NULL DEFAULT 'active' CHECK (lifecycle_stage IN ('active', 'deleted')),
    creation_time    INTEGER NOT NULL,
    last_update_time INTEGER NOT NULL
) STRICT;

CREATE TABLE runs (
    run_id          TEXT PRIMARY KEY,
    experiment_id   TEXT NOT NULL REFERENCES experiments (experiment_id),
    name            TEXT,
    status          TEXT NOT NULL CHECK (status IN ('RUNNING', 'SCHEDULED', 'FINISHED', 'FAILED', 'KILLED')),
    lifecycle_stage TEXT NOT NULL DEFAULT 'active' CHECK (lifecycle_stage IN ('active', 'deleted')),
    start_time      INTEGER NOT NULL,
    end_time        INTEGER
) STRICT;
CREATE INDEX runs_by_experiment ON runs (experiment_id);

-- SQLite stores NaN as NULL, hence the flag.
CREATE TABLE metrics (
    run_id    TEXT NOT NULL REFERENCES runs (run_id),
    key       TEXT NOT NULL,
    step      INTEGER NOT NULL DEFAULT 0,
    timestamp INTEGER NOT NULL,
    value     REAL,
    is_nan    INTEGER NOT NULL CHECK (is_nan IN (0, 1)),
    CHECK (is_nan = 1 OR value IS NOT NULL),
    PRIMARY KEY (run_id, key, step, timestamp)
) STRICT;

CREATE TABLE params (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, key)
) STRICT;

CREATE TABLE run_tags (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, key)
) STRICT;

-- Files in artifacts/SHA256/, written and synced before the row.
CREATE TABLE artifacts (
    sha256        TEXT PRIMARY KEY CHECK (length(sha256) = 64),
    bytes         INTEGER NOT NULL CHECK (bytes >= 0),
    creation_time INTEGER NOT NULL
) STRICT;

CREATE TABLE artifact_files (
    sha256      TEXT NOT NULL REFERENCES artifacts (sha256),
    path        TEXT NOT NULL,
    bytes       INTEGER NOT NULL CHECK (bytes >= 0),
    file_sha256 TEXT NOT NULL CHECK (length(file_sha256) = 64),
    PRIMARY KEY (sha256, path)
) STRICT;

CREATE TABLE logged_models (
    model_id        TEXT PRIMARY KEY,
    source_run_id   TEXT NOT NULL REFERENCES runs (run_id),
    name            TEXT NOT NULL,
    model_type      TEXT,
    signature       TEXT,
    artifact_sha256 TEXT NOT NULL REFERENCES artifacts (sha256),
    status          TEXT NOT NULL CHECK (status IN ('PENDING', 'READY', 'FAILED')),
    creation_time   INTEGER NOT NULL
) STRICT;
CREATE INDEX logged_models_by_run ON logged_models (source_run_id);

CREATE TABLE registered_models (
    name             TEXT PRIMARY KEY,
    description      TEXT,
    creation_time    INTEGER NOT NULL,
    last_update_time INTEGER NOT NULL
) STRICT;

CREATE TABLE registered_model_tags (
    name  TEXT NOT NULL REFERENCES registered_models (name),
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name, key)
) STRICT;

CREATE TABLE model_versions (
    name          TEXT NOT NULL REFERENCES registered_models (name),
    version       INTEGER NOT NULL CHECK (version >= 1),
    model_id      TEXT NOT NULL REFERENCES logged_models (model_id),
    description   TEXT,
    creation_time INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

CREATE TABLE model_version_tags (
    name    TEXT NOT NULL,
    version INTEGER NOT NULL,
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (name, version, key),
    FOREIGN KEY (name, version) REFERENCES model_versions (name, version)
) STRICT;

-- Where each alias points now: always the last entry of its log.
CREATE TABLE registered_model_aliases (
    name    TEXT NOT NULL,
    alias   TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (name, alias),
    FOREIGN KEY (name, version) REFERENCES model_versions (name, version)
) STRICT;

-- valid_from: since when the alias pointed there; system_time: when that was
-- written. A stage of MLflow is the alias of that name; `Archived` is a version
-- that this log names and no alias points to any more.
CREATE TABLE alias_log (
    entry       INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT NOT NULL,
    alias       TEXT NOT NULL,
    version     INTEGER NOT NULL,
    action      TEXT NOT NULL CHECK (action IN ('register', 'promote', 'rollback')),
    valid_from  INTEGER NOT NULL,
    system_time INTEGER NOT NULL,
    UNIQUE (name, alias, valid_from),
    FOREIGN KEY (name, version) REFERENCES model_versions (name, version)
) STRICT;

CREATE TRIGGER alias_log_is_never_changed BEFORE UPDATE ON alias_log
BEGIN SELECT RAISE(ABORT, 'the alias log is append-only'); END;
CREATE TRIGGER alias_log_is_never_shortened BEFORE DELETE ON alias_log
BEGIN SELECT RAISE(ABORT, 'the alias log is append-only'); END;

-- A version is immutable: only its description may change.
CREATE TRIGGER a_version_keeps_its_model BEFORE UPDATE OF name, version, model_id ON model_versions
BEGIN SELECT RAISE(ABORT, 'a model version is immutable'); END;
CREATE TRIGGER a_logged_model_keeps_its_artifact BEFORE UPDATE OF artifact_sha256 ON logged_models
BEGIN SELECT RAISE(ABORT, 'a logged model is immutable'); END;
