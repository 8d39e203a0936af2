"""Runs in every kind of catalog and store, each read by PyIceberg through the same catalog, and by DuckDB.

What is done to each is the same: a first run, changes, a second run, time travel, maintenance,
two writers at once, a kill between the files and the pointer, and an answer that gets lost.
"""

import json
import math
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import hive_servers
import servers
from conftest import ROOT, missing
from lakehouse import FEATURES, OUTPUT, Project, duckdb_connection, multiset, rows

STUDENTS = 60
CREDENTIALS = {"JUDGE_KEY_ID": servers.KEY_ID, "JUDGE_KEY": servers.KEY, "JUDGE_AZURE_KEY": servers.AZURE_KEY}
# Every kind of catalog and of store; in a long run also each with the others.
PLACES = ["rest-s3", "nessie-s3", "postgres-s3", "sqlite-azure", "hive4"]
if os.environ.get("INSIGHTERA_TEST_LONG"):
    PLACES += ["rest", "postgres", "sqlite-s3", "hive3"]


class Place(Project):
    """A project with another catalog or store."""

    def __init__(self, place, folder, binary, start):
        super().__init__(folder, binary, CREDENTIALS)
        self.place, self.unique = place, f"w{time.time_ns()}"
        kind, _, store = place.partition("-")
        self.kind, self.store = kind, store
        settings = ["format = 1", ""]
        self.server = start(store, servers.s3 if store == "s3" else servers.azure) if store else None
        self.warehouse = {"s3": f"s3://lake/{self.unique}",
                          "azure": f"abfss://lake@{servers.AZURE_ACCOUNT}.dfs.core.windows.net/{self.unique}",
                          "": f"file://{self.folder}/warehouse"}[store]
        if kind == "rest":
            self.rest = start(f"rest-{store}", lambda home: servers.rest(home, self.server))
            self.address = f"{self.rest.address}/{self.unique}"
            settings += ["[catalog]", 'kind = "rest"', f'uri = "{self.address}"']
        elif kind == "nessie":
            self.nessie = start("nessie", lambda home: servers.Nessie(home, self.server))
            self.address = self.nessie.branch(self.unique)
            settings += ["[catalog]", 'kind = "rest"', f'uri = "{self.address}"', 'warehouse = "lake"']
        elif kind == "postgres":
            self.postgres = start("postgres", lambda home: servers.Postgres(home / "server"))
            self.environment["JUDGE_PASSWORD"] = self.postgres.password
            settings += ["[catalog]", 'kind = "postgres"', f'uri = "{self.postgres.uri}"',
                         'password = "env:JUDGE_PASSWORD"', f'name = "{self.unique}"']
        elif kind in hive_servers.VERSIONS:
            postgres = kind == "hive4" and start("postgres", lambda home: servers.Postgres(home / "server"))
            self.hive = start(kind, lambda home: hive_servers.Hive(kind, home, postgres))
            # All tests have the same names, and a metastore has but one of each.
            self.hive.clear()
            settings += ["[catalog]", 'kind = "hive"', f'uri = "{self.hive.uri}"']
        settings += ["[storage]", f'warehouse = "{self.warehouse if store else "warehouse"}"']
        if store == "s3":
            settings += ["[storage.s3]", f'endpoint = "{self.server.address}"', 'region = "us-east-1"',
                         'access_key_id = "env:JUDGE_KEY_ID"', 'secret_access_key = "env:JUDGE_KEY"']
        elif store == "azure":
            settings += ["[storage.azure]", f'endpoint = "{self.server.address}/{servers.AZURE_ACCOUNT}"',
                         f'account = "{servers.AZURE_ACCOUNT}"', 'access_key = "env:JUDGE_AZURE_KEY"']
        settings += ["[maintenance]", "min_input_files = 2", "keep_snapshots = 2", "expire_after_days = 0"]
        (self.folder / "pipelines").mkdir(parents=True)
        (self.folder / "insightera.toml").write_text("\n".join(settings) + "\n")

    def catalog(self):
        from pyiceberg.catalog import load_catalog

        files = {}
        if self.store == "s3":
            files = {"s3.endpoint": self.server.address, "s3.access-key-id": servers.KEY_ID,
                     "s3.secret-access-key": servers.KEY, "s3.region": "us-east-1"}
        elif self.store == "azure":
            connection = (f"DefaultEndpointsProtocol=http;AccountName={servers.AZURE_ACCOUNT};"
                          f"AccountKey={servers.AZURE_KEY};"
                          f"BlobEndpoint={self.server.address}/{servers.AZURE_ACCOUNT};")
            files = {"adls.connection-string": connection}
        if self.kind == "rest":
            return load_catalog("judge", type="rest", uri=self.address, **files)
        if self.kind == "nessie":
            return load_catalog("judge", type="rest", uri=self.address, warehouse="lake", **files)
        if self.kind == "postgres":
            uri = self.postgres.uri.replace("postgresql://judge@", f"postgresql+psycopg2://judge:{self.postgres.password}@")
            return load_catalog(self.unique, type="sql", uri=uri, warehouse=self.warehouse, **files)
        if self.kind in hive_servers.VERSIONS:
            return self.hive.catalog(self.warehouse)
        return load_catalog("insightera", type="sql", uri=f"sqlite:///{self.folder}/warehouse/catalog.db",
                            warehouse=self.warehouse, **files)

    def table(self, name):
        return self.catalog().load_table(name)

    def metadata_location(self, name):
        return self.table(name).metadata_location

    def duckdb(self, name):
        """The rows as DuckDB reads them."""
        connection = duckdb_connection()
        if self.store == "s3":
            import glob

            import duckdb_extension_httpfs

            found = glob.glob(f"{os.path.dirname(duckdb_extension_httpfs.__file__)}/**/*.duckdb_extension",
                              recursive=True)
            connection.execute(f"LOAD '{found[0]}'")
            connection.execute(f"CREATE SECRET (TYPE s3, KEY_ID '{servers.KEY_ID}', SECRET '{servers.KEY}', "
                               f"ENDPOINT '127.0.0.1:{self.server.port}', URL_STYLE 'path', USE_SSL false, "
                               f"REGION 'us-east-1')")
        return connection.sql(f"SELECT * FROM iceberg_scan('{self.metadata_location(name)}')").to_arrow_table()

    def prepare(self, model):
        """Features of the students, a pipeline, a model; no run yet."""
        self.pipeline()
        self.register(model)
        self.feature_table(rows(range(30)), rows(range(30, STUDENTS)))
        return self

    def feature_table(self, *batches):
        statement = ("CREATE TABLE features.student (nim STRING, x DOUBLE, y DOUBLE, feature_timestamp TIMESTAMP)")
        answer = self.call("sql", statement)
        assert answer.code == 0, answer
        for batch in batches:
            self.insert(batch)

    def insert(self, batch):
        values = ", ".join(
            f"('{row['nim']}', {row['x']!r}, {row['y']!r}, TIMESTAMP '{row['feature_timestamp']:%Y-%m-%d %H:%M:%S}')"
            for row in batch.to_pylist())
        answer = self.call("sql", f"INSERT INTO {FEATURES} VALUES {values}")
        assert answer.code == 0, answer

    def change(self):
        """Five students are new, three have other features, two are gone."""
        self.insert(rows(range(STUDENTS, STUDENTS + 5)))
        for statement in (f"UPDATE {FEATURES} SET x = 1.5 WHERE nim IN ('000010', '000011', '000012')",
                          f"DELETE FROM {FEATURES} WHERE nim IN ('000000', '000001')"):
            answer = self.call("sql", statement)
            assert answer.code == 0, answer

    def ledger(self):
        found = self.table(OUTPUT).scan(selected_fields=("nim", "score_reason")).to_arrow()
        return sorted(zip(found["score_reason"].to_pylist(), found["nim"].to_pylist()))

    def start(self, *arguments, environment=None):
        return subprocess.Popen([self.binary, "--project", str(self.folder), *arguments], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True,
                                env={**os.environ, **self.environment, **(environment or {})})

    def counts(self):
        reasons = [reason for reason, _ in self.ledger()]
        return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


