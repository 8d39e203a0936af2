"""Dead letters once more: scored exactly once, with the windows of their place, whatever is killed; read by PyIceberg."""

import json
import shutil

import pytest

from conftest import missing
from test_stream import (Files, append, events, feed_and_end, kill, live, one_more_with_rows,  # noqa: F401
                         runs_with_rows, stop, summaries)


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
                         ('probability = "probability"\n', ""), ('late_events = "predictions.late"\n', "")]:
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
    late = places(live, "predictions.late") if windows else set()
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


def test_a_replay_that_is_killed_is_done_again_and_nothing_is_there_twice(live, tmp_path):  # noqa: F811
    append_some_unreadable(live)
    live.json("stream", "live", "--until-end")
    numbers = places(live, "predictions.dead", error_class="type")
    before = places(live, "predictions.live")
    mend(live)
    shutil.copytree(live.folder, tmp_path / "aside")

    def replay(fault):
        return live.process("stream", "replay-dlq", "live", environment={"INSIGHTERA_FAULT": fault})

    log = tmp_path / "operations"
    assert replay(f"record:{log}") == 0
    if not log.exists():
        missing("killed replays", "the binary was built without the feature `faults`")
    swaps = sum(line.split("\t")[1] == "Swap" for line in log.read_text().splitlines())
    # The last three are of what was replayed, of late events and of predictions; their files are there before.
    for place in [*(f"after:swap@{swap + 1}" for swap in range(swaps)), *(f"before:swap@{swaps - one}" for one in range(3))]:
        shutil.rmtree(live.folder)
        shutil.copytree(tmp_path / "aside", live.folder)
        assert replay(f"kill:{place}") < 0, f"it was not killed {place}"
        live.json("stream", "replay-dlq", "live")
        replayed = places(live, "predictions.live", score_reason="replay")
        late = places(live, "predictions.late")
        assert places(live, "predictions.live") == before | replayed, place
        assert replayed | (late & numbers) == numbers and not replayed & late, place
        assert places(live, "predictions.dead_replayed") == numbers, place
        assert live.json("stream", "replay-dlq", "live")[0]["snapshot_id"] is None, place


def test_what_was_computed_online_is_computed_again_whatever_was_killed(live, small_model):  # noqa: F811
    """Kills, another version, other features; the rows of `--into` are compared with the stream's by PyIceberg."""
    import xgboost

    other = live.folder.parent / "other.json"
    booster = xgboost.Booster(model_file=str(small_model))
    booster[:20].save_model(other)
    path = live.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace('sql = "SELECT nim, y', 'refresh = "1 second"\nsql = "SELECT nim, y'))
    feed = Files(live, 20, 2)

    def changed(key, *change):
        """A condition: a process has rows, a command changes what it reads, and it has rows by what is new."""
        committed, before = one_more_with_rows(live), []

        def holds():
            if not before and committed():
                before.append({summary.get(key) for summary in summaries(live)})
                answer = live.call(*change)
                assert answer.code == 0, answer
            return bool(before) and {summary.get(key) for summary in summaries(live)} != before[0]

        return holds

    for round_ in range(7):
        until = one_more_with_rows(live)
        if round_ == 2:
            until = changed("insightera.model-version", "model", "register", "risk_model", other, "--alias", "production")
        if round_ == 4:
            until = changed("insightera.inputs", "sql", "UPDATE features.student SET y = y + 0.25 WHERE nim < '000030'")
        feed_and_end(live, ["live"], feed, 0.7, until, stop if round_ % 2 else kill)
    assert len(runs_with_rows(live)) == 7
    live.json("stream", "live", "--until-end")
    stream_rows = live.table("predictions.live").scan().to_arrow().to_pylist()
    report = live.json("stream", "replay", "live", "--into", "predictions.again")
    found = report["compared"]
    assert (found["equal"], found["different"], found["missing"], found["extra"]) == (len(stream_rows), 0, 0, 0), report
    assert report["versions"] == ["1", "2"] and report["stretches"] >= 3 and report["same_model"], report

    # By another reader, without our comparison.
    own = ("prediction_timestamp", "run_id", "score_reason", "inference_type", "prediction_date")
    def by_place(rows):
        return {(row["source_partition"], row["source_offset"]): {k: v for k, v in row.items() if k not in own}
                for row in rows}
    again = live.table("predictions.again").scan().to_arrow().to_pylist()
    assert len(again) == len(stream_rows) and by_place(again) == by_place(stream_rows)
    assert {(row["inference_type"], row["score_reason"]) for row in again} == {("as_of", "replay")}
    assert {row["model_version"] for row in again} == {"1", "2"}

    # What would have been with the second version from the first event on: as XGBoost says.
    what_if = live.json("stream", "replay", "live", "--as-model", "2", "--into", "predictions.what_if")
    assert not what_if["same_model"] and set(what_if["compared"]["by_column"]) == {"probability"}, what_if
    import numpy as np
    rows = live.table("predictions.what_if").scan().to_arrow().to_pylist()
    values = np.array([[row["x"], row["y"]] for row in rows], dtype=float).astype(np.float32)
    expected = xgboost.Booster(model_file=str(other)).predict(xgboost.DMatrix(values, feature_names=["x", "y"]))
    assert len(rows) == len(stream_rows)
    assert np.max(np.abs(expected - np.array([row["probability"] for row in rows]))) < 1e-6

    # One bit of one row.
    victim = stream_rows[len(stream_rows) // 2]
    place = f"source_partition = {victim['source_partition']} AND source_offset = {victim['source_offset']}"
    assert live.call("sql", f"UPDATE predictions.live SET x = COALESCE(x, 0) + 1e-9 WHERE {place}").code == 0
    answer = live.call("stream", "replay", "live", "--format", "json")
    found = json.loads(answer.stdout)["compared"]
    assert answer.code == 1 and (found["different"], found["by_column"]) == (1, {"x": 1}), answer
    assert found["named"][0]["offset"] == victim["source_offset"]
    later = f"{victim['source_partition']}:{victim['source_offset'] + 1}"
    assert live.json("stream", "replay", "live", "--from", later, "--to", later + "00000000")["compared"]["different"] == 0
