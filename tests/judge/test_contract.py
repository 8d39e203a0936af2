"""The contract of the command line: JSON on stdout and nothing else, exit 0 done, 1 the user's to fix."""

import json
import re

import pytest

from lakehouse import FEATURES, MODEL, OUTPUT, PIPELINE, rows

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
PLAN = {"pipeline", "entities", "to_score", "reasons", "inputs", "bytes", "model", "strategy", "why_not_snapshot"}
RUN = {"pipeline", "run_id", "status", "snapshot_id", "entities", "scored", "skipped", "removed", "reasons",
       "dropped_by_joins", "model", "seconds", "stages"}
VERIFY = {"ok", "entities", "current", "missing", "stale", "duplicate", "extra"}


def test_plan_says_what_a_run_would_do_and_does_nothing(project):
    plan = project.plan()
    assert set(plan) >= PLAN
    assert (plan["pipeline"], plan["entities"], plan["to_score"]) == (PIPELINE, 200, 200)
    assert plan["reasons"] == {"first": 200}
    assert plan["model"]["name"] == MODEL and str(plan["model"]["version"]) == "1"
    assert FEATURES in plan["inputs"] and plan["bytes"] > 0
    assert project.metadata_location(OUTPUT) is None, "plan made the prediction table"


def test_run_commits_once_and_then_has_nothing_to_do(project):
    first = project.run()
    assert set(first) >= RUN
    assert (first["status"], first["scored"], first["removed"], first["reasons"]) == ("committed", 200, 0, {"first": 200})
    assert UUID7.fullmatch(first["run_id"]), first["run_id"]
    assert str(first["snapshot_id"]) == str(project.commits()[-1].snapshot_id)
    assert first["seconds"] > 0 and isinstance(first["stages"], dict)
    before = project.metadata_location(OUTPUT)
    second = project.run()
    assert (second["status"], second["entities"], second["scored"], second["skipped"]) == ("unchanged", 200, 0, 200)
    assert project.metadata_location(OUTPUT) == before, "an unchanged run moved the table"


def test_the_rows_carry_model_run_and_reason(project):
    answer = project.run()
    found = project.predictions(run_id=answer["run_id"])
    assert len(found) == 200 and len({row["nim"] for row in found}) == 200
    for row in found:
        assert (row["pipeline"], row["model_name"], row["score_reason"]) == (PIPELINE, MODEL, "first")
        assert row["prediction_timestamp"].date() == row["prediction_date"]
        assert row["feature_hash"] is not None and row["definition_hash"] == found[0]["definition_hash"]


def test_the_commit_names_inputs_model_and_run(project):
    answer = project.run()
    summary = project.commits()[-1].summary
    get = lambda key: summary[f"insightera.{key}"]  # noqa: E731
    assert (get("format"), get("pipeline"), get("run-id"), get("model")) == ("1", PIPELINE, answer["run_id"], MODEL)
    inputs = json.loads(get("inputs"))
    assert inputs[FEATURES]["snapshot_id"] == project.table(FEATURES).current_snapshot().snapshot_id
    assert inputs[FEATURES]["uuid"] == str(project.table(FEATURES).metadata.table_uuid)


def test_an_advanced_input_without_a_difference_is_unchanged(project):
    project.run()
    count = len(project.predictions())
    table = project.table(FEATURES)
    table.overwrite(table.scan().to_arrow())
    assert project.run()["status"] == "unchanged"
    inputs = json.loads(project.commits()[-1].summary["insightera.inputs"])
    assert inputs[FEATURES]["snapshot_id"] == project.table(FEATURES).current_snapshot().snapshot_id
    assert len(project.predictions()) == count


def test_a_full_run_scores_everybody_again(project):
    project.run()
    answer = project.run(PIPELINE, "--full")
    assert (answer["scored"], answer["reasons"]) == (200, {"forced": 200})
    assert project.verify()[1]["ok"]


