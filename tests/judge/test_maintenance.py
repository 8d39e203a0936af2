"""Maintenance: the same rows in fewer files, and nothing removed that anybody needs."""

import os
import shutil
import time

import pytest

import lakehouse
from conftest import missing
from lakehouse import FEATURES, OUTPUT, SCHEMA, multiset, read_with_duckdb, read_with_pyiceberg, rows

DAY = 24 * 60 * 60


def everything(project, table):
    """The rows of every snapshot."""
    loaded = project.table(table)
    return {s.snapshot_id: multiset(loaded.scan(snapshot_id=s.snapshot_id).to_arrow()) for s in loaded.metadata.snapshots}


def reachable(project, table):
    """Every file that some snapshot needs, by PyIceberg alone."""
    loaded = project.table(table)
    found = {loaded.metadata_location} | {entry.metadata_file for entry in loaded.metadata.metadata_log}
    for snapshot in loaded.metadata.snapshots:
        found.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(loaded.io):
            found.add(manifest.manifest_path)
            found.update(entry.data_file.file_path for entry in manifest.fetch_manifest_entry(loaded.io))
    return {path.removeprefix("file://") for path in found}


def on_disk(project, table):
    folder = project.table(table).location().removeprefix("file://")
    return {os.path.join(at, name) for at, _, names in os.walk(folder) for name in names}


@pytest.fixture
def busy(project):
    """Eight runs, each a commit with a small file; a tag on the third."""
    for day in range(8):
        if day:
            project.table(FEATURES).overwrite(rows(range(200), x=lambda n: n % (day + 3) * 0.5))
        project.run()
        if day == 2:
            current = project.table(OUTPUT).current_snapshot().snapshot_id
            assert project.call("table", "tag", OUTPUT, "third", "--snapshot", current).code == 0
    return project


def test_rewritten_files_hold_the_same_rows_and_the_next_run_goes_on(busy):
    before, tagged = multiset(read_with_pyiceberg(busy, OUTPUT)), everything(busy, OUTPUT)
    files = busy.sql(f"SELECT count(*) AS n FROM {OUTPUT}.files")[0]["n"]
    done = busy.sql(f"CALL spark_catalog.system.rewrite_data_files(table => '{OUTPUT}', strategy => 'binpack', "
                    f"options => map('target-file-size-bytes', '536870912'))")[0]
    assert done["rewritten_data_files_count"] == files and done["added_data_files_count"] == 1, done
    assert done["failed_data_files_count"] == 0 and done["rewritten_bytes_count"] > 0
    assert multiset(read_with_pyiceberg(busy, OUTPUT)) == before == multiset(read_with_duckdb(busy, OUTPUT))
    after = everything(busy, OUTPUT)
    assert all(after[snapshot] == found for snapshot, found in tagged.items())
    assert read_with_pyiceberg(busy, OUTPUT).num_rows == busy.sql(f"SELECT count(*) AS n FROM {OUTPUT}")[0]["n"]
    again = busy.sql(f"CALL system.rewrite_data_files('{OUTPUT}')")[0]
    assert again["rewritten_data_files_count"] == 0, "a second rewrite has nothing to do"
    assert busy.run()["status"] == "unchanged"
    assert busy.verify()[0] == 0
    os.system(f"rm -rf {busy.folder}/.insightera {busy.folder}/cache")
    busy.table(FEATURES).append(rows(range(200, 203)))
    assert busy.run()["reasons"] == {"insert": 3} and busy.verify()[0] == 0


