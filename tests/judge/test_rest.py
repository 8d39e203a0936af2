"""What two implementations of the REST protocol agree on, and what one of them does not do is said.

Iceberg's reference server and Project Nessie, which keeps one snapshot of each table and has branches and tags of its
own. `test_catalogs.py` does to both what it does to every catalog.
"""

import signal

import pyarrow as pa
import pytest

import servers
import test_stream
from lakehouse import FEATURES, OUTPUT, multiset, rows
from test_catalogs import STUDENTS, Place, wait_for

SERVERS = ["rest-s3", "nessie-s3"]
COLUMNS = ("nim", "margin", "probability", "label", "score_reason")


@pytest.fixture
def place(request, tmp_path, binary, started, small_model):
    return Place(request.param, tmp_path / "project", binary, started).prepare(small_model)


@pytest.mark.parametrize("place", SERVERS, indirect=True)
def test_columns_partitions_and_properties_change_and_others_see_them(place):
    for statement in (f"ALTER TABLE {FEATURES} ADD COLUMN faculty STRING",
                      f"ALTER TABLE {FEATURES} RENAME COLUMN y TO grade",
                      f"ALTER TABLE {FEATURES} ADD PARTITION FIELD faculty",
                      f"ALTER TABLE {FEATURES} SET TBLPROPERTIES ('judge' = 'was here', 'other' = '1')",
                      f"ALTER TABLE {FEATURES} UNSET TBLPROPERTIES ('other')",
                      f"INSERT INTO {FEATURES} VALUES ('900001', 1.5, 0.5, TIMESTAMP '2026-10-02 00:00:00', 'law')",
                      f"ALTER TABLE {FEATURES} DROP COLUMN x"):
        answer = place.call("sql", statement)
        assert answer.code == 0, (statement, answer)
    table = place.table(FEATURES)
    assert [field.name for field in table.schema().fields] == ["nim", "grade", "feature_timestamp", "faculty"]
    assert table.properties["judge"] == "was here" and "other" not in table.properties
    assert [field.name for field in table.spec().fields] == ["faculty"]
    judged = table.scan().to_arrow()
    ours = place.sql(f"SELECT nim, grade, faculty FROM {FEATURES}")
    as_tuple = lambda row: (row["nim"], row["grade"], row["faculty"])  # noqa: E731
    by_nim = lambda found: sorted(map(as_tuple, found))  # noqa: E731
    assert by_nim(ours) == by_nim(judged.to_pylist()) and judged.num_rows == STUDENTS + 1
    assert ("900001", 0.5, "law") in by_nim(ours)


@pytest.mark.parametrize("place", SERVERS, indirect=True)
def test_nobody_is_scored_again_after_another_writer_s_commit(place):
    """A server that keeps one snapshot does not keep the pipeline's: the table's properties tell how far it was."""
    place.run()
    table = place.table(OUTPUT)
    row = table.scan().to_arrow().slice(0, 1)
    for name, value in (("nim", "999999"), ("pipeline", "another")):
        at = row.column_names.index(name)
        row = row.set_column(at, row.schema.field(at), pa.array([value], row.schema.field(at).type))
    table.append(row)
    assert place.run()["status"] == "unchanged"
    place.change()
    answer = place.run()
    assert (answer["status"], answer["scored"], answer["removed"]) == ("committed", 8, 2), answer
    assert place.verify()[0] == 0
    assert place.table(OUTPUT).scan().to_arrow().num_rows == STUDENTS + 1 + 8 + 2