def test_run_all_runs_every_pipeline(project):
    project.pipeline("second", table="predictions.second")
    answer = project.call("run", "--all", "--format", "json")
    assert answer.code == 0, answer
    text = answer.stdout.strip()
    found = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    assert {each["pipeline"]: each["scored"] for each in found} == {PIPELINE: 200, "second": 200}


def test_verify_tells_what_is_missing_and_what_is_stale(project):
    code, before = project.verify()
    assert set(before) >= VERIFY
    assert (code, before["ok"], before["missing"]) == (1, False, 200)
    project.run()
    assert project.verify()[0] == 0
    table = project.table(FEATURES)
    table.upsert(rows([1, 2], x=lambda n: 9.0), join_cols=["nim"])
    table.append(rows([900]))
    table.delete("nim = '000050'")
    code, after = project.verify()
    assert (code, after["ok"], after["stale"], after["missing"], after["extra"]) == (1, False, 2, 1, 1), after
    project.run()
    code, last = project.verify()
    assert (code, last["ok"], last["current"], last["duplicate"]) == (0, True, 200, 0)


def test_sql_answers_as_json(project):
    project.run()
    assert project.sql(f"SELECT count(*) AS n, min(nim) AS first FROM {OUTPUT}") == [{"n": 200, "first": "000000"}]
    joined = project.sql(f"SELECT p.nim, f.x FROM {OUTPUT} p JOIN {FEATURES} f ON f.nim = p.nim ORDER BY p.nim LIMIT 2")
    assert [row["nim"] for row in joined] == ["000000", "000001"]


def test_the_current_view_has_one_row_per_entity(project):
    project.run()
    project.table(FEATURES).upsert(rows([1, 2], x=lambda n: 9.0), join_cols=["nim"])
    project.table(FEATURES).delete("nim = '000003'")
    project.run()
    assert project.sql(f"SELECT count(*) AS n, count(DISTINCT nim) AS d FROM {OUTPUT}_current") == [{"n": 199, "d": 199}]


def test_sql_as_of_a_version_sees_that_version(project):
    project.run()
    first = project.commits()[-1].snapshot_id
    project.table(FEATURES).append(rows(range(500, 510)))
    project.run()
    assert project.sql(f"SELECT count(*) AS n FROM {OUTPUT} VERSION AS OF {first}") == [{"n": 200}]
    assert project.sql(f"SELECT count(*) AS n FROM {OUTPUT}") == [{"n": 210}]


@pytest.mark.parametrize("arguments", [
    ["plan", "rsk"], ["run", "rsk"], ["verify", "rsk"], ["sql", "SELECT nothing FROM nowhere.at_all"],
    ["model", "promote", "nobody", "1"], ["model", "promote", MODEL, "99"], ["table", "show", "no.such"],
])
def test_an_error_leaves_stdout_empty_and_exits_1(project, arguments):
    answer = project.call(*arguments)
    assert answer.code == 1, answer
    assert answer.stdout == "" and answer.stderr.strip(), answer


def test_a_wrong_pipeline_is_told_the_nearest(project):
    answer = project.call("run", "rsk", "--format", "json")
    assert "`rsk`" in answer.stderr and f"did you mean `{PIPELINE}`?" in answer.stderr, answer


def test_progress_is_on_stderr(project):
    answer = project.call("run", PIPELINE, "--format", "json")
    assert answer.code == 0 and json.loads(answer.stdout)["status"] == "committed", answer


def test_every_listed_table_is_in_the_catalog(project):
    project.run()
    listed = project.call("table", "list", "--format", "json")
    assert listed.code == 0, listed
    assert OUTPUT in listed.stdout or OUTPUT.split(".")[1] in listed.stdout
    assert project.call("table", "show", OUTPUT).code == 0
    assert project.call("table", "history", OUTPUT).code == 0


def test_models_are_registered_with_metrics(project, small_model):
    answer = project.call("model", "register", "measured", small_model, "--metrics", "auc=0.91")
    assert answer.code == 0, answer
    answer = project.call("model", "register", "measured", small_model, "--metrics", "auc")
    assert answer.code in (1, 2) and answer.stdout == "", answer