def test_expiry_keeps_tags_the_newest_and_all_that_they_need(busy):
    busy.sql(f"CALL system.rewrite_data_files('{OUTPUT}', 'binpack')")
    before = everything(busy, OUTPUT)
    third = busy.sql(f"SELECT snapshot_id FROM {OUTPUT}.refs WHERE name = 'third'")[0]["snapshot_id"]
    now = busy.table(OUTPUT).current_snapshot().snapshot_id
    files = on_disk(busy, OUTPUT)
    done = busy.sql(f"CALL system.expire_snapshots(table => '{OUTPUT}', older_than => current_timestamp(), retain_last => 2)")[0]
    after = everything(busy, OUTPUT)
    parent = next(s for s in busy.table(OUTPUT).metadata.snapshots if s.snapshot_id == now).parent_snapshot_id
    assert set(after) == {third, now, parent}
    assert all(after[snapshot] == before[snapshot] for snapshot in after)
    left = on_disk(busy, OUTPUT)
    assert reachable(busy, OUTPUT) <= left
    gone = files - left
    assert len([f for f in gone if os.path.basename(f).startswith("snap-")]) == done["deleted_manifest_lists_count"] == len(before) - 3
    assert len([f for f in gone if f.endswith(".parquet")]) == done["deleted_data_files_count"]
    assert multiset(read_with_duckdb(busy, OUTPUT)) == after[now]
    assert busy.run()["status"] == "unchanged" and busy.verify()[0] == 0
    rest = busy.sql(f"CALL system.expire_snapshots('{OUTPUT}', current_timestamp(), 1)")[0]
    assert rest["deleted_manifest_lists_count"] == 1
    assert multiset(busy.table(OUTPUT).scan(snapshot_id=third).to_arrow()) == before[third]
    # The pipeline's progress outlives the snapshots that carried it.
    assert busy.run()["status"] == "unchanged"
    busy.table(FEATURES).append(rows(range(300, 302)))
    assert busy.run()["reasons"] == {"insert": 2} and busy.verify()[0] == 0


def test_spark_gives_the_same_counts(tmp_path, binary, open_in_spark):
    """The same table and procedures, ours on one copy and Spark's on another."""
    ours, theirs = (lakehouse.Project(tmp_path / name, binary).create() for name in ("ours", "theirs"))
    for project in (ours, theirs):
        project.make_table(FEATURES, *[rows(range(n * 10, n * 10 + 10)) for n in range(7)])
        table = project.table(FEATURES)
        table.manage_snapshots().create_tag(table.metadata.snapshots[3].snapshot_id, "fourth").commit()
    spark = open_in_spark(theirs)
    for call in (f"rewrite_data_files(table => '{FEATURES}')",
                 f"rewrite_data_files(table => '{FEATURES}', options => map('rewrite-all', 'true'))",
                 f"rewrite_manifests('{FEATURES}')",
                 f"expire_snapshots(table => '{FEATURES}', older_than => TIMESTAMP '2100-01-01 00:00:00', retain_last => 1)",
                 f"remove_orphan_files(table => '{FEATURES}')"):
        found = ours.sql(f"CALL insightera.system.{call}")
        wanted = [row.asDict() for row in spark.sql(f"CALL insightera.system.{call}").collect()]
        for row in found + wanted:
            # The two writers' files differ in size.
            row.pop("rewritten_bytes_count", None)
            row.pop("removed_delete_files_count", None)
        assert found == wanted, (call, found, wanted)
    assert multiset(read_with_pyiceberg(ours, FEATURES)) == multiset(read_with_pyiceberg(theirs, FEATURES))


def test_position_deletes_are_folded_in(project, run_in_spark):
    run_in_spark(project, f"ALTER TABLE insightera.{FEATURES} SET TBLPROPERTIES ('write.delete.mode' = 'merge-on-read')",
                 f"DELETE FROM insightera.{FEATURES} WHERE nim IN ('000003', '000150')")
    assert project.sql(f"SELECT count(*) AS n FROM {FEATURES}.files WHERE content = 1")[0]["n"] > 0
    before = multiset(read_with_pyiceberg(project, FEATURES))
    done = project.sql(f"CALL system.rewrite_data_files(table => '{FEATURES}', options => map('delete-file-threshold', '1'))")[0]
    assert done["rewritten_data_files_count"] == 2 and done["removed_delete_files_count"] > 0, done
    assert multiset(read_with_pyiceberg(project, FEATURES)) == before == multiset(read_with_duckdb(project, FEATURES))
    assert project.sql(f"SELECT count(*) AS n FROM {FEATURES}.files WHERE content = 1") == [{"n": 0}]
    assert project.sql(f"SELECT count(*) AS n FROM {FEATURES}") == [{"n": 198}]


