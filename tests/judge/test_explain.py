"""`[model] explain`: each prediction says which features moved it, as XGBoost's own contributions say."""

import re

import numpy as np
import pytest

from lakehouse import FEATURES, OUTPUT, duckdb_connection, rows

REASON = re.compile(r"^(?P<feature>\w+) is (?P<value>\S+(?: \S+)*) \((?P<direction>raises|lowers) the risk\)$")


@pytest.fixture
def explained(project):
    """The project's pipeline with `explain`."""
    path = project.folder / "pipelines" / "risk.toml"
    text = path.read_text()
    assert "[entity]" in text
    path.write_text(text.replace("[entity]", 'explain = { top = 2, score = "risk" }\n[entity]'))
    return project


def contributions(model, numbers):
    import xgboost

    table = rows(numbers)
    x = np.column_stack([table[c].to_numpy(zero_copy_only=False) for c in ("x", "y")]).astype(np.float32)
    found = xgboost.Booster(model_file=model).predict(xgboost.DMatrix(x, feature_names=["x", "y"]), pred_contribs=True)
    return {nim: dict(zip(("x", "y"), values[:2])) for nim, values in zip(table["nim"].to_pylist(), found)}


def test_reasons_are_the_librarys_contributions_in_words(explained, small_model):
    assert explained.run()["scored"] == 200
    wanted = contributions(small_model, range(200))
    seen = 0
    for row in explained.predictions():
        parts = [REASON.match(reason) for reason in row["reasons"]]
        assert all(parts), row["reasons"]
        theirs = wanted[row["nim"]]
        order = sorted(theirs, key=lambda name: -abs(theirs[name]))
        if abs(abs(theirs[order[0]]) - abs(theirs[order[1]])) > 1e-4:
            assert [part["feature"] for part in parts] == order, (row, theirs)
        for part in parts:
            if abs(theirs[part["feature"]]) > 1e-4:
                assert part["direction"] == ("raises" if theirs[part["feature"]] > 0 else "lowers"), (row, theirs)
                seen += 1
    assert seen > 300


def test_to_explain_is_another_definition_and_the_table_evolves(project, small_model):
    project.run()
    assert "reasons" not in {field.name for field in project.table(OUTPUT).schema().fields}
    path = project.folder / "pipelines" / "risk.toml"
    path.write_text(path.read_text().replace("[entity]", "explain = { top = 1 }\n[entity]"))
    answer = project.run()
    assert (answer["reasons"], answer["scored"]) == ({"model": 200}, 200)
    assert project.verify()[0] == 0
    found = project.predictions(run_id=answer["run_id"])
    assert all(len(row["reasons"]) == 1 for row in found)
    assert sum(row["reasons"] is None for row in project.predictions()) == 200
    assert project.run()["status"] == "unchanged"


def test_other_engines_read_reasons_as_a_list(explained):
    explained.run()
    connection = duckdb_connection()
    location = explained.metadata_location(OUTPUT)
    answer = connection.execute(
        f"SELECT count(*), min(len(reasons)), max(len(reasons)) FROM iceberg_scan('{location}')").fetchone()
    assert answer == (200, 2, 2)
    assert explained.sql(f"SELECT reasons[1] AS first FROM {OUTPUT} ORDER BY nim LIMIT 1")[0]["first"].endswith("the risk)")


def test_a_student_who_left_has_no_reasons(explained):
    explained.run()
    explained.table(FEATURES).overwrite(rows(range(5, 200)))
    answer = explained.run()
    removed = explained.predictions(run_id=answer["run_id"])
    assert len(removed) == 5 and all(row["reasons"] is None for row in removed)