AFTER_CHANGE = {"first": STUDENTS, "insert": 5, "removed": 2, "update": 3}


@pytest.fixture
def place(request, tmp_path, binary, started, small_model):
    found = Place(request.param, tmp_path / "project", binary, started)
    return found.prepare(small_model)


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not Path(path).exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_a_pipeline_runs_and_others_read_the_same(place):
    first = place.run()
    assert (first["status"], first["scored"]) == ("committed", STUDENTS), first
    before = place.table(OUTPUT).metadata.current_snapshot_id
    place.change()
    second = place.run()
    assert (second["status"], second["scored"], second["removed"]) == ("committed", 8, 2), second
    assert place.counts() == AFTER_CHANGE
    assert place.run()["status"] == "unchanged"
    code, verified = place.verify()
    assert (code, verified["ok"]) == (0, True), verified

    # Time travel. Nessie keeps one snapshot of a table.
    if place.kind == "nessie":
        answer = place.call("sql", f"SELECT count(*) AS n FROM {OUTPUT} VERSION AS OF {before}")
        assert answer.code == 1 and "the catalog does not keep them" in answer.stderr, answer
    then = place.kind == "nessie" or place.sql(f"SELECT count(*) AS n FROM {OUTPUT} VERSION AS OF {before}")
    now = place.sql(f"SELECT count(*) AS n FROM {OUTPUT}")
    assert then is True or then[0]["n"] == STUDENTS
    assert now[0]["n"] == STUDENTS + 10

    # The same rows for everybody.
    judged = place.table(OUTPUT).scan().to_arrow()
    ours = place.sql(f"SELECT nim, margin, probability, label, score_reason FROM {OUTPUT}")
    columns = ("nim", "margin", "probability", "label", "score_reason")
    as_tuple = lambda row: tuple("-" if row[c] is None else str(row[c]) for c in columns)  # noqa: E731
    assert sorted(map(as_tuple, ours)) == sorted(map(as_tuple, judged.select(columns).to_pylist()))
    if place.store != "azure":
        assert multiset(place.duckdb(OUTPUT), columns) == multiset(judged, columns)

    # Maintenance: fewer files, fewer snapshots, the same rows; nothing is left over.
    files = place.table(OUTPUT).inspect.files().num_rows
    due = place.call("table", "maintain", OUTPUT, "--dry-run", "--format", "json")
    assert due.code == 0, due
    done = place.call("table", "maintain", OUTPUT, "--format", "json")
    assert done.code == 0, done
    after = place.table(OUTPUT)
    assert multiset(after.scan().to_arrow(), columns) == multiset(judged, columns)
    assert after.inspect.files().num_rows < files
    assert len(after.metadata.snapshots) == (1 if place.kind == "nessie" else 2)
    assert ("nessie-gc" in done.json[0].get("not_removed", "")) == (place.kind == "nessie"), done
    assert place.run()["status"] == "unchanged"


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_two_runs_at_once_write_each_row_once(place, tmp_path):
    place.run()
    place.change()
    gate = tmp_path / "gate"
    slow = place.start("run", "risk", environment={"INSIGHTERA_FAULT": f"pause:swap:{gate}"})
    wait_for(f"{gate}.waiting", slow)
    assert place.run()["status"] == "committed"
    gate.touch()
    output, errors = slow.communicate(timeout=120)
    assert slow.returncode == 0, output + errors
    assert place.counts() == AFTER_CHANGE


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_a_killed_run_is_done_by_the_next(place, tmp_path):
    place.run()
    place.change()
    gate = tmp_path / "gate"
    doomed = place.start("run", "risk", environment={"INSIGHTERA_FAULT": f"pause:swap:{gate}"})
    wait_for(f"{gate}.waiting", doomed)
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    assert place.counts() == {"first": STUDENTS}
    assert place.run()["status"] == "committed"
    assert place.counts() == AFTER_CHANGE


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_a_lost_reply_of_an_applied_commit_is_found_out(place):
    place.run()
    place.change()
    answer = place.call("run", "risk", "--format", "json", environment={"INSIGHTERA_FAULT": "lose-reply"})
    assert answer.code == 0, answer
    assert json.loads(answer.stdout)["status"] == "committed"
    assert place.counts() == AFTER_CHANGE
    assert place.run()["status"] == "unchanged"


