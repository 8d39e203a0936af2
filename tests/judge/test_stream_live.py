"""`[live] url`: predictions posted to a webhook that fails, refuses, hangs and goes away, by a stream that is killed."""

import collections
import http.server
import json
import os
import random
import signal
import subprocess
import threading
import time

import pytest

from kafka_broker import free_port
from test_stream import append, check, events, fold_files, live, write_pipeline  # noqa: F401

SECRET = "a-token-of-the-test"


class Webhook(http.server.ThreadingHTTPServer):
    """Answers with what `answer(number of the request)` says: a status, a status and headers, or "hang". Keeps what came:
    status, key and body, in the order of arrival."""

    daemon_threads = True

    def __init__(self, answer, port=0):
        self.answer, self.came, self.lock, self.away = answer, [], threading.Lock(), False
        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"

    def took(self):
        """What was taken: bodies by key, each once, since one whose answer was too slow comes again."""
        taken = {}
        with self.lock:
            for status, key, body in self.came:
                if status == 200:
                    taken.setdefault(key, body)
        return taken

    def close(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        assert (self.path, self.headers["content-type"]) == (f"/{SECRET}", "application/json")
        with self.server.lock:
            answer = "away" if self.server.away else self.server.answer(len(self.server.came))
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            self.server.came.append((status, self.headers["idempotency-key"], json.loads(body)))
        if status in ("hang", "away"):
            time.sleep(2 if status == "hang" else 0)
            self.close_connection = True
            return
        said = b"" if status == 200 else b"field x is unknown"
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(said))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


def with_live(project, section):
    write_pipeline(project, 'files = "events"')
    path = project.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace("[stream]", f"[live]\n{section}\n[stream]"))


def start(project, log):
    return subprocess.Popen([project.binary, "--project", str(project.folder), "stream", "live"], stderr=open(log, "a"),
                            stdout=subprocess.DEVNULL, env={**os.environ, **project.environment})


def until(what, seconds, process=None):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.1)


def predictions(project):
    """The rows of the table by their ids."""
    found = project.table("predictions.live").scan().to_arrow().to_pylist()
    return {f"live/{row['source_partition']}/{row['source_offset']}": row for row in found}


def check_received(project, webhook):
    """Every row of the table came with its values, in the order of its partition, and repeats can be told."""
    table, copies, order = predictions(project), {}, collections.defaultdict(list)
    for body in webhook.took().values():
        assert body["pipeline"] == "live" and 1 <= len(body["predictions"]) <= 1000
        for one in body["predictions"]:
            id_, row = one["id"], one["row"]
            _, partition, offset = id_.split("/")
            assert (row["source_partition"], row["source_offset"]) == (int(partition), int(offset))
            copies.setdefault(id_, {})[row["run_id"]] = row
            order[row["run_id"], partition].append(int(offset))
    assert copies.keys() == table.keys()
    for id_, row in table.items():
        # That of the run which committed it.
        came = copies[id_][row["run_id"]]
        for column in ("nim", "seen", "x", "y", "probability", "model_version", "score_reason"):
            assert came.get(column) == row[column], (id_, column)
    for run, offsets in order.items():
        assert offsets == sorted(set(offsets)), run
    bodies = {}
    with webhook.lock:
        for status, key, body in webhook.came:
            first, last = body["predictions"][0]["id"], body["predictions"][-1]["id"]
            assert key == f"{first}-{last}-{body['predictions'][0]['row']['run_id']}"
            assert bodies.setdefault(key, body) == body, "one key, two requests"
    return sum(map(len, order.values())) - len(table)


