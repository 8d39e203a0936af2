"""A Hive Metastore that is not ours alone: Spark and PyIceberg write the same tables, locks are held, answers lost.

`test_catalogs.py` does to it what it does to every catalog.
"""

import json
import os

import pytest

import hive_servers
from hive_servers import HiveProxy
from lakehouse import FEATURES, OUTPUT, multiset
from test_catalogs import AFTER_CHANGE, STUDENTS, Place, wait_for

LONG = bool(os.environ.get("INSIGHTERA_TEST_LONG"))
COLUMNS = ("nim", "margin", "probability", "label", "feature_timestamp", "score_reason")


@pytest.fixture
def place(request, tmp_path, binary, started, small_model):
    return Place(request.param, tmp_path / "project", binary, started).prepare(small_model)


@pytest.fixture
def hive_in_spark(spark_driver):
    """A function: place -> a Spark session with its metastore as `hms`, by Java's own HiveCatalog."""

    def open_catalog(place):
        spark = spark_driver.newSession()
        # Iceberg keeps clients by the address of the metastore, and Hadoop's settings are those of the driver.
        for key, value in {"": "org.apache.iceberg.spark.SparkCatalog", ".type": "hive", ".uri": place.hive.uri,
                           ".warehouse": place.warehouse, ".cache-enabled": "false"}.items():
            spark.conf.set(f"spark.sql.catalog.hms{key}", value)
        return spark

    return open_catalog


def in_spark(spark, table):
    import pyarrow as pa

    frame = spark.table(f"hms.{table}")
    found = [row.asDict() for row in frame.collect()]
    return pa.table({column: [row[column] for row in found] for column in frame.columns})


@pytest.mark.parametrize("place", ["hive3"], indirect=True)
def test_spark_reads_what_we_write_and_we_read_what_spark_writes(place, hive_in_spark, tmp_path):
    place.run()
    spark = hive_in_spark(place)
    judged = place.table(OUTPUT).scan().to_arrow()
    assert multiset(in_spark(spark, OUTPUT), COLUMNS) == multiset(judged, COLUMNS)

    # Spark writes the inputs: rows, a deletion, a column.
    spark.sql(f"INSERT INTO hms.{FEATURES} VALUES ('900001', 1.5, 0.5, TIMESTAMP '2026-10-02 00:00:00')")
    spark.sql(f"DELETE FROM hms.{FEATURES} WHERE nim = '000000'")
    spark.sql(f"ALTER TABLE hms.{FEATURES} ADD COLUMN faculty STRING")
    answer = place.run()
    assert (answer["status"], answer["scored"], answer["removed"]) == ("committed", 1, 1), answer
    entry = place.hive.entry(FEATURES)
    assert entry.sd.cols[-1].name == "faculty"

    # Spark commits between our files and our pointer.
    place.insert_one = place.call("sql", f"INSERT INTO {FEATURES} VALUES ('900002', 1.0, 2.0, "
                                         f"TIMESTAMP '2026-10-02 00:00:00', 'law')")
    assert place.insert_one.code == 0, place.insert_one
    gate = tmp_path / "gate"
    slow = place.start("run", "risk", environment={"INSIGHTERA_FAULT": f"pause:swap:{gate}"})
    wait_for(f"{gate}.waiting", slow)
    spark.sql(f"ALTER TABLE hms.{OUTPUT} SET TBLPROPERTIES ('judge' = 'was here')")
    between = place.metadata_location(OUTPUT)
    gate.touch()
    output, errors = slow.communicate(timeout=120)
    assert slow.returncode == 0, output + errors
    table = place.table(OUTPUT)
    assert table.properties["judge"] == "was here"
    assert between in [entry.metadata_file for entry in table.metadata.metadata_log]
    assert place.counts() == {"first": STUDENTS, "insert": 2, "removed": 1}

    # The entry says what Java's library says of a table: counts, columns, the pointer before.
    entry = place.hive.entry(OUTPUT)
    assert entry.tableType == "EXTERNAL_TABLE" and entry.parameters["EXTERNAL"] == "TRUE"
    assert entry.parameters["previous_metadata_location"] == between
    assert entry.parameters["numRows"] == str(STUDENTS + 3)
    assert entry.parameters["current-snapshot-id"] == str(table.metadata.current_snapshot_id)
    assert json.loads(entry.parameters["current-schema"])["fields"][0]["name"] == table.schema().fields[0].name
    assert [column.name for column in entry.sd.cols] == [field.name for field in table.schema().fields]
    spark.sql(f"INSERT INTO hms.{FEATURES} SELECT '900003', x, y, feature_timestamp, faculty FROM hms.{FEATURES} LIMIT 1")
    by_java = place.hive.entry(FEATURES)
    assert place.call("sql", f"DELETE FROM {FEATURES} WHERE nim = '900003'").code == 0
    by_us = place.hive.entry(FEATURES)
    assert set(by_java.parameters) <= set(by_us.parameters) | {"totalSize"}, (by_java.parameters, by_us.parameters)
    assert by_us.sd.inputFormat == by_java.sd.inputFormat and by_us.sd.outputFormat == by_java.sd.outputFormat
    assert by_us.sd.serdeInfo.serializationLib == by_java.sd.serdeInfo.serializationLib
    assert by_us.sd.location == by_java.sd.location
    multiset_of = lambda: multiset(in_spark(spark, FEATURES))  # noqa: E731
    assert multiset_of() == multiset(place.table(FEATURES).scan().to_arrow(), in_spark(spark, FEATURES).column_names)