def test_orphans_are_moved_away_and_nothing_else(busy):
    location = busy.table(OUTPUT).location().removeprefix("file://")
    old = time.time() - 4 * DAY
    planted = [f"{location}/data/lost.parquet", f"{location}/metadata/lost-m0.avro", f"{location}/data/a=1/b/deep.parquet",
               f"{location}/metadata/00099-torn.gz.metadata.json"]
    for path in planted:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"left behind")
        os.utime(path, (old, old))
    young = f"{location}/data/young.parquet"
    open(young, "wb").close()
    needed = reachable(busy, OUTPUT)
    for path in needed:
        os.utime(path, (old, old))
    listed = busy.sql(f"CALL system.remove_orphan_files(table => '{OUTPUT}', dry_run => true)")
    assert sorted(row["orphan_file_location"] for row in listed) == sorted(planted)
    assert all(os.path.exists(path) for path in planted)
    moved = busy.sql(f"CALL system.remove_orphan_files(table => '{OUTPUT}')")
    assert moved == listed
    assert not any(os.path.exists(path) for path in planted) and not os.path.exists(f"{location}/data/a=1")
    assert os.path.exists(young) and needed <= on_disk(busy, OUTPUT)
    quarantine = [os.path.join(at, name) for at, _, names in os.walk(busy.folder / "warehouse" / ".quarantine") for name in names]
    assert sorted(map(os.path.basename, quarantine)) == sorted(map(os.path.basename, planted))
    assert all(open(path, "rb").read() == b"left behind" for path in quarantine)
    assert busy.run()["status"] == "unchanged" and busy.verify()[0] == 0


def test_orphans_of_a_shared_folder_are_refused(busy):
    location = busy.table(OUTPUT).location()
    busy.catalog().create_table("other.inside", schema=SCHEMA, location=f"{location}/data/inside")
    answer = busy.call("sql", f"CALL system.remove_orphan_files('{OUTPUT}')")
    assert answer.code == 1 and "are in one folder" in answer.stderr and "other.inside" in answer.stderr, answer
    busy.catalog().drop_table("other.inside")
    answer = busy.call("sql", f"CALL system.remove_orphan_files('{OUTPUT}')")
    assert answer.code == 1 and "belongs to a table with the uuid" in answer.stderr, answer


def test_maintain_says_what_is_due_and_does_it(busy):
    with open(busy.folder / "insightera.toml", "a") as file:
        file.write("\n[maintenance]\nexpire_after_days = 0\nkeep_snapshots = 3\nmin_input_files = 4\n")
    due = busy.json("table", "maintain", OUTPUT, "--dry-run")[0]
    snapshots = len(busy.table(OUTPUT).metadata.snapshots)
    assert due["rewrite_files"] == 8 and due["rewrite_groups"] == 1 and due["keep_snapshots"] == 4, due
    assert len(busy.table(OUTPUT).metadata.snapshots) == snapshots
    before = multiset(read_with_pyiceberg(busy, OUTPUT))
    reports = busy.json("table", "maintain", "--all")
    report = next(r for r in reports if r["table"] == OUTPUT)
    assert report["rewritten_files"] == 8 and report["added_files"] == 1 and report["expired_snapshots"] > 0, report
    assert len(busy.table(OUTPUT).metadata.snapshots) == 4
    assert multiset(read_with_pyiceberg(busy, OUTPUT)) == before
    assert reachable(busy, OUTPUT) <= on_disk(busy, OUTPUT)
    assert busy.run()["status"] == "unchanged" and busy.verify()[0] == 0