@pytest.mark.parametrize("place", SERVERS, indirect=True)
def test_tags_branches_and_rollback_are_done_or_refused(place):
    place.run()
    before = place.table(OUTPUT).metadata.current_snapshot_id
    tagged = place.call("table", "tag", OUTPUT, "exams")
    branched = place.call("sql", f"ALTER TABLE {OUTPUT} CREATE BRANCH aside")
    if place.kind == "nessie":
        for answer, name in ((tagged, "exams"), (branched, "aside")):
            assert answer.code == 1 and f"left out the tag or branch `{name}`" in answer.stderr, answer
            assert "Nessie" in answer.stderr, answer
        enabled = place.call("sql", f"ALTER TABLE {OUTPUT} SET TBLPROPERTIES ('gc.enabled' = 'true')")
        assert enabled.code == 0 or "left out the property `gc.enabled`" in enabled.stderr, enabled
        place.change()
        place.run()
        answer = place.call("table", "rollback", OUTPUT, "--to", before)
        assert answer.code == 1 and str(before) in answer.stderr, answer
        return
    assert (tagged.code, branched.code) == (0, 0), (tagged, branched)
    assert {"main", "exams", "aside"} <= set(place.table(OUTPUT).metadata.refs)
    place.change()
    place.run()
    assert place.sql(f"SELECT count(*) AS n FROM {OUTPUT} VERSION AS OF 'exams'") == [{"n": STUDENTS}]
    answer = place.call("table", "rollback", OUTPUT, "--to", "exams")
    assert answer.code == 0, answer
    assert place.table(OUTPUT).scan().to_arrow().num_rows == STUDENTS
    assert place.run()["scored"] == 8


@pytest.mark.parametrize("place", SERVERS, indirect=True)
def test_rows_whose_answer_was_lost_among_others_are_written_once_or_the_doubt_is_told(place):
    """Another commit comes right after the one whose answer is lost."""
    proxy = servers.Proxy(place.address)
    settings = place.folder / "insightera.toml"
    direct = settings.read_text()
    proxied = direct.replace(f'uri = "{place.address}"', f'uri = "{proxy.address}"\ncredential = "env:JUDGE_CREDENTIAL"')
    place.environment["JUDGE_CREDENTIAL"] = "judge:of-the-client"
    other = place.table(FEATURES)
    proxy.meanwhile = lambda: other.refresh().append(rows([900002]).cast(other.scan().to_arrow().schema))
    settings.write_text(proxied)
    proxy.fail = "after"
    answer = place.call("sql", f"INSERT INTO {FEATURES} VALUES ('900001', 1.5, 0.5, TIMESTAMP '2026-10-02 00:00:00')")
    settings.write_text(direct)
    proxy.stop()
    assert proxy.failed == 1
    if place.kind == "nessie":
        assert answer.code != 0 and "is not known" in answer.stderr, answer
    else:
        assert answer.code == 0, answer
    found = place.table(FEATURES).scan().to_arrow()["nim"].to_pylist()
    assert (found.count("900001"), found.count("900002")) == (1, 1)


@pytest.mark.parametrize("place", ["nessie-s3"], indirect=True)
def test_a_stream_goes_on_where_it_was_behind_another_commit(place, tmp_path, small_model):
    (place.folder / "events").mkdir()
    test_stream.append(place, "e", test_stream.events(0, 600))
    test_stream.write_pipeline(place, 'files = "events"')
    assert place.call("stream", "live", "--until-end").code == 0
    done = place.call("table", "maintain", "predictions.live")
    assert done.code == 0, done
    test_stream.append(place, "e", test_stream.events(0, 300, start=600))
    gate = tmp_path / "gate"
    doomed = place.start("stream", "live", "--until-end", environment={"INSIGHTERA_FAULT": f"pause:swap@2:{gate}"})
    wait_for(f"{gate}.waiting", doomed)
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    answer = place.call("stream", "live", "--until-end")
    assert answer.code == 0, answer
    test_stream.check(place, test_stream.fold_files(place), small_model)


@pytest.mark.parametrize("place", SERVERS, indirect=True)
def test_an_entity_is_not_erased_through_a_server_that_writes_metadata(place):
    place.run()
    before = multiset(place.table(OUTPUT).scan().to_arrow(), COLUMNS)
    for further in (["--dry-run"], ["--reason", "request 17", "--yes"]):
        answer = place.call("table", "erase", "--entity", "000037", *further)
        assert answer.code == 1 and "REST" in answer.stderr and "Nothing was changed" in answer.stderr, answer
    assert multiset(place.table(OUTPUT).scan().to_arrow(), COLUMNS) == before
    assert not (place.folder / "erasures").exists()
