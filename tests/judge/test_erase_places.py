"""The right to be forgotten in other catalogs and stores: every object of the bucket is read by PyArrow."""

import gzip
import os
import re
import xml.etree.ElementTree
from pathlib import Path

import fastavro
import pyarrow.parquet as pq
import pytest

import servers
from lakehouse import FEATURES, OUTPUT, multiset
from test_catalogs import STUDENTS, Place

NIM = "000037"
WORD = re.compile(rb"(?<![0-9A-Za-z])" + NIM.encode() + rb"(?![0-9A-Za-z])")


def copied(place, folder):
    """Everything below the place's part of the bucket, fetched."""
    from pyarrow import fs

    store = fs.S3FileSystem(access_key=servers.KEY_ID, secret_key=servers.KEY, region="us-east-1",
                            endpoint_override=f"127.0.0.1:{place.server.port}", scheme="http")
    found = [info for info in store.get_file_info(fs.FileSelector(f"lake/{place.unique}", recursive=True)) if info.is_file]
    for info in found:
        target = Path(folder) / info.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.open_input_stream(info.path) as source:
            target.write_bytes(source.read())
    return len(found)


def unpacked(path):
    """The bytes of a file as they are, and what its format's own reader finds in it."""
    data = path.read_bytes()
    yield data
    if data.startswith(b"PAR1"):
        for column in pq.read_table(path).columns:
            yield "\n".join(map(str, column.to_pylist())).encode()
    elif data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    elif data.startswith(b"Obj\x01"):
        with open(path, "rb") as file:
            reader = fastavro.reader(file)
            yield str(reader.metadata).encode()
            for record in reader:
                yield str(record).encode()


def holding(*folders):
    """Files with the student in their bytes, as they are or unpacked, or in their name."""
    paths = [Path(at) / name for folder in folders for at, _, names in os.walk(folder) for name in names]
    return [str(path) for path in paths if NIM in path.name or any(map(WORD.search, unpacked(path)))]


def lived(place):
    """Runs over changing features, a tag, a branch, rewritten files."""
    for day in range(4):
        if day:
            answer = place.call("sql", f"UPDATE {FEATURES} SET x = x + {day}.5 WHERE nim < '000050'")
            assert answer.code == 0, answer
        place.run()
        if day == 1:
            assert place.call("table", "tag", OUTPUT, "exams").code == 0
            place.sql(f"ALTER TABLE {OUTPUT} CREATE BRANCH aside")
        if day == 2:
            place.sql(f"CALL system.rewrite_data_files(table => '{OUTPUT}', options => map('rewrite-all', 'true'))")
    return place


def everybody_else(place):
    table = place.table(OUTPUT)
    found = {}
    for name, snapshot in [(s.snapshot_id, s.snapshot_id) for s in table.metadata.snapshots] + [
            (name, ref.snapshot_id) for name, ref in table.metadata.refs.items()]:
        rows = table.scan(snapshot_id=snapshot).to_arrow()
        found[name] = multiset(rows.filter([nim != NIM for nim in rows["nim"].to_pylist()]))
    return found


