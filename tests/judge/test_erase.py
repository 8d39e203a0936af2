"""The right to be forgotten: others read every snapshot and every byte, and the student is nowhere."""

import gzip
import json
import os
import re
import zlib

import pyarrow.parquet as pq
import pytest

from lakehouse import FEATURES, OUTPUT, multiset, read_with_duckdb, rows

STUDENT = 137
NIM = f"{STUDENT:06d}"
WORD = re.compile(rb"(?<![0-9A-Za-z])" + NIM.encode() + rb"(?![0-9A-Za-z])")


def everything(project, table):
    """The rows of everybody else, of every snapshot, tag and branch, by PyIceberg."""
    loaded = project.table(table)
    versions = {s.snapshot_id: s.snapshot_id for s in loaded.metadata.snapshots}
    versions |= {name: ref.snapshot_id for name, ref in loaded.metadata.refs.items()}
    scans = {name: loaded.scan(snapshot_id=snapshot).to_arrow() for name, snapshot in versions.items()}
    return {name: multiset(found.filter([nim != NIM for nim in found["nim"].to_pylist()])) for name, found in scans.items()}


def unpacked(path):
    """The bytes of a file, as they are and unpacked."""
    data = path.read_bytes()
    yield data
    if data.startswith(b"PAR1"):
        for column in pq.read_table(path).columns:
            yield "\n".join(str(value) for value in column.to_pylist()).encode()
    elif data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    elif data.startswith(b"Obj\x01"):
        # Avro's deflate has no header: every byte may begin a block.
        for at in range(len(data)):
            try:
                block = zlib.decompressobj(-15).decompress(data[at:])
            except zlib.error:
                continue
            if len(block) > 64:
                yield block


def holding(project, *folders):
    found = []
    for folder in folders:
        for at, _, names in os.walk(project.folder / folder):
            found += [os.path.join(at, name) for name in names
                      if any(WORD.search(data) or (name.endswith(".avro") and NIM.encode() in data)
                             for data in unpacked(project.folder / at / name))]
    return found


@pytest.fixture
def lived(project):
    """Five runs; a tag, a branch, an added column, rewritten files, expired snapshots."""
    for day in range(5):
        if day:
            project.table(FEATURES).overwrite(rows(range(200), x=lambda n: n % (day + 3) * 0.5))
        project.run()
        if day == 1:
            assert project.call("table", "tag", OUTPUT, "exams").code == 0
            project.sql(f"ALTER TABLE {OUTPUT} CREATE BRANCH aside")
        if day == 3:
            project.sql(f"CALL system.rewrite_data_files(table => '{OUTPUT}', options => map('rewrite-all', 'true'))")
    # A file whose only row, and both bounds, are the student's.
    project.table(FEATURES).overwrite(rows(range(200), x=lambda n: -9.0 if n == STUDENT else n % 7 * 0.5))
    project.run()
    return project


def test_others_find_everybody_else_at_every_snapshot_and_the_student_nowhere(lived):
    before, loaded = everything(lived, OUTPUT), lived.table(OUTPUT)
    assert holding(lived, "warehouse/predictions", ".insightera")
    planned = lived.call("table", "erase", "--entity", f"nim={NIM}", "--dry-run", "--format", "json")
    assert planned.code == 0, planned
    assert lived.table(OUTPUT).metadata_location == loaded.metadata_location, "a dry run changes nothing"
    refused = lived.call("table", "erase", "--entity", NIM, "--reason", "request 17")
    assert refused.code == 1 and "--yes" in refused.stderr, refused
    done = lived.call("table", "erase", "--entity", NIM, "--reason", "request 17", "--yes", "--format", "json")
    assert done.code == 0, done
    report = done.json
    table = next(table for table in report["tables"] if table["table"] == OUTPUT)
    assert table["rows"] == planned.json["tables"][0]["rows"] > 5
    lists = {s.snapshot_id: s.manifest_list for s in loaded.metadata.snapshots}
    now = {s.snapshot_id: s.manifest_list for s in lived.table(OUTPUT).metadata.snapshots}
    for moved in table["snapshots"]:
        assert (lists[moved["snapshot_id"]], now[moved["snapshot_id"]]) == (moved["old"], moved["new"])
    assert {"main", "exams", "aside"} <= {name for moved in table["snapshots"] for name in moved["refs"]}
    after = lived.table(OUTPUT)
    found = {name: multiset(after.scan(snapshot_id=ref.snapshot_id).to_arrow()) for name, ref in after.metadata.refs.items()}
    found |= {s.snapshot_id: multiset(after.scan(snapshot_id=s.snapshot_id).to_arrow()) for s in after.metadata.snapshots}
    assert found == before
    assert multiset(read_with_duckdb(lived, OUTPUT)) == before["main"]
    for snapshot in after.metadata.snapshots:
        total = sum(task.file.record_count for task in after.scan(snapshot_id=snapshot.snapshot_id).plan_files())
        assert int(snapshot.summary["total-records"]) == total
    assert holding(lived, "warehouse/predictions", "warehouse/.quarantine", "warehouse/_streams", ".insightera", "erasures") == []
    assert report["kept"] == {FEATURES: report["kept"][FEATURES]}, "the features are the university's own"
    proof = json.loads(open(report["proof_file"]).read())
    assert proof["ok"] and NIM not in json.dumps(proof)
    assert sum(t["rows"] for t in proof["tables"]) > 1000 and proof["unpacked_bytes"] > proof["bytes"] / 2


def test_no_later_run_scores_the_student(lived):
    done = lived.call("table", "erase", "--entity", NIM, "--reason", "request 17", "--yes")
    assert done.code == 0, done
    assert lived.verify()[0] == 0
    lived.table(FEATURES).overwrite(rows(range(201), x=lambda n: n % 4 * 0.25))
    run = lived.run()
    assert run["suppressed"] == 1 and run["removed"] == 0 and run["entities"] == 200, run
    code, report = lived.verify()
    assert code == 0, report
    assert NIM not in lived.table(OUTPUT).scan().to_arrow()["nim"].to_pylist()
    again = lived.call("table", "erase", "--entity", f"nim={NIM}", "--reason", "request 17", "--yes", "--format", "json")
    assert again.code == 0 and again.json["tables"] == [] and again.json["number"] == 1, again


def test_position_deletes_of_another_writer_hit_the_same_rows(lived, run_in_spark):
    """Spark deletes by position around the student; the positions move along."""
    others = [f"{n:06d}" for n in (STUDENT - 1, STUDENT, STUDENT + 1, STUDENT + 2)]
    names = ", ".join(f"'{nim}'" for nim in others)
    run_in_spark(lived, f"ALTER TABLE insightera.{OUTPUT} SET TBLPROPERTIES ('write.delete.mode' = 'merge-on-read')",
                 f"DELETE FROM insightera.{OUTPUT} WHERE nim IN ({names}) AND model_version = '1'", "SELECT 1")
    deletes = lived.sql(f"SELECT count(*) AS n FROM {OUTPUT}.files WHERE content = 1")[0]["n"]
    before = everything(lived, OUTPUT)
    done = lived.call("table", "erase", "--entity", NIM, "--reason", "request 17", "--yes")
    assert done.code == 0, done
    assert everything(lived, OUTPUT) == before
    assert multiset(read_with_duckdb(lived, OUTPUT)) == before["main"]
    left = run_in_spark(lived, f"SELECT count(*) AS n, count(DISTINCT nim) AS students FROM insightera.{OUTPUT}")
    assert left == [{"n": sum(before["main"].values()), "students": 196}], left
    assert holding(lived, "warehouse/predictions") == []
    assert deletes > 0
