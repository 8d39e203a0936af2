"""Runs one command and tells what it cost, with everything that it started.

    python bench/measure.py REPORT.json -- COMMAND...

wall: start until the command itself ended; cpu: user and system time of it and
of every process under it, also those that outlived their parent (a Spark
driver's JVM): this process adopts and waits for them; peak: the largest sum of
resident memory over the tree, sampled every 20 ms, and never less than the
kernel's own figure for the command. It is a small process of its own, because a
child inherits the peak of the process that forked it.
"""

import ctypes
import json
import os
import subprocess
import sys
import threading
import time

PR_SET_CHILD_SUBREAPER = 36
PAGE = os.sysconf("SC_PAGE_SIZE")


def descendants(pid):
    found = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                for child in children.read().split():
                    found += descendants(int(child))
    except OSError:
        pass
    return found


def resident(pid):
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def processor_seconds(pid):
    """User and system time of the tree under `pid`, living processes and reaped children."""
    total = 0
    for each in descendants(pid):
        try:
            with open(f"/proc/{each}/stat") as stat:
                total += sum(int(field) for field in stat.read().rsplit(")", 1)[1].split()[11:15])
        except OSError:
            pass
    return total / os.sysconf("SC_CLK_TCK")


def watch(pid, peak, stop):
    while not stop.is_set():
        peak[0] = max(peak[0], sum(map(resident, descendants(pid))))
        stop.wait(0.02)


def measure(command):
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    peak, stop = [0], threading.Event()
    started = time.monotonic()
    child = subprocess.Popen(command)
    watcher = threading.Thread(target=watch, args=(child.pid, peak, stop))
    watcher.start()
    cpu, wall, code, own_peak = 0.0, None, None, 0
    while True:
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        cpu += usage.ru_utime + usage.ru_stime
        if pid == child.pid:
            wall = time.monotonic() - started
            code = os.waitstatus_to_exitcode(status)
            child.returncode = code
            own_peak = usage.ru_maxrss * 1024
            stop.set()
    stop.set()
    watcher.join()
    return {"exit": code, "wall": round(wall, 4), "cpu": round(cpu, 4), "peak": max(peak[0], own_peak)}


if __name__ == "__main__":
    report, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.exit(__doc__)
    result = measure(command)
    with open(report, "w") as file:
        json.dump(result, file)
    sys.exit(result["exit"])