def test_every_prediction_is_taken_at_least_once_whatever_fails_and_is_killed(live, small_model, tmp_path):  # noqa: F811
    kinds = [503, "hang", 500, (429, {"retry-after": "1"}), 408]
    webhook = Webhook(lambda number: kinds[number // 4 % 5] if number % 4 == 1 else 200)
    live.environment["LIVE_URL"] = webhook.url
    with_live(live, 'url = "env:LIVE_URL"\ntimeout = "700 ms"')
    numbers, written, log = random.Random(9), [0, 0], tmp_path / "stderr"
    for round_ in range(8):
        process = start(live, log)
        deadline = time.monotonic() + numbers.uniform(0.6, 2.5)
        while time.monotonic() < deadline:
            for file in range(2):
                append(live, file, events(file, 30, start=written[file]))
                written[file] += 30
            time.sleep(0.03)
        assert process.poll() is None, log.read_text()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    answered = live.call("stream", "live", "--until-end")
    assert answered.code == 0, answered
    check(live, fold_files(live), small_model)
    check_received(live, webhook)
    statuses = collections.Counter(status for status, _, _ in webhook.came)
    assert statuses[503] and statuses[500] and statuses["hang"], statuses
    assert SECRET not in log.read_text() + answered.stderr
    # What was committed is not sent again.
    before = len(webhook.came)
    assert live.json("stream", "live", "--until-end")[0]["rows"] == 0
    assert len(webhook.came) == before
    webhook.close()


def test_a_webhook_that_is_away_is_waited_for(live, small_model, tmp_path):  # noqa: F811
    port, log = free_port(), tmp_path / "stderr"
    with_live(live, f'url = "http://127.0.0.1:{port}/{SECRET}"')
    append(live, 0, events(0, 200))
    process = start(live, log)
    until(lambda: "predictions wait for the webhook" in log.read_text(), 60, process)
    said = [line for line in log.read_text().splitlines() if "predictions wait" in line][0]
    assert f"the webhook `http://127.0.0.1:{port}` of [live] since 3" in said and "refused" in said, said
    assert "they are committed when it has taken them" in said and predictions(live) == {}, said
    webhook = Webhook(lambda _: 200, port)
    until(lambda: len(predictions(live)) == len(fold_files(live)[0].predictions), 60, process)
    # Away again: told to stop it ends at once, and loses nothing.
    webhook.away = True
    before = len(predictions(live))
    append(live, 0, events(0, 200, start=200))
    until(lambda: any(status == "away" for status, _, _ in webhook.came), 30, process)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 1 and time.monotonic() - told < 15
    said = log.read_text()
    assert "told to stop" in said and "nothing is lost" in said and SECRET not in said, said
    assert len(predictions(live)) == before
    webhook.away = False
    live.json("stream", "live", "--until-end")
    check(live, fold_files(live), small_model)
    check_received(live, webhook)
    webhook.close()


def test_a_refusal_stops_the_stream_and_says_what_to_do(live, small_model):  # noqa: F811
    webhook = Webhook(lambda number: 400 if number == 0 else 200)
    with_live(live, f'url = "{webhook.url}"')
    append(live, 0, events(0, 300))
    answer = live.call("stream", "live", "--until-end")
    for says in ("400 Bad Request", "field x is unknown", f"`http://127.0.0.1:{webhook.server_port}`", "`live/0/", "nothing is lost"):
        assert says in answer.stderr, answer
    assert answer.code == 1 and SECRET not in answer.stderr and answer.seconds < 20, answer
    assert len(webhook.came) == 1 and predictions(live) == {}
    live.json("stream", "live", "--until-end")
    check(live, fold_files(live), small_model)
    assert check_received(live, webhook) == 0
    webhook.close()


def test_wrong_settings_are_errors(live):  # noqa: F811
    with_live(live, 'url = "env:NO_SUCH_URL"')
    checked = live.json("check", "live")[0]
    assert any("NO_SUCH_URL" in warning for warning in checked["warnings"]), checked
    append(live, 0, events(0, 5))
    answer = live.call("stream", "live", "--until-end")
    assert answer.code == 1 and "`url` of [live]" in answer.stderr and "NO_SUCH_URL" in answer.stderr, answer
    kafka = '[live.kafka]\n"bootstrap.servers" = "localhost:9092"'
    url = f'url = "https://example.org/{SECRET}"'
    for section, says in [
        (f'{url}\ntopic = "t"\n{kafka}', "`topic` or `url`, not both"),
        ("", "neither `topic` nor `url`"),
        ('timeout = "1 s"', "neither `topic` nor `url`"),
        (f"{url}\n{kafka}", "`kafka` goes with `topic`"),
        (f'topic = "t"\ntimeout = "1 s"\n{kafka}', "`timeout` goes with `url`"),
        ('topic = "t"', "[live.kafka] is missing"),
        ('url = "ftp://example.org"', "no address of the web"),
        (f'{url}\ntimeout = "soon"', "a number and a unit"),
        ('urll = "https://example.org"', "did you mean `url`"),
    ]:
        with_live(live, section)
        answer = live.call("check", "live")
        assert answer.code == 1 and says in answer.stderr and "live.toml" in answer.stderr, (section, answer)


@pytest.mark.parametrize("status", [404, 301])
def test_a_wrong_address_is_told(live, status):  # noqa: F811
    webhook = Webhook(lambda _: (status, {"location": "/elsewhere"}))
    with_live(live, f'url = "{webhook.url}"')
    append(live, 0, events(0, 20))
    answer = live.call("stream", "live", "--until-end")
    assert answer.code == 1 and str(status) in answer.stderr and "correct `url` in [live]" in answer.stderr, answer
    webhook.close()