@pytest.mark.parametrize("kind", ["postgres-s3", "hive4"])
def test_a_student_leaves_every_file_and_nobody_else_does(kind, tmp_path, binary, started, small_model):
    place = lived(Place(kind, tmp_path / "project", binary, started).prepare(small_model))
    before = everybody_else(place)
    if place.store:
        assert copied(place, tmp_path / "before") > 20
        assert holding(tmp_path / "before")
    done = place.call("table", "erase", "--entity", NIM, "--reason", "request 17", "--table", FEATURES, "--yes",
                      "--format", "json")
    assert done.code == 0, done
    report = done.json
    erased = {table["table"]: table for table in report["tables"]}
    assert erased[OUTPUT]["rows"] >= 4 and erased[FEATURES]["rows"] >= 1, report
    assert not any(table.get("left") for table in report["tables"])
    assert report["proof"]["ok"] and report["proof"]["files"] > 10 and sum(t["rows"] for t in report["proof"]["tables"]) > 200
    if place.store:
        assert "cannot be seen from here" in done.stderr
        assert copied(place, tmp_path / "after") > 20
        assert holding(tmp_path / "after", place.folder) == []
    else:
        assert holding(place.folder) == []
    # PyIceberg, and DuckDB, by way of the catalog.
    assert everybody_else(place) == before
    assert NIM not in place.table(OUTPUT).scan().to_arrow()["nim"].to_pylist()
    assert multiset(place.duckdb(OUTPUT)) == before["main"]
    # The features come back; the student is not scored.
    answer = place.call("sql", f"INSERT INTO {FEATURES} VALUES ('{NIM}', 1.0, 2.0, TIMESTAMP '2026-10-03 00:00:00')")
    assert answer.code == 0, answer
    answer = place.run()
    assert (answer["suppressed"], answer["scored"]) == (1, 0), answer
    assert place.verify()[0] == 0
    assert NIM not in place.table(OUTPUT).scan().to_arrow()["nim"].to_pylist()
    assert len(set(place.table(OUTPUT).scan().to_arrow()["nim"].to_pylist())) == STUDENTS - 1


def versions(server):
    """The versions and delete markers in the bucket: key, version, whether it is a version."""
    listed = xml.etree.ElementTree.fromstring(servers.ask_s3(server, "GET", query={"versions": ""}))
    found = []
    for entry in listed:
        kind = entry.tag.split("}")[-1]
        if kind in ("Version", "DeleteMarker"):
            part = {child.tag.split("}")[-1]: child.text for child in entry}
            found.append((part["Key"], part["VersionId"], kind == "Version", part["IsLatest"] == "true"))
    return found


def versioning(server, status):
    body = (f'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>{status}</Status>'
            "</VersioningConfiguration>").encode()
    servers.ask_s3(server, "PUT", query={"versioning": ""}, body=body)


def test_a_bucket_that_keeps_versions_is_told(tmp_path, binary, started, small_model):
    server = started("s3-versions", lambda home: servers.s3(home, versions=True))
    versioning(server, "Enabled")
    place = Place("sqlite-s3", tmp_path / "project", binary, lambda *_: server).prepare(small_model)
    place.run()
    location = place.metadata_location(OUTPUT)
    for further in (["--dry-run"], ["--reason", "request 17", "--yes"]):
        answer = place.call("table", "erase", "--entity", NIM, *further)
        assert answer.code == 1 and "keeps versions" in answer.stderr and "Nothing was changed" in answer.stderr, answer
    assert place.metadata_location(OUTPUT) == location and not (place.folder / "erasures").exists()

    # Suspended, with objects from before: what is removed of them stays, and that is said.
    versioning(server, "Suspended")
    place.change()
    place.run()
    erase = ["table", "erase", "--entity", NIM, "--reason", "request 17", "--table", FEATURES, "--yes"]
    done = place.call(*erase)
    assert done.code == 1 and "as earlier versions" in done.stdout, done
    current = {key: is_version for key, _, is_version, latest in versions(server) if latest}
    old = [(key, version) for key, version, is_version, latest in versions(server) if is_version and not latest]
    assert old and all(not current.get(key, False) for key, _ in old)
    holds = []
    for key, version in old:
        file = tmp_path / "old" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(servers.ask_s3(server, "GET", key, {"versionId": version}))
        holds += holding(file.parent)
    assert holds, "the student is in the earlier versions"
    # Somebody removes them; the order is then complete.
    for key, version in old:
        servers.ask_s3(server, "DELETE", key, {"versionId": version})
    done = place.call(*erase, "--format", "json")
    assert done.code == 0 and done.json["proof"]["ok"], done
    copied(place, tmp_path / "after")
    assert holding(tmp_path / "after", place.folder) == []
