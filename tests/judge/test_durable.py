"""What reaches the disk, and in which order, as the kernel sees it (strace).

The killed runs trust the list of durable operations that the program itself
keeps; here the system calls say whether that list is complete: whatever is
synced or created below the warehouse stands in it, and no file that a commit
names is written, or left unsynced, after the catalog moved.
"""

import re
import shutil
import subprocess

import pytest

from conftest import missing
from lakehouse import FEATURES, OUTPUT, rows

CALL = re.compile(r"^(?P<name>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+)(?P<shown><[^>]*>)?")
DESCRIPTOR = re.compile(r"^\d+<(?P<path>[^>]*)>")


def calls(log):
    """(call, path) of every call that did something, in order; unfinished calls are put together."""
    unfinished = {}
    for line in log.read_text().splitlines():
        thread, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            unfinished[thread] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", rest)
        if resumed:
            rest = unfinished.pop(thread) + resumed[1]
        call = CALL.match(rest)
        if not call or int(call["result"]) < 0:
            continue
        name, arguments = call["name"], call["rest"]
        if name in ("openat", "open"):
            if "O_CREAT" in arguments:
                yield "create", call["shown"].strip("<>")
        elif name in ("rename", "renameat", "renameat2"):
            yield "rename", re.findall(r'"([^"]*)"', arguments)[-1]
        elif name in ("unlink", "unlinkat"):
            yield "unlink", re.findall(r'"([^"]*)"', arguments)[-1]
        else:
            found = DESCRIPTOR.match(arguments)
            if found:
                kind = "sync" if name in ("fsync", "fdatasync", "sync_file_range") else "write"
                yield kind, found["path"]


@pytest.fixture
def traced(project, tmp_path):
    """A run that scores, removes and adds, its system calls and its own list of operations."""
    if shutil.which("strace") is None:
        missing("system calls of a run", "strace is not installed (apt-get install strace)")
    project.run()
    project.table(FEATURES).overwrite(rows(range(10, 200)))
    project.table(FEATURES).append(rows(range(200, 205)))
    log, own = tmp_path / "calls", tmp_path / "operations"
    before = project.table(OUTPUT).metadata_location
    done = subprocess.run(
        ["strace", "-f", "-y", "-s", "512", "-e",
         "trace=openat,open,write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat",
         "-o", str(log), str(project.binary), "--project", str(project.folder), "run", "risk"],
        capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "INSIGHTERA_FAULT": f"record:{own}"})
    if done.returncode and ("ptrace" in done.stderr or "PTRACE" in done.stderr):
        missing("system calls of a run", done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    if not own.exists():
        missing("system calls of a run", "the binary was built without the feature `faults`")
    assert project.table(OUTPUT).metadata_location != before
    return project, list(calls(log)), [line.split("\t") for line in own.read_text().splitlines()]


def of(project, path):
    warehouse = str((project.folder / "warehouse").resolve())
    return path == warehouse or path.startswith(warehouse + "/")


def test_every_file_of_a_commit_is_on_the_disk_before_the_catalog_moves(traced):
    project, events, _ = traced
    table = project.table(OUTPUT)
    named = {str(table.metadata_location).removeprefix("file://")}
    snapshot = table.current_snapshot()
    named.add(snapshot.manifest_list.removeprefix("file://"))
    for manifest in snapshot.manifests(table.io):
        if manifest.added_snapshot_id != snapshot.snapshot_id:
            continue
        named.add(manifest.manifest_path.removeprefix("file://"))
        for entry in manifest.fetch_manifest_entry(table.io):
            if entry.snapshot_id in (None, snapshot.snapshot_id):
                named.add(entry.data_file.file_path.removeprefix("file://"))
    assert len(named) >= 4
    catalog = str((project.folder / "warehouse" / "catalog.db").resolve())
    # The run's own commit is the first that writes the catalog after the table's metadata file was made.
    metadata = str(table.metadata_location).removeprefix("file://")
    made = events.index(("create", metadata))
    swap = next(n for n, event in enumerate(events) if n > made and event == ("write", catalog))
    for path in sorted(named):
        created = events.index(("create", path))
        writes = [n for n, event in enumerate(events) if event == ("write", path)]
        syncs = [n for n, event in enumerate(events) if event == ("sync", path)]
        assert writes and syncs, path
        assert created < writes[0] <= writes[-1] < syncs[-1] < swap, path
        folder = path.rsplit("/", 1)[0]
        assert any(created < n < swap for n, event in enumerate(events) if event == ("sync", folder)), folder
    # And the catalog itself is synced once it has been written.
    last = max(n for n, event in enumerate(events) if event == ("write", catalog))
    assert any(n > last for n, event in enumerate(events) if event == ("sync", catalog))


def test_the_list_of_durable_operations_is_complete(traced):
    project, events, operations = traced
    kernel = {"create": [], "sync": []}
    for kind, path in events:
        # SQLite's journal is its own affair: the catalog counts as one operation, the swap.
        if kind in kernel and of(project, path) and "catalog.db" not in path and not path.endswith("/warehouse"):
            kernel[kind].append(path)
    listed = {"create": [], "sync": []}
    for operation in operations:
        action, path = operation[2], operation[-1]
        if action == "create":
            listed["create"].append(path)
        elif action.startswith("fsync"):
            listed["sync"].append(path)
    for kind in kernel:
        assert len(kernel[kind]) >= 4, kernel
        assert sorted(kernel[kind]) == sorted(p for p in listed[kind] if of(project, p)), kind
    assert any(operation[1] == "Swap" for operation in operations)
