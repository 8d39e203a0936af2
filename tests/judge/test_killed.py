"""A run that is killed at any durable operation, with the table read by PyIceberg.

Needs a binary that can be told to die (`./test` builds it so); the engine's own
tests do the same with power losses, races and lost replies, read by the engine.
"""

import math
import os
import shutil
import subprocess

import pytest

from conftest import missing
from lakehouse import FEATURES, OUTPUT, rows

STUDENTS = 200


@pytest.fixture
def prepared(project, tmp_path):
    """A run behind it, changes before it, and a copy to come back to."""
    project.run()
    project.table(FEATURES).overwrite(rows(range(10, STUDENTS), x=lambda n: 1.5 if n < 13 else math.sin(n) * 3))
    project.table(FEATURES).append(rows(range(STUDENTS, STUDENTS + 5)))
    aside = tmp_path / "aside"
    shutil.copytree(project.folder, aside)

    def reset():
        shutil.rmtree(project.folder)
        shutil.copytree(aside, project.folder)

    return project, reset


def ledger(project):
    """Rows by reason and student; twice the same is twice in the list."""
    found = project.table(OUTPUT).scan(selected_fields=("nim", "score_reason")).to_arrow()
    return sorted(zip(found["score_reason"].to_pylist(), found["nim"].to_pylist()))


def test_a_killed_run_loses_nothing_and_does_nothing_twice(prepared, tmp_path):
    project, reset = prepared
    log = tmp_path / "operations"
    project.call("run", "risk", environment={"INSIGHTERA_FAULT": f"record:{log}"})
    if not log.exists():
        missing("killed runs", "the binary was built without the feature `faults`")
    operations = log.read_text().splitlines()
    wanted = ledger(project)
    reasons = [reason for reason, _ in wanted]
    counts = {reason: reasons.count(reason) for reason in set(reasons)}
    assert counts == {"first": STUDENTS, "removed": 10, "update": 3, "insert": 5}, counts
    stages = [line.split("\t")[1] for line in operations]
    assert {"Data", "Manifest", "List", "Metadata", "Swap"} <= set(stages), set(stages)
    last = len(operations)
    # Swaps also by their own number: threads that make folders durable beside each other can need one operation less.
    places = [*range(1, last + 1), *(f"swap@{number}" for number in range(1, stages.count("Swap") + 1))]
    for when in ("before", "after"):
        for place in places:
            reset()
            killed = subprocess.run(
                [project.binary, "--project", str(project.folder), "run", "risk"], capture_output=True,
                env={**os.environ, "INSIGHTERA_FAULT": f"kill:{when}:{place}"})
            spared = place == last and killed.returncode == 0
            assert killed.returncode < 0 or spared, f"it was not killed {when} {place}: {killed}"
            answer = project.run()
            assert answer["status"] in ("committed", "unchanged")
            assert ledger(project) == wanted, f"killed {when} {place}"
            code, verified = project.verify()
            assert (code, verified["ok"]) == (0, True), f"killed {when} {place}: {verified}"
    print(f"{len(operations)} durable operations, each killed before and after: "
          + ", ".join(f"{stages.count(stage)} {stage}" for stage in dict.fromkeys(stages)))
