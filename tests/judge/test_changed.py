"""What "changed" means, judged by Python: after every mutation of the input, made by PyIceberg or Spark, the
pipeline that looks at snapshots and the one that hashes everything score the same entities for the same reasons,
and exactly those whose features differ from the ones they were last scored with."""

import pytest

from lakehouse import FEATURES, SCHEMA, rows

TWINS = {"by_snapshot": ("snapshot", "predictions.by_snapshot"), "by_hash": ("hash", "predictions.by_hash")}
IDENTITY = "features.identity"
SQL = f"""SELECT s.nim, s.x, s.y, i.name, s.feature_timestamp
FROM {FEATURES} AS s JOIN {IDENTITY} AS i ON i.nim = s.nim
WHERE i.status = 'active'"""


def identities(numbers, status="active", name=lambda n: f"name {n}"):
    import pyarrow as pa

    numbers = list(numbers)
    return pa.table({
        "nim": pa.array([f"{n:06d}" for n in numbers]),
        "name": pa.array([name(n) for n in numbers]),
        "status": pa.array([status] * len(numbers)),
    })


class Twins:
    """Two pipelines over the same inputs that differ in strategy alone, and what they should have scored."""

    def __init__(self, project):
        self.project = project
        self.known = None

    def features(self):
        """entity -> what is hashed, by PyIceberg and Python."""
        active = {row["nim"]: row["name"] for row in self.project.table(IDENTITY).scan().to_arrow().to_pylist()
                  if row["status"] == "active"}
        return {row["nim"]: (row["x"], row["y"], active[row["nim"]])
                for row in self.project.table(FEATURES).scan().to_arrow().to_pylist() if row["nim"] in active}

    def expected(self, now):
        if self.known is None:
            return {(nim, "first") for nim in now}
        changed = {(nim, "update") for nim in now if nim in self.known and now[nim] != self.known[nim]}
        return (changed | {(nim, "insert") for nim in now if nim not in self.known}
                | {(nim, "removed") for nim in self.known if nim not in now})

    def agree(self, strategy=None):
        """Runs both; they must agree with each other and with Python. Returns what was scored."""
        now = self.features()
        wanted = self.expected(now)
        for name, (_, table) in TWINS.items():
            plan = self.project.plan(name)
            if name == "by_snapshot" and strategy:
                assert plan["strategy"] == strategy, plan
                assert bool(plan["why_not_snapshot"]) == (strategy != "snapshot"), plan
            answer = self.project.run(name)
            written = self.project.predictions(table, answer["run_id"]) if answer["status"] == "committed" else []
            found = [(row["nim"], row["score_reason"]) for row in written]
            assert sorted(found) == sorted(wanted), (name, plan, answer)
            removed = sum(reason == "removed" for _, reason in wanted)
            assert (answer["scored"], answer["removed"]) == (len(wanted) - removed, removed), (name, answer)
            assert answer["status"] == ("committed" if wanted else "unchanged"), (name, answer)
            code, verified = self.project.verify(name)
            assert (code, verified["ok"]) == (0, True), (name, verified)
            again = self.project.run(name)
            assert (again["status"], again["scored"]) == ("unchanged", 0), (name, again)
        self.known = now
        return wanted


@pytest.fixture
def twins(empty_project, small_model):
    project = empty_project
    project.make_table(FEATURES, *(rows(range(start, start + 100)) for start in (0, 100, 200)))
    project.make_table(IDENTITY, identities(range(0, 280)), identities(range(280, 300), status="on_leave"))
    project.register(small_model)
    for name, (strategy, table) in TWINS.items():
        project.pipeline(name, sql=SQL, strategy=strategy, table=table)
    twins = Twins(project)
    assert len(twins.agree()) == 280
    return twins


# ---- by PyIceberg

def test_appended_entities_are_scored(twins):
    twins.project.table(FEATURES).append(rows(range(1000, 1010)))
    assert not twins.agree(strategy="snapshot"), "an inner join leaves out whoever has no identity"
    twins.project.table(IDENTITY).append(identities(range(1000, 1008)))
    assert len(twins.agree(strategy="snapshot")) == 8


def test_upserted_entities_are_scored_and_equal_rows_are_not(twins):
    changed = rows(range(95, 115), x=lambda n: 9.5 if n % 2 else rows([n])["x"][0].as_py())
    twins.project.table(FEATURES).upsert(changed, join_cols=["nim"])
    assert len(twins.agree(strategy="snapshot")) == 10


def test_a_row_of_another_input_scores_its_entity(twins):
    twins.project.table(IDENTITY).upsert(identities([3, 150], name=lambda n: "married"), join_cols=["nim"])
    assert twins.agree(strategy="snapshot") == {("000003", "update"), ("000150", "update")}


def test_a_deleted_entity_is_removed_and_its_return_is_an_insert(twins):
    table = twins.project.table(FEATURES)
    table.delete("nim in ('000007', '000107', '000207')")
    assert {reason for _, reason in twins.agree(strategy="snapshot")} == {"removed"}
    table.append(rows([7, 107]))
    assert {reason for _, reason in twins.agree(strategy="snapshot")} == {"insert"}


def test_a_status_change_removes_and_brings_back(twins):
    table = twins.project.table(IDENTITY)
    table.upsert(identities([11, 12], status="withdrawn"), join_cols=["nim"])
    assert twins.agree() == {("000011", "removed"), ("000012", "removed")}
    table.upsert(identities([12, 290]), join_cols=["nim"])
    assert twins.agree() == {("000012", "insert"), ("000290", "insert")}


