"""Alerts told to webhooks and Slack: a server in this process, which fails at first, refuses, or is slow."""

import datetime
import http.server
import json
import threading
import time

import pytest

from test_stream import NOW, append, kill, live, running, said, stop, write_pipeline  # noqa: F401


class Server(http.server.ThreadingHTTPServer):
    """Answers `answers[path]` one after the other, the last for ever; keeps what came with a success."""

    def __init__(self, answers):
        self.answers, self.asked, self.got = answers, [], []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answers = self.server.answers[self.path]
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.asked.append(self.path)
        if status == "slow":
            time.sleep(3)
            status = 200
        elif status == "silent":
            time.sleep(30)
            status = 200
        if status == 200:
            self.server.got.append((self.path, self.headers["content-type"], body))
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


def told(project, notifiers, notify):
    with open(project.folder / "insightera.toml", "a") as out:
        out.write(notifiers)
    path = project.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace("[stream]", f"""[alerts.high]
when = "x > 0"
table = "predictions.high"
notify = {json.dumps(notify)}
[stream]"""))


def event(student, value):
    return json.dumps({"nim": student, "kind": "a", "at": NOW, "data": {"value": value}})


@pytest.fixture
def server():
    server = Server({"/hook": [503, 429, 200], "/slack": [200], "/gone": [404], "/slow": ["slow"], "/waits": ["silent", 200],
                     "/silent": ["silent"]})
    yield server
    server.shutdown()


def test_webhook_and_slack_are_told_after_failures(live, server):  # noqa: F811
    told(live, f"""
[notifiers.hook]
kind = "webhook"
url = "{server.url('/hook')}"
[notifiers.team]
kind = "slack"
url = "env:TEAM_URL"
""", ["hook", "team"])
    append(live, 0, [event("000001", 2.5), event("000002", -1), event("a<b>&c", 1)])
    checked = live.json("check", "live")[0]
    assert any("TEAM_URL" in warning for warning in checked["warnings"]), checked
    answer = live.call("stream", "live", "--until-end")
    assert answer.code == 1 and "TEAM_URL" in answer.stderr and "hooks" not in answer.stderr
    answer = live.call("stream", "live", "--until-end", environment={"TEAM_URL": server.url("/slack")})
    assert answer.code == 0 and "was not told" not in answer.stderr, answer
    assert server.asked.count("/hook") == 3
    got = {path: (kind, body) for path, kind, body in server.got}
    kind, body = got["/hook"]
    assert kind == "application/json" and (body["pipeline"], body["alert"], body["count"]) == ("live", "high", 2)
    assert [(row["nim"], row["x"]) for row in body["rows"]] == [("000001", 2.5), ("a<b>&c", 1.0)]
    text = got["/slack"][1]["text"]
    assert text.startswith("*high* of live: 2 rows\n• nim 000001") and "a&lt;b&gt;&amp;c" in text
    assert live.table("predictions.high").scan().to_arrow().num_rows == 2


def test_https_trusts_the_machines_certificates_and_no_others(live, tmp_path):  # noqa: F811
    import shutil
    import ssl
    import subprocess

    from conftest import missing

    if not shutil.which("openssl"):
        missing("openssl", "makes the certificate of the test's server")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
            "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    subprocess.run(made, check=True, capture_output=True)
    server = Server({"/hook": [200]})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url("/hook").replace("http://", "https://")
    told(live, f'\n[notifiers.hook]\nkind = "webhook"\nurl = "{url}"\n', ["hook"])
    append(live, 0, [event("000001", 2.5)])
    answer = live.call("stream", "live", "--until-end")
    assert answer.code == 0 and "was not told" in answer.stderr and "ertificate" in answer.stderr, answer
    append(live, 0, [event("000001", 2.5)])
    answer = live.call("stream", "live", "--until-end", environment={"SSL_CERT_FILE": str(tmp_path / "cert.pem")})
    assert answer.code == 0 and "was not told" not in answer.stderr, answer
    assert len(server.got) == 1
    server.shutdown()


def test_what_cannot_be_delivered_is_said_and_stops_nothing(live, server):  # noqa: F811
    told(live, f"""
[notifiers.gone]
kind = "webhook"
url = "{server.url('/gone')}"
[notifiers.nobody]
kind = "webhook"
url = "http://127.0.0.1:9/secret-token"
[notifiers.slow]
kind = "webhook"
url = "{server.url('/slow')}"
timeout = "200 ms"
""", ["gone", "nobody", "slow"])
    append(live, 0, [event("000001", 2.5)])
    answer = live.call("stream", "live", "--until-end")
    assert answer.code == 0, answer
    for name, why in [("gone", "404"), ("nobody", "onnect"), ("slow", "timed out")]:
        lines = [line for line in answer.stderr.splitlines() if f"notifier `{name}` was not told" in line]
        assert len(lines) == 1 and why in lines[0], (name, answer.stderr)
    assert server.asked.count("/gone") == 1 and "secret-token" not in answer.stderr
    assert live.table("predictions.high").scan().to_arrow().num_rows == 1


def test_wrong_notifiers_are_errors(live):  # noqa: F811
    write_pipeline(live, 'files = "events"')
    told(live, '\n[notifiers.ops]\nkind = "webhook"\nurl = "https://example.org/x"\n', ["opps"])
    answer = live.call("check", "live")
    assert answer.code == 1 and "did you mean `ops`" in answer.stderr, answer
    project = (live.folder / "insightera.toml").read_text()
    for old, new, says in [("https://", "ftp://", "no address of the web"), ('kind = "webhook"', 'kind = "pager"', "pager"),
                           ('kind = "webhook"\n', '', "kind"), ("url =", "uri =", "did you mean")]:
        (live.folder / "insightera.toml").write_text(project.replace(old, new))
        answer = live.call("check", "live")
        assert answer.code == 1 and says in answer.stderr and "insightera.toml" in answer.stderr, (new, answer)