@pytest.mark.parametrize("place", ["rest", "nessie-s3", "postgres", "sqlite-s3", "hive4"], indirect=True)
def test_a_server_that_is_gone_is_told_and_no_secret_is(place):
    place.run()
    server = {"rest": lambda: place.rest, "nessie": lambda: place.nessie, "postgres": lambda: place.postgres.server, "hive4": lambda: place.hive}.get(
        place.kind, lambda: place.server)()
    settings = (place.folder / "insightera.toml")
    text = settings.read_text()
    settings.write_text(text.replace(str(server.port), str(servers.free_port())))
    answer = place.call("run", "risk")
    assert answer.code == 2 or answer.code == 1, answer
    told = answer.stdout + answer.stderr
    assert "127.0.0.1" in told, told
    for secret in (servers.KEY, "of-the-judge"):
        assert secret not in told
    settings.write_text(text.replace("env:JUDGE", "env:NO_SUCH"))
    if "env:" in text:
        answer = place.call("run", "risk")
        assert answer.code == 1 and "NO_SUCH" in answer.stderr, answer
    settings.write_text(text)
    assert place.run()["status"] == "unchanged"


def engine_tests():
    """The program of the engine's own tests: as `./test` has built it, or as the environment names it."""
    named = os.environ.get("INSIGHTERA_ENGINE_TESTS")
    if named:
        return named
    built = ROOT / ".cache" / "build.json"
    for line in built.read_text().splitlines() if built.exists() else []:
        told = json.loads(line)
        if told.get("executable") and told["target"]["name"] == "it" and "/crates/engine#" in told["package_id"]:
            return told["executable"]
    missing("the suite of catalogs", "there is no program of the engine's tests: run `./test`")