def test_maintenance_that_is_killed_anywhere_harms_nothing(busy, tmp_path):
    with open(busy.folder / "insightera.toml", "a") as file:
        file.write("\n[maintenance]\nexpire_after_days = 0\nkeep_snapshots = 2\nmin_input_files = 4\n")
    location = busy.table(OUTPUT).location().removeprefix("file://")
    orphan, old = f"{location}/data/lost.parquet", time.time() - 4 * DAY
    open(orphan, "wb").close()
    os.utime(orphan, (old, old))
    wanted = everything(busy, OUTPUT)
    rows_now = multiset(read_with_pyiceberg(busy, OUTPUT))
    aside, log = tmp_path / "aside", tmp_path / "operations"
    shutil.copytree(busy.folder, aside)

    def reset():
        shutil.rmtree(busy.folder)
        shutil.copytree(aside, busy.folder)

    busy.call("table", "maintain", OUTPUT, environment={"INSIGHTERA_FAULT": f"record:{log}"})
    if not log.exists():
        missing("killed maintenance", "the binary was built without the feature `faults`")
    operations = log.read_text().splitlines()
    assert sum("\tremove\t" in line for line in operations) > 8 and sum("\tmove\t" in line for line in operations) == 1
    for when in ("before", "after"):
        for number, operation in enumerate(operations, 1):
            reset()
            killed = busy.process("table", "maintain", OUTPUT, environment={"INSIGHTERA_FAULT": f"kill:{when}:{number}"})
            assert killed < 0, f"it was not killed {when} {operation}"
            assert reachable(busy, OUTPUT) <= on_disk(busy, OUTPUT), f"killed {when} {operation}"
            left = everything(busy, OUTPUT)
            assert all(left[s] == wanted.get(s, rows_now) for s in left), f"killed {when} {operation}"
            if number % 5 == 0:
                assert busy.call("table", "maintain", OUTPUT).code == 0, f"killed {when} {operation}"
                assert len(busy.table(OUTPUT).metadata.snapshots) == 3
                assert multiset(read_with_pyiceberg(busy, OUTPUT)) == rows_now
                assert busy.run()["status"] == "unchanged" and busy.verify()[0] == 0
    print(f"{len(operations)} operations, each killed before and after")


def test_rollback_takes_the_pipelines_progress_with_it(busy):
    third = busy.sql(f"SELECT snapshot_id FROM {OUTPUT}.refs WHERE name = 'third'")[0]["snapshot_id"]
    count = busy.table(OUTPUT).scan(snapshot_id=third).to_arrow().num_rows
    answer = busy.call("table", "rollback", OUTPUT, "--to", "third")
    assert answer.code == 0 and str(third) in answer.stdout, answer
    assert read_with_pyiceberg(busy, OUTPUT).num_rows == count
    ran = busy.run()
    assert ran["status"] == "committed" and set(ran["reasons"]) == {"update"}, ran
    assert busy.verify()[0] == 0
    answer = busy.call("sql", f"CALL system.rollback_to_timestamp('{OUTPUT}', TIMESTAMP '2001-01-01')")
    assert answer.code == 1 and "no snapshot at or before" in answer.stderr, answer


def test_explain_tells_which_files_are_read(busy):
    files = busy.sql(f"SELECT count(*) AS n FROM {OUTPUT}.files")[0]["n"]
    newest = busy.predictions(run_id=max(row["run_id"] for row in busy.predictions()))[0]
    told = busy.sql(f"EXPLAIN SELECT * FROM {OUTPUT} p JOIN {FEATURES} f ON p.nim = f.nim "
                    f"WHERE p.run_id = '{newest['run_id']}' AND p.prediction_date = DATE '{newest['prediction_date']}'")
    lines = {row["plan"].split(" at ")[0]: row["plan"] for row in told if row["plan_type"] == "files"}
    assert f"1 of {files} files" in lines[OUTPUT], told
    assert "1 of 1 files" in lines[FEATURES], told
    none = busy.sql(f"EXPLAIN SELECT * FROM {OUTPUT} WHERE prediction_date = DATE '1999-01-01'")
    assert any(f"0 of {files} files, 0 of" in row["plan"] for row in none), none