def until(condition, process):
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, said(process)
        time.sleep(0.05)


def committed(project):
    """Rows of the prediction table."""
    return project.table("predictions.live").scan().to_arrow().num_rows if project.metadata_location("predictions.live") else 0


def test_an_alert_is_told_again_when_the_process_was_killed_before_it_arrived(live, server):  # noqa: F811
    told(live, f'\n[notifiers.hook]\nkind = "webhook"\nurl = "{server.url("/waits")}"\ntimeout = "60 s"\n', ["hook"])
    append(live, 0, [event("000001", 2.5)])
    process = running(live, "live")
    until(lambda: server.asked, process)
    # Its commit is due after 200 ms.
    time.sleep(2)
    assert committed(live) == 0
    kill(process)
    process = running(live, "live")
    until(lambda: committed(live) == 1, process)
    stop(process)
    assert [(row["nim"], row["x"]) for _, _, body in server.got for row in body["rows"]] == [("000001", 2.5)]
    assert server.asked == ["/waits", "/waits"] and committed(live) == 1
    assert live.table("predictions.high").scan().to_arrow().num_rows == 1


def test_a_notifier_that_is_silent_holds_a_commit_up_for_seconds_only(live, server):  # noqa: F811
    told(live, f'\n[notifiers.hook]\nkind = "webhook"\nurl = "{server.url("/silent")}"\ntimeout = "60 s"\n', ["hook"])
    append(live, 0, [event("000001", 2.5)])
    process = running(live, "live")
    until(lambda: server.asked, process)
    asked = time.monotonic()
    until(lambda: committed(live) == 1, process)
    assert 4 < time.monotonic() - asked < 9
    # And no other one until it has answered.
    append(live, 0, [event("000002", 2.5)])
    begun = time.monotonic()
    until(lambda: committed(live) == 2, process)
    assert time.monotonic() - begun < 4
    kill(process)


def held_up(live, process, events):
    """Seconds from an event until it is committed, of one after the other."""
    seconds = []
    for line in events:
        before, begun = committed(live), time.monotonic()
        append(live, 0, [line])
        until(lambda: committed(live) == before + 1, process)
        seconds.append(time.monotonic() - begun)
    return seconds


@pytest.mark.parametrize("kind", ["silent", "refuses"])
def test_an_outage_of_a_notifier_holds_one_commit_up_and_not_each(live, server, kind):  # noqa: F811
    """Also where it is given up before the patience ends, and where commits without alerts come between."""
    url = server.url("/silent") if kind == "silent" else "http://127.0.0.1:9/"
    told(live, f'\n[notifiers.hook]\nkind = "webhook"\nurl = "{url}"\ntimeout = "60 s"\n', ["hook"])
    process = running(live, "live")
    alerts = [event(f"00000{n}", 2.5 if n % 3 else -1) for n in range(1, 9)]
    seconds = held_up(live, process, alerts)
    assert seconds[0] > 3 and sum(each > 3.5 for each in seconds[1:]) <= 1, seconds
    kill(process)


def test_a_log_gets_a_line_for_each_notice_also_after_it_was_moved_away(live):  # noqa: F811
    told(live, '\n[notifiers.log]\nkind = "log"\nfile = "logs/alerts.ndjson"\n', ["log"])
    log = live.folder / "logs" / "alerts.ndjson"
    append(live, 0, [event("000001", 2.5), event("000002", -1)])
    process = running(live, "live")
    until(lambda: committed(live) == 2, process)
    first = [json.loads(line) for line in log.read_text().splitlines()]
    log.rename(live.folder / "logs" / "alerts.1")
    append(live, 0, [event("a \"b\"\n", 1)])
    until(lambda: committed(live) == 3, process)
    stop(process)
    second = [json.loads(line) for line in log.read_text().splitlines()]
    for notices, nim, x in [(first, "000001", 2.5), (second, 'a "b"\n', 1.0)]:
        notice, = notices
        assert (notice["pipeline"], notice["alert"], notice["count"]) == ("live", "high", 1)
        assert [(row["nim"], row["x"]) for row in notice["rows"]] == [(nim, x)]
        assert datetime.datetime.fromisoformat(notice["at"]).year >= 2024


def test_a_log_that_cannot_be_written_is_said_and_stops_nothing(live):  # noqa: F811
    told(live, '\n[notifiers.log]\nkind = "log"\nfile = "events"\n', ["log"])
    append(live, 0, [event("000001", 2.5)])
    answer = live.call("stream", "live", "--until-end")
    assert answer.code == 0 and "notifier `log` was not told of alert `high`" in answer.stderr, answer
    assert committed(live) == 1
    settings = (live.folder / "insightera.toml").read_text()
    for wrong, said in [('kind = "log"\nurl = "http://a"', "`url` goes with"), ('kind = "log"\n', "file"),
                        ('kind = "slack"\nurl = "http://a"\nfile = "b"', "`file` goes with")]:
        (live.folder / "insightera.toml").write_text(settings.replace('kind = "log"\nfile = "events"\n', f"{wrong}\n"))
        refused = live.call("check")
        assert refused.code == 1 and said in refused.stderr and "insightera.toml" in refused.stderr, refused