def test_every_catalog_keeps_the_promises_of_the_engine_s_suite(tmp_path, binary, started):
    program = engine_tests()
    kinds = dict.fromkeys([*PLACES, "hive3"])
    places = [Place(kind, tmp_path / kind, binary, started) for kind in kinds]
    environment = dict(CREDENTIALS)
    for place in places:
        environment.update(place.environment)
        # The embedded catalog is made when it is first looked for.
        assert place.call("table", "list").code == 0
    environment["INSIGHTERA_TEST_PROJECTS"] = ":".join(str(place.folder) for place in places)
    done = subprocess.run([program, "catalogs::"], cwd=ROOT / "crates" / "engine", capture_output=True, text=True,
                          env={**os.environ, **environment}, timeout=300)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]


def test_postgres_is_spoken_to_in_secret_where_it_is_asked(tmp_path, binary, started, small_model):
    server = started("postgres-tls", lambda home: servers.Postgres(home / "server", tls=True))
    place = Place("postgres", tmp_path / "project", binary, lambda *_: server)
    settings = place.folder / "insightera.toml"
    settings.write_text(settings.read_text().replace("/lake\"", "/lake?sslmode=require\""))
    refused = place.call("table", "list")
    assert refused.code == 1 and "certificate" in refused.stderr and "SSL_CERT_FILE" in refused.stderr, refused
    place.environment["SSL_CERT_FILE"] = str(server.certificate)
    place.prepare(small_model)
    assert place.run()["status"] == "committed"
    # A server that logs how its clients came would do; this one is asked while somebody waits.
    gate = tmp_path / "gate"
    slow = place.start("run", "risk", "--full", environment={"INSIGHTERA_FAULT": f"pause:swap:{gate}"})
    wait_for(f"{gate}.waiting", slow)
    found = server.sql("SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) "
                       "WHERE a.application_name = 'insightera'")
    gate.touch()
    assert slow.wait(60) == 0
    assert found and all(ssl for (ssl,) in found), found