@pytest.mark.parametrize(("place", "when"), [
    (version, when) for version in ("hive3", "hive4") for when in ("before", "after")
    if LONG or (version, when) == ("hive3", "after")], indirect=["place"])
def test_an_alteration_that_is_lost_is_found_out(place, when):
    place.run()
    place.change()
    proxy = HiveProxy(place.hive.port)
    settings = place.folder / "insightera.toml"
    settings.write_text(settings.read_text().replace(str(place.hive.port), str(proxy.port)))
    proxy.fail = when
    answer = place.run()
    assert (answer["status"], proxy.failed) == ("committed", 1), answer
    assert place.counts() == AFTER_CHANGE
    assert place.run()["status"] == "unchanged"
    assert len(place.commits()) == 2
    proxy.stop()
    # No lock is left.
    with place.hive.catalog("file:///nowhere")._client as client:
        from hive_metastore.ttypes import ShowLocksRequest

        assert not client.show_locks(ShowLocksRequest(isExtended=False)).locks


@pytest.mark.parametrize("place", ["hive4"], indirect=True)
def test_hive_4_compares_by_itself_where_nobody_locks(place):
    """Somebody commits between our look at the entry and our alteration of it."""
    place.run()
    place.change()
    proxy = HiveProxy(place.hive.port)
    settings = place.folder / "insightera.toml"
    text = settings.read_text().replace(str(place.hive.port), str(proxy.port))
    settings.write_text(text.replace("[storage]", "lock = false\n[storage]"))

    def commit():
        with place.table(OUTPUT).transaction() as transaction:
            transaction.set_properties(judge="was here")

    proxy.fail = commit
    assert place.run()["status"] == "committed"
    proxy.stop()
    assert proxy.failed == 1
    assert place.table(OUTPUT).properties["judge"] == "was here"
    assert place.counts() == AFTER_CHANGE
    assert "The table has been modified" in place.hive.server.log.read_text()


@pytest.mark.parametrize("place", ["hive3", "hive4"] if LONG else ["hive3"], indirect=True)
def test_a_lock_of_somebody_else_is_waited_for(place):
    from hive_metastore.ttypes import UnlockRequest

    place.run()
    place.change()
    catalog = place.hive.catalog("file:///nowhere")
    database, table = OUTPUT.split(".")
    with catalog._client as client:
        lock = client.lock(catalog._create_lock_request(database, table))
        before = place.metadata_location(OUTPUT)
        waiting = place.start("run", "risk")
        try:
            waiting.wait(2)
        except Exception:  # noqa: BLE001  it waits
            pass
        assert waiting.poll() is None, waiting.communicate()
        assert place.metadata_location(OUTPUT) == before
    with catalog._client as client:
        client.unlock(UnlockRequest(lockid=lock.lockid))
    output, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, output + errors
    assert place.counts() == AFTER_CHANGE


def test_a_table_of_hive_s_own_is_not_taken_for_one_of_iceberg(tmp_path, binary, started):
    from hive_metastore.ttypes import Database, FieldSchema, SerDeInfo, StorageDescriptor, Table

    place = Place("hive3", tmp_path / "project", binary, started)
    with place.hive.catalog("file:///nowhere")._client as client:
        client.create_database(Database(name="old", locationUri=f"{place.warehouse}/old"))
        columns = [FieldSchema("a", "string", None)]
        client.create_table(Table(dbName="old", tableName="plain", tableType="MANAGED_TABLE", parameters={},
                                  sd=StorageDescriptor(cols=columns, serdeInfo=SerDeInfo())))
    listed = place.call("table", "list")
    assert listed.code == 0 and "plain" not in listed.stdout, listed
    answer = place.call("sql", "SELECT * FROM old.plain")
    assert answer.code == 1 and "no table of Iceberg" in answer.stderr, answer


if LONG:

    @pytest.mark.parametrize("place", ["hive3", "hive4"], indirect=True)
    def test_pyiceberg_commits_between_our_files_and_our_pointer(place, tmp_path):
        place.run()
        place.change()
        gate = tmp_path / "gate"
        slow = place.start("run", "risk", environment={"INSIGHTERA_FAULT": f"pause:swap:{gate}"})
        wait_for(f"{gate}.waiting", slow)
        with place.table(OUTPUT).transaction() as transaction:
            transaction.set_properties(judge="was here")
        gate.touch()
        output, errors = slow.communicate(timeout=120)
        assert slow.returncode == 0, output + errors
        assert place.table(OUTPUT).properties["judge"] == "was here"
        assert place.counts() == AFTER_CHANGE

    def test_hive_4_over_a_database_that_cannot_compare_relies_on_the_lock(tmp_path, binary, started, small_model):
        server = started("hive4-derby", lambda home: hive_servers.Hive("hive4", home))
        place = Place("hive4", tmp_path / "project", binary, lambda *_: server).prepare(small_model)
        place.run()
        place.change()
        assert place.run()["status"] == "committed"
        assert place.counts() == AFTER_CHANGE
        settings = place.folder / "insightera.toml"
        settings.write_text(settings.read_text().replace("[storage]", "lock = false\n[storage]"))
        refused = place.call("sql", f"DELETE FROM {FEATURES} WHERE nim = '000003'")
        assert refused.code == 1 and "lock = false" in refused.stderr, refused