def test_an_overwrite_with_the_same_rows_scores_nothing(twins):
    table = twins.project.table(FEATURES)
    table.overwrite(table.scan().to_arrow())
    assert not twins.agree()


def test_an_overwrite_with_some_other_rows_scores_those(twins):
    twins.project.table(FEATURES).overwrite(rows(range(300), x=lambda n: 4.25 if n % 50 == 0 else rows([n])["x"][0].as_py()))
    assert len(twins.agree()) == 6


def test_a_younger_feature_time_alone_scores_nothing(twins):
    import datetime

    from lakehouse import START

    twins.project.table(FEATURES).overwrite(rows(range(300), time=START + datetime.timedelta(days=1)))
    assert not twins.agree()


def test_late_features_older_than_the_last_write_are_scored(twins):
    import datetime

    from lakehouse import START

    late = rows([5], x=lambda n: 1.5, time=START - datetime.timedelta(days=400))
    twins.project.table(FEATURES).upsert(late, join_cols=["nim"])
    assert twins.agree(strategy="snapshot") == {("000005", "update")}


def test_a_rollback_of_the_input_scores_what_it_undid(twins):
    table = twins.project.table(FEATURES)
    before = table.current_snapshot().snapshot_id
    table.upsert(rows([1, 2, 3], x=lambda n: 7.0), join_cols=["nim"])
    table.append(rows([301]))
    twins.project.table(IDENTITY).append(identities([301]))
    assert len(twins.agree()) == 4
    table = twins.project.table(FEATURES)
    table.manage_snapshots().rollback_to_snapshot(before).commit()
    assert twins.agree() == {(f"00000{n}", "update") for n in (1, 2, 3)} | {("000301", "removed")}


def test_a_table_that_was_dropped_and_made_again_is_compared_row_by_row(twins):
    catalog = twins.project.catalog()
    catalog.drop_table(FEATURES)
    table = catalog.create_table(FEATURES, schema=SCHEMA, properties={"format-version": "2"},
                                 location=f"file://{twins.project.folder}/warehouse/features/student_again")
    table.append(rows(range(300), y=lambda n: 0.125 if n in (20, 21) else rows([n])["y"][0].as_py()))
    assert len(twins.agree(strategy="hash")) == 2


def test_a_column_that_nobody_reads_scores_nothing(twins):
    from pyiceberg.types import StringType

    table = twins.project.table(FEATURES)
    with table.update_schema() as update:
        update.add_column("remark", StringType())
    assert not twins.agree()


def test_expired_snapshots_mean_hash_and_it_is_said(twins):
    table = twins.project.table(FEATURES)
    old = table.current_snapshot().snapshot_id
    table.upsert(rows([40], x=lambda n: 8.0), join_cols=["nim"])
    table = twins.project.table(FEATURES)
    ids = [each.snapshot_id for each in table.metadata.snapshots[:-1]]
    assert old in ids
    table.maintenance.expire_snapshots().by_ids(ids).commit()
    assert twins.agree(strategy="hash") == {("000040", "update")}


# ---- by Spark

def test_position_deletes_of_spark_are_seen(twins, run_in_spark):
    # Spark's JDBC catalog keeps SQLite locked while it lives: one process per step.
    table = f"insightera.{FEATURES}"
    modes = ", ".join(f"'write.{verb}.mode' = 'merge-on-read'" for verb in ("delete", "update", "merge"))
    kinds = run_in_spark(
        twins.project,
        f"ALTER TABLE {table} SET TBLPROPERTIES ({modes})",
        f"UPDATE {table} SET x = -3.5 WHERE nim IN ('000001', '000101', '000201')",
        f"DELETE FROM {table} WHERE nim IN ('000002', '000102')",
        f"SELECT content FROM {table}.all_files",
    )
    assert 1 in {row["content"] for row in kinds}, "Spark wrote no position deletes: this test would prove nothing"
    assert {reason for _, reason in twins.agree(strategy="snapshot")} == {"update", "removed"}


def test_copy_on_write_of_spark_is_seen(twins, run_in_spark):
    table = f"insightera.{FEATURES}"
    run_in_spark(twins.project, f"UPDATE {table} SET y = 0.5 WHERE nim LIKE '%55'",
                 f"CALL insightera.system.rewrite_data_files(table => '{FEATURES}', options => map('rewrite-all', 'true'))")
    assert {reason for _, reason in twins.agree()} == {"update"}


def test_an_expression_that_is_not_entity_local_means_hash(twins):
    sql = SQL.replace("s.y,", "s.y - avg(s.y) OVER () AS y,")
    twins.project.pipeline("by_snapshot", sql=sql, strategy="snapshot", table="predictions.window")
    plan = twins.project.plan("by_snapshot")
    assert plan["strategy"] == "hash" and plan["why_not_snapshot"], plan


# ---- the definition

def test_a_promotion_scores_everybody_once(twins, small_model, tmp_path):
    import xgboost

    booster = xgboost.Booster(model_file=small_model)[:20]
    booster.save_model(tmp_path / "other.json")
    project = twins.project
    project.register(tmp_path / "other.json")
    for name, (_, table) in TWINS.items():
        answer = project.run(name)
        assert (answer["scored"], answer["reasons"]) == (280, {"model": 280}), answer
        assert project.verify(name)[1]["ok"]
        assert project.run(name)["status"] == "unchanged"
    assert project.plan("by_hash")["model"]["version"] in (2, "2")
