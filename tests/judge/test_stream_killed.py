"""A stream that is killed at any durable operation, with all its tables compared row by row by PyIceberg.

Needs a binary that can be told to die (`./test` builds it so); the engine's own
tests do the same with power losses, races and lost replies, read by the engine.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

import test_stream
import test_stream_close
from conftest import missing
from lakehouse import multiset
from test_stream import DAY, NOW, append, fold_files, live  # noqa: F401
from test_stream_close import weekly  # noqa: F401

# What is of the run that wrote a row. Everything else is the same, whoever was killed.
OF_THE_RUN = {"run_id", "prediction_timestamp", "prediction_date", "arrival_timestamp"}


@pytest.fixture
def tmp_path(tmp_path):
    """In memory: a kill takes nothing that was written, synced or not, and thousands of fsyncs take minutes on a disk."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=memory, prefix="killed-"))
    yield folder
    shutil.rmtree(folder)


class Killed:
    """A stream that has run once, more events before it, and what all tables must hold of them."""

    def __init__(self, project, name, tables, add, counts, aside):
        self.project, self.name, self.tables, self.aside = project, name, tables, aside
        add(0, counts[0])
        self.run()
        add(*counts)
        shutil.copytree(project.folder, aside)
        log = aside.with_suffix(".operations")
        self.report = self.run(environment={"INSIGHTERA_FAULT": f"record:{log}"})
        if not log.exists():
            missing("killed streams", "the binary was built without the feature `faults`")
        self.stages = [line.split("\t")[1] for line in log.read_text().splitlines()]
        self.wanted = self.rows()

    def run(self, **options):
        return self.project.json("stream", self.name, "--until-end", **options)[0]

    def rows(self):
        """The rows of each table, counted; twice the same is twice."""
        found, catalog = {}, self.project.catalog()
        for name in self.tables:
            table = catalog.load_table(name).scan().to_arrow()
            found[name] = multiset(table, [column for column in table.column_names if column not in OF_THE_RUN])
        return found

    def commits(self, table):
        """How many records each commit of the run added that nobody killed; the first is the takeover."""
        summaries = [commit.summary.additional_properties for commit in self.project.commits(table)]
        return [int(summary.get("added-records", 0)) for summary in summaries
                if summary["insightera.run-id"] == self.report["run_id"]]

    def kill(self, when, place):
        shutil.rmtree(self.project.folder)
        shutil.copytree(self.aside, self.project.folder)
        killed = subprocess.run(
            [self.project.binary, "--project", str(self.project.folder), "stream", self.name, "--until-end"],
            capture_output=True, env={**os.environ, "INSIGHTERA_FAULT": f"kill:{when}:{place}"})
        spared = place == len(self.stages) and killed.returncode == 0
        assert killed.returncode == -signal.SIGABRT or spared, f"it was not killed {when} {place}: {killed}"
        self.run()
        found = self.rows()
        wrong = [f"{name}: {sum((self.wanted[name] - rows).values())} rows lost, "
                 f"{sum((rows - self.wanted[name]).values())} that nobody wanted"
                 for name, rows in found.items() if rows != self.wanted[name]]
        assert not wrong, f"killed {when} {place}: {wrong}"

    def kill_at_each(self, places):
        for when in ("before", "after"):
            for place in places:
                self.kill(when, place)
        print(f"killed before and after {len(places)} of {len(self.stages)} durable operations: "
              + ", ".join(f"{self.stages.count(stage)} {stage}" for stage in dict.fromkeys(self.stages)))


def lines(file, start, count, every, late):
    """Events of four students, one at a time; in each 27 one is late and one is broken, soon after the first."""
    made = []
    for index in range(start, start + count):
        at = NOW - 90 * DAY + index * every - (late if index % 27 == 4 else 0)
        line = json.dumps({"nim": f"{file * 4 + index * 7 % 4:06d}", "kind": "attendance", "at": at,
                           "data": {"value": index * 37 % 60 / 10 - 3}})
        made.append(line[:-1] if index % 27 == 6 else line)
    return made


def test_a_stream_killed_before_or_after_any_durable_operation_has_the_same_rows(live, small_model, tmp_path):  # noqa: F811
    path = live.folder / "pipelines" / "live.toml"
    # Cuts are made by their size alone: those of every run are the same.
    path.write_text(path.read_text().replace('freshness = "200 ms"\nmax_rows = 300', 'freshness = "1 minute"\nmax_rows = 20')
                    .replace("[stream]", """[alerts.rare]
when = "seen % 4 >= 2"
on_change = true
table = "predictions.rare"
[stream]"""))

    def add(start, count):
        for file in range(2):
            append(live, file, lines(file, start, count, DAY // 9, late=3 * DAY))

    sides = ["predictions.dead", "predictions.late", "predictions.rare"]
    stream = Killed(live, "live", ["predictions.live", *sides], add, (27, 27), tmp_path / "aside")
    test_stream.check(live, fold_files(live), small_model)
    takeover, *commits = stream.commits("predictions.live")
    assert takeover == 0 and len(commits) >= 3 and min(commits) > 0, commits
    assert all(sum(stream.commits(side)) > 0 for side in sides), [stream.commits(side) for side in sides]
    assert {"Data", "Manifest", "List", "Metadata", "Swap", "Other"} == set(stream.stages)
    stream.kill_at_each(range(1, len(stream.stages) + 1))


def test_a_stream_of_closed_windows_killed_before_or_after_any_swap_has_the_same_rows(weekly, small_model, tmp_path):  # noqa: F811
    path = weekly.folder / "pipelines" / "weekly.toml"
    path.write_text(path.read_text().replace('freshness = "200 ms"', 'freshness = "1 minute"\nmax_rows = 20'))

    def add(start, count):
        for file in range(2):
            # Late is what comes after all its windows have closed.
            append(weekly, file, lines(file, start, count, DAY // 3, late=12 * DAY))

    sides = ["predictions.dead", "predictions.late", "predictions.low"]
    stream = Killed(weekly, "weekly", ["predictions.weekly", *sides], add, (54, 45), tmp_path / "aside")
    test_stream_close.check(weekly, small_model)
    takeover, *commits = stream.commits("predictions.weekly")
    assert takeover == 0 and len([count for count in commits if count]) >= 3, commits
    assert all(sum(stream.commits(side)) > 0 for side in sides), [stream.commits(side) for side in sides]
    stream.kill_at_each([f"swap@{number}" for number in range(1, stream.stages.count("Swap") + 1)])