def test_predictions_are_those_of_the_embedded_catalog(tmp_path, binary, started, small_model):
    """The catalog has no say in what is predicted."""
    remote = Place("rest-s3", tmp_path / "remote", binary, started).prepare(small_model)
    remote.run()
    local = Project(tmp_path / "local", binary).create()
    local.make_table(FEATURES, rows(range(30)), rows(range(30, STUDENTS)))
    local.pipeline()
    local.register(small_model)
    local.run()
    columns = ("nim", "margin", "probability", "label", "feature_hash", "definition_hash")
    found = [multiset(project.table(OUTPUT).scan().to_arrow(), columns) for project in (remote, local)]
    assert found[0] == found[1]
    assert not any(math.isnan(row["probability"]) for row in remote.predictions())


@pytest.mark.parametrize("place", ["rest", "nessie-s3"], indirect=True)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rest_server_that_fails_at_a_commit_is_asked_what_became_of_it(place, when):
    """With tokens that are fetched, and one that expires in between."""
    proxy = servers.Proxy(place.address)
    settings = place.folder / "insightera.toml"
    settings.write_text(settings.read_text().replace(
        f'uri = "{place.address}"', f'uri = "{proxy.address}"\ncredential = "env:JUDGE_CREDENTIAL"'))
    place.environment["JUDGE_CREDENTIAL"] = "judge:of-the-client"
    place.run()
    place.change()
    proxy.fail = when
    answer = place.run()
    assert (answer["status"], proxy.failed) == ("committed", 1), answer
    assert place.counts() == AFTER_CHANGE
    assert place.run()["status"] == "unchanged"
    assert len(place.commits()) == (1 if place.kind == "nessie" else 2)
    # Another process's token; this one notices that its own is refused.
    before, proxy.token = proxy.tokens, "somebody-else's"
    assert place.run()["status"] == "unchanged"
    assert proxy.tokens > before
    place.environment["JUDGE_CREDENTIAL"] = "judge:wrong"
    refused = place.call("run", "risk")
    assert refused.code == 1 and "wrong" not in refused.stderr, refused
    assert "credential" in refused.stderr, refused
    proxy.stop()


def test_a_stream_keeps_its_state_in_the_store(tmp_path, binary, started, small_model):
    """Killed once, with the windows restored from the objects that the table names."""
    import test_stream

    place = Place("sqlite-s3", tmp_path / "project", binary, started).prepare(small_model)
    (place.folder / "events").mkdir()
    test_stream.append(place, "e", test_stream.events(0, 900))
    test_stream.write_pipeline(place, 'files = "events"')
    gate = tmp_path / "gate"
    doomed = place.start("stream", "live", "--until-end", environment={"INSIGHTERA_FAULT": f"pause:swap@8:{gate}"})
    wait_for(f"{gate}.waiting", doomed)
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    answer = place.call("stream", "live", "--until-end")
    assert answer.code == 0, answer
    test_stream.check(place, test_stream.fold_files(place), small_model)
    bucket = Path(place.server.log).parent / "objects" / "lake" / place.unique / "_streams" / "live"
    assert any(bucket.glob("*.state"))
    assert not (place.folder / "warehouse" / "_streams").exists()
