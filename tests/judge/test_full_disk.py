"""A disk that is full at any point of a run: a clear message, nothing half done, and the next run makes it good.

The project lives on a small file system in memory; a ballast file leaves less
and less room, so that every kind of file is once the one that does not fit.
"""

import os
import subprocess

import pytest

import lakehouse
from conftest import missing
from lakehouse import FEATURES, OUTPUT, multiset, read_with_pyiceberg, rows

SIZE_MIB = 48


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)],
                          capture_output=True, text=True)
    if done.returncode:
        missing("a full disk", f"needs root for a small file system in memory: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def leave(folder, free_bytes):
    """Fills the file system but for `free_bytes`; answers the ballast."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    space = os.statvfs(folder)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(4096, space.f_bavail * space.f_frsize - free_bytes))
    return ballast


def states(project):
    """What stands in the prediction table, as PyIceberg reads it."""
    if project.metadata_location(OUTPUT) is None:
        return None
    return multiset(read_with_pyiceberg(project, OUTPUT), ["nim", "margin", "score_reason"])


# With the memory limit the inputs are cut into shards, whose files may not fit either.
@pytest.mark.parametrize("memory", [None, "8MB"])
def test_whatever_does_not_fit_nothing_is_lost_and_nothing_comes_twice(small_disk, binary, small_model, memory):
    environment = {"INSIGHTERA_MEMORY": memory} if memory else {}
    project = lakehouse.Project(small_disk / "project", binary, environment).create()
    students = 60_000
    project.make_table(FEATURES, rows(range(students // 2)), rows(range(students // 2, students)))
    project.pipeline()
    project.register(small_model)
    failed, free, endings = 0, 0, set()
    while True:
        ballast = leave(small_disk, free)
        answer = project.call("run", "risk", "--format", "json")
        ballast.unlink()
        if answer.code == 0:
            break
        failed += 1
        assert answer.stdout == ""
        assert "No space left" in answer.stderr or "disk is full" in answer.stderr, answer
        endings.add(answer.stderr.split("`")[1].rsplit(".", 1)[-1] if "`" in answer.stderr else "")
        if states(project) is not None:
            # The rows were committed before the disk was full: only what follows a commit failed.
            break
        free = max(16 << 10, free * 5 // 4)
    assert failed >= 5, f"only {failed} runs met the full disk"
    assert "parquet" in endings and (not memory or "arrows" in endings), f"only these files did not fit: {endings}"
    assert project.run()["scored"] == 0, "what was committed was scored again"
    found = states(project)
    assert sum(found.values()) == students and max(found.values()) == 1
    code, verified = project.verify()
    assert (code, verified["ok"], verified["current"]) == (0, True, students), verified
    assert not list((project.folder / ".insightera" / "shards").glob("*")), "temporary files stayed"
    before = found
    project.table(FEATURES).append(rows(range(students, students + 20_000)))
    ballast = leave(small_disk, 64 << 10)
    answer = project.call("run", "risk", "--format", "json")
    ballast.unlink()
    assert answer.code != 0 and states(project) == before, answer
    assert project.run()["scored"] == 20_000
    assert sum(states(project).values()) == students + 20_000
