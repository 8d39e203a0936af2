"""Dead letters once more: scored exactly once, with the windows of their place, whatever is killed; read by PyIceberg."""

import json
import os
import signal
import subprocess
import time

import pytest

from test_stream import append, events, live  # noqa: F401


def places(project, table, **wanted):
    found = project.table(table).scan().to_arrow().to_pylist()
    rows = [(row["source_partition"], row["source_offset"]) for row in found
            if all(row[key] == value for key, value in wanted.items())]
    assert len(rows) == len(set(rows)), f"{table} has rows twice"
    return set(rows)


def append_some_unreadable(project):
    """Every tenth event has a number where the pipeline expects text."""
    for file in range(2):
        lines = []
        for number, line in enumerate(events(file, 300)):
            try:
                event = json.loads(line)
            except ValueError:
                lines.append(line)
                continue
            if number % 10 == 3:
                event["kind"] = 7
            lines.append(json.dumps(event))
        append(project, file, lines)


def mend(project):
    """The pipeline reads another field instead, and takes all events."""
    path = project.folder / "pipelines" / "live.toml"
    text = path.read_text()
    path.write_text(text.replace('kind = "string"\n', 'kind_text = { type = "boolean", path = "no.such" }\n')
                    .replace("filter = \"kind <> 'noise'\"\n", ""))


@pytest.mark.parametrize("windows", [True, False])
def test_dead_letters_that_can_be_read_now_are_scored_once(live, windows):  # noqa: F811
    path = live.folder / "pipelines" / "live.toml"
    text = path.read_text()
    if not windows:
        text = text[:text.index("[windows.week]")] + text[text.index("[join]"):]
        for old, new in [('seen = "seen"\n', ""), ('x = "x"\n', 'x = "value"\n'), ('[model]\nname = "risk_model"\n', ""),
                         ('probability = "probability"\n', "")]:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
    append_some_unreadable(live)
    live.json("stream", "live", "--until-end")
    dead = places(live, "predictions.dead")
    numbers = places(live, "predictions.dead", error_class="type")
    assert len(numbers) > 40 and len(dead) > len(numbers)
    before = places(live, "predictions.live")

    nothing = live.json("stream", "replay-dlq", "live")[0]
    assert (nothing["scored"], nothing["unreadable"], nothing["snapshot_id"]) == (0, len(dead), None), nothing

    mend(live)
    done = live.json("stream", "replay-dlq", "live")[0]
    assert done["scored"] + done["late"] == len(numbers), done
    assert done["unreadable"] == len(dead) - len(numbers)
    replayed = places(live, "predictions.live", score_reason="replay")
    late = places(live, "predictions.late")
    assert places(live, "predictions.live") == before | replayed and not before & replayed
    assert len(replayed) == done["scored"] and replayed <= numbers and numbers - replayed <= late
    recorded = places(live, "predictions.dead_replayed")
    assert recorded == numbers

    again = live.json("stream", "replay-dlq", "live")[0]
    assert (again["letters"], again["scored"], again["snapshot_id"]) == (len(dead) - len(numbers), 0, None), again
    # The stream goes on from where it was, and its dead letters are of its own.
    append(live, 0, events(0, 50, start=300))
    assert live.json("stream", "live", "--until-end")[0]["events"] == 50
    assert places(live, "predictions.live", score_reason="replay") == replayed


def test_a_replayed_event_has_the_row_of_a_stream_that_could_always_read_it(live):  # noqa: F811
    append_some_unreadable(live)
    live.json("stream", "live", "--until-end")
    mend(live)
    live.json("stream", "replay-dlq", "live")
    path = live.folder / "pipelines" / "live.toml"
    (live.folder / "pipelines" / "always.toml").write_text(path.read_text().replace("predictions.", "always."))
    live.json("stream", "always", "--until-end")
    key = ("source_partition", "source_offset")
    def rows(table, **wanted):
        found = live.table(table).scan().to_arrow().to_pylist()
        return {tuple(row[name] for name in key): row for row in found if all(row[k] == v for k, v in wanted.items())}
    replayed, always = rows("predictions.live", score_reason="replay"), rows("always.live")
    assert len(replayed) > 40
    for place, row in replayed.items():
        for column in ("nim", "probability", "seen", "x", "y", "event_timestamp", "feature_hash"):
            assert row[column] == always[place][column], (place, column)


def test_a_replay_that_is_killed_is_done_again_and_nothing_is_there_twice(live):  # noqa: F811
    append_some_unreadable(live)
    live.json("stream", "live", "--until-end")
    numbers = places(live, "predictions.dead", error_class="type")
    before = places(live, "predictions.live")
    mend(live)
    # How long one takes, and then kills all over that time.
    start = time.monotonic()
    process = subprocess.Popen([live.binary, "--project", str(live.folder), "check", "live"], stdout=subprocess.DEVNULL)
    process.wait()
    ready = time.monotonic() - start
    killed = 0
    for step in range(30):
        process = subprocess.Popen([live.binary, "--project", str(live.folder), "stream", "replay-dlq", "live"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(ready / 2 + step * 0.004)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed > 3, "at least some were killed"
    live.json("stream", "replay-dlq", "live")
    replayed = places(live, "predictions.live", score_reason="replay")
    late = places(live, "predictions.late")
    assert places(live, "predictions.live") == before | replayed
    assert replayed | (late & numbers) == numbers and not replayed & late
    assert places(live, "predictions.dead_replayed") == numbers
    assert live.json("stream", "replay-dlq", "live")[0]["snapshot_id"] is None
