"""What streams say of themselves: metrics that Prometheus' own parser reads, commit times and latencies in tables, files by the hour."""

import re
import signal
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lakehouse import duckdb_connection
from test_stream import append, events, kill, live, running, said, stop, summaries  # noqa: F401
from test_stream_kafka import Partitions, broker, stream  # noqa: F401

METRICS = "ml_monitoring.inference_metrics"


def samples(text):
    """By name and labels; the names without their prefix."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type in ("gauge", "counter"), family
        for sample in family.samples:
            key = (sample.name.removeprefix("insightera_stream_"), *sorted(sample.labels.items()))
            assert sample.name.startswith("insightera_stream_") and key not in found, key
            found[key] = sample.value
    return found


def address(process):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := re.search(r"metrics at (http://\S+)/metrics", said(process)):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(said(process))


def ask(url, wanted=lambda _: True):
    """Metrics, once they are what is wanted."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
                if wanted(found := samples(answer.read().decode())):
                    return found
        except urllib.error.HTTPError as error:
            assert error.code == 503, error
        time.sleep(0.2)
    raise AssertionError(found)


def test_prometheus_reads_of_a_running_stream_what_its_status_says(live):  # noqa: F811
    odd = 'we"ird \\ one'
    for seed, file in enumerate(("a", odd)):
        append(live, file, events(seed, 400))
    process = running(live, "live", "--metrics", "127.0.0.1:0")
    url = address(process)
    of = (("pipeline", "live"),)
    events_total = ("events_total", *of, ("process", "0"))
    found = ask(f"{url}/metrics", lambda found: found.get(events_total) == 800)
    lags = {("partition_lag_bytes", ("name", f"{name}.ndjson"), ("partition", str(number)), *of): 0
            for number, name in enumerate(("a", odd))}
    idle = lags | {("waiting_rows", *of, ("process", "0")): 0}
    found = ask(f"{url}/metrics", lambda found: idle.items() <= found.items())
    status = live.json("stream", "status", "live")[0]
    own = status["processes"][0]
    named = {name for name, *_ in found}
    for metric, key in [("events_total", "events"), ("predictions_total", "rows"), ("filtered_events_total", "filtered"),
                        ("late_events_total", "late"), ("dead_letters_total", "dead"), ("alerts_total", "alerts"),
                        ("state_bytes", "state_bytes"), ("state_keys", "state_keys"),
                        ("last_commit_files", "last_commit_files")]:
        assert found[metric, *of, ("process", "0")] == own[key], metric
    assert own["rows"] > 300 and own["filtered"] > 10 and own["state_keys"] == 80 and own["last_commit_files"] > 0
    assert found["watermark_timestamp_seconds", *of, ("process", "0")] == own["watermark"] / 1e6
    for quantile in ("0.5", "0.95", "0.99"):
        key = {"0.5": "latency_p50_ms", "0.95": "latency_p95_ms", "0.99": "latency_p99_ms"}[quantile]
        labels = sorted([*of, ("process", "0"), ("quantile", quantile)])
        assert found["arrival_to_prediction_seconds", *labels] == pytest.approx(own[key] / 1000)
    assert found["model_info", ("model_version", "1"), *of, ("process", "0")] == 1
    assert found["processes", *of] == 1 and found["source_reachable", *of] == 1
    assert -30 < found["metrics_timestamp_seconds", *of] - time.time() <= 0
    assert found["last_commit_timestamp_seconds", *of] == status["committed_ms"] / 1000
    for partition in status["partitions"]:
        labels = [("name", partition["name"]), ("partition", str(partition["partition"])), *of]
        assert found["partition_lag_bytes", *labels] == 0 == partition["lag"]
        assert found["partition_position", *labels] == partition["position"] > 10_000
    assert {partition["name"] for partition in status["partitions"]} == {"a.ndjson", f"{odd}.ndjson"}
    with pytest.raises(urllib.error.HTTPError) as other:
        urllib.request.urlopen(f"{url}/", timeout=10)
    assert other.value.code == 404
    taken = live.call("stream", "live", "--metrics", url.removeprefix("http://"))
    assert taken.code == 2 and "--metrics 127.0.0.1" in taken.stderr and "free port" in taken.stderr, taken
    stop(process)
    append(live, "a", events(0, 50, start=400))
    answer = live.call("stream", "status", "live", "live", "--format", "prometheus")
    ended = samples(answer.stdout)
    assert answer.code == 0 and ended["processes", *of] == 0 and events_total not in ended
    lag = ("partition_lag_bytes", ("name", "a.ndjson"), ("partition", "0"), *of)
    assert ended[lag] > 1000 and {name for name, *_ in ended} < named | {"partition_lag_bytes"}


def test_a_first_answer_is_of_the_process_that_runs_and_not_of_one_that_was_killed(live):  # noqa: F811
    append(live, "a", events(0, 400))
    process = running(live, "live")
    deadline = time.monotonic() + 40
    while (status := live.json("stream", "status", "live")[0])["lag"] != 0 or (status["live"] or {}).get("events") != 400:
        assert time.monotonic() < deadline and process.poll() is None, (status, said(process))
    kill(process)
    status = live.json("stream", "status", "live")[0]
    assert status["processes"] == [] and (status["live"]["events"], status["live"]["ended"]) == (400, False), status
    began = time.time()
    process = running(live, "live", "--metrics", "localhost:0")
    while not (processes := (status := live.json("stream", "status", "live")[0])["processes"]):
        assert status["live"]["events"] == 400, status
        assert time.time() < began + 40 and process.poll() is None, (status, said(process))
    assert [one["events"] for one in processes] == [0] and processes[0]["at"] / 1e6 > began, processes
    stop(process)
    append(live, "a", events(0, 100, start=400))
    began = time.time()
    process = running(live, "live", "--metrics", "localhost:0")
    first = ask(f"{address(process)}/metrics")
    own = ("pipeline", "live"), ("process", "0")
    assert first["process_status_timestamp_seconds", *own] > began and first["events_total", *own] <= 100, first
    assert first["processes", own[0]] == 1 and first["metrics_timestamp_seconds", own[0]] > began, first
    stop(process)


def test_a_wrong_address_is_an_error_with_its_remedy_and_a_name_counts_once(live):  # noqa: F811
    for wrong, remedy in [("localhost", "HOST:PORT"), (":9464", "HOST:PORT"), ("127.0.0.1:http", "HOST:PORT"),
                          ("no-such-host.invalid:9464", "localhost:9464"), ("192.0.2.1:9464", "0.0.0.0:9464")]:
        refused = live.call("stream", "live", "--until-end", "--metrics", wrong)
        assert refused.code == 1 and f"--metrics {wrong}" in refused.stderr and remedy in refused.stderr, refused
    append(live, "a", events(0, 100))
    report = live.json("stream", "live", "live", "--until-end", "--metrics", "localhost:0")
    assert [one["events"] for one in report] == [100], report


def test_an_outage_of_a_broker_shows_and_delays_neither_metrics_nor_the_end(stream, broker):  # noqa: F811
    project, topic = stream
    broker.topic(topic, 2)
    sent, of = Partitions(broker, topic, 2), ("pipeline", "live")
    took = {}
    for options in ([], ["--metrics", "127.0.0.1:0"]):
        process = running(project, "live", *options)
        sent(25)
        deadline = time.monotonic() + 60
        while (status := project.json("stream", "status", "live")[0])["lag"] != 0 or not status["processes"]:
            assert time.monotonic() < deadline and process.poll() is None, (status, said(process))
        if options:
            url = f"{address(process)}/metrics"
            ask(url, lambda found: found["source_reachable", of] == 1)
        broker.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            if options:
                found = ask(url, lambda found: found["source_reachable", of] == 0)
                assert time.monotonic() - began < 20 and not [key for key in found if key[0] == "partition_lag_events"]
            # A look has begun, and waits for the broker.
            while time.monotonic() - began < 25:
                time.sleep(0.5)
            if options:
                found = ask(url)
                assert found["source_reachable", of] == 0
                assert time.time() - found["metrics_timestamp_seconds", of] < 10, found
                assert time.time() - found["process_status_timestamp_seconds", of, ("process", "0")] < 10, found
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0, said(process)
            took[bool(options)] = time.monotonic() - began
        finally:
            broker.process.send_signal(signal.SIGCONT)
    assert took[True] < took[False] + 3, took


def commits_of_rows(project):
    """Where each row came first: place to when that commit was, by PyIceberg."""
    table, places = project.table("predictions.live"), {}
    for snapshot in project.commits("predictions.live"):
        rows = table.scan(snapshot_id=snapshot.snapshot_id, selected_fields=("source_partition", "source_offset"))
        for row in rows.to_arrow().to_pylist():
            places.setdefault((row["source_partition"], row["source_offset"]), snapshot.timestamp_ms)
    return places


def queryable(project):
    """As README says it, by DuckDB."""
    connection = duckdb_connection()
    connection.register("p", project.table("predictions.live").scan().to_arrow())
    connection.register("c", project.table(METRICS).scan().to_arrow())
    rows = connection.sql(
        "SELECT p.source_partition, p.source_offset, epoch_ms(min(c.committed_at)) FROM p JOIN c ON c.run_id = p.run_id "
        "AND c.stage = 'commit' AND c.predicted_until >= p.prediction_timestamp GROUP BY 1, 2").fetchall()
    return {(partition, offset): at for partition, offset, at in rows}


def test_each_row_has_its_commit_past_the_expiry_of_snapshots_and_its_latency_is_in_a_histogram(live):  # noqa: F811
    old = ("CREATE TABLE ml_monitoring.inference_metrics (pipeline STRING NOT NULL, run_id STRING NOT NULL, stage STRING NOT NULL, "
           "model_name STRING, model_version STRING, inference_type STRING, status STRING, strategy STRING, snapshot_id BIGINT, "
           "batch_size BIGINT, bytes BIGINT, seconds DOUBLE, latency_ms DOUBLE, throughput DOUBLE, timestamp TIMESTAMP NOT NULL) "
           "USING iceberg PARTITIONED BY (months(timestamp))")
    assert live.call("sql", old).code == 0
    committed = lambda: sum(int(one["added-records"]) > 0 for one in summaries(live) if "added-records" in one)  # noqa: E731
    for run in range(1, 3):
        process, step = running(live, "live"), 0
        while committed() < 6 * run or step < 12:
            assert process.poll() is None and step < 1000, said(process)
            append(live, step % 2, events(step, 40))
            time.sleep(0.1)
            step += 1
        stop(process)
    places = commits_of_rows(live)
    found = queryable(live)
    assert len(places) > 500 and len(set(places.values())) >= 12, "several commits of each run"
    assert found == places
    rows = live.table(METRICS).scan().to_arrow().to_pylist()
    by_stage = lambda stage: [row for row in rows if row["stage"] == stage]  # noqa: E731
    assert sum(row["batch_size"] for row in by_stage("commit")) == len(places)
    assert {row["snapshot_id"] for row in by_stage("commit") if row["batch_size"]} <= {
        snapshot.snapshot_id for snapshot in live.commits("predictions.live")}
    for what in ("arrival_to_prediction", "arrival_to_queryable"):
        buckets = by_stage(f"{what}_histogram")
        assert sum(row["batch_size"] for row in buckets) == len(places)
        for p50 in by_stage(f"{what}_p50"):
            same = sorted((row["latency_ms"], row["batch_size"]) for row in buckets if row["timestamp"] == p50["timestamp"])
            middle, below = sum(count for _, count in same) / 2, 0
            for end, count in same:
                below += count
                if below >= middle:
                    assert end / 2 < p50["latency_ms"] <= end, (what, same)
                    break
    # What the rows themselves say; the prediction's time is theirs.
    arrivals = live.table("predictions.live").scan().to_arrow().to_pylist()
    assert len(arrivals) == len(places)
    expired = live.call("sql", "CALL system.expire_snapshots(table => 'predictions.live', "
                               "older_than => TIMESTAMP '2100-01-01 00:00:00', retain_last => 1)")
    assert expired.code == 0, expired
    assert len(live.commits("predictions.live")) == 1
    assert queryable(live) == places


def test_commits_are_rarer_when_they_would_make_more_files_than_wanted(live):  # noqa: F811
    path = live.folder / "pipelines" / "live.toml"
    # Four files a commit, or five with its dead letters, 7,200 an hour: a commit in two seconds, or more.
    path.write_text(path.read_text().replace("[output]\n", '[output]\npartition_by = ["source_partition"]\n')
                    .replace("max_rows = 300", "files_per_hour = 7200"))

    def commits():
        return len(live.commits("predictions.live")) if live.metadata_location("predictions.live") else 0

    def fed(until):
        before, began = commits(), time.monotonic()
        process = running(live, "live")
        while not until(time.monotonic() - began, commits() - before):
            assert process.poll() is None and time.monotonic() - began < 60, said(process)
            for file in range(4):
                append(live, file, events(file, 3))
            time.sleep(0.05)
        stop(process)
        return commits() - before, said(process)

    count, warnings = fed(lambda seconds, count: seconds > 9 and count > 2)
    assert 3 <= count <= 8, count
    told = [line for line in warnings.splitlines() if "files_per_hour" in line]
    assert len(told) == 1 and re.search(r"has [45] files, and there may be 7200 in .* in 2\.[05] s instead of 0\.2 s", told[0]), warnings
    path.write_text(path.read_text().replace("files_per_hour = 7200", "files_per_hour = 720000"))
    count, warnings = fed(lambda seconds, count: count > 8)
    assert "files_per_hour" not in warnings, (count, warnings)
    path.write_text(path.read_text().replace("files_per_hour = 720000", "files_per_hour = 0"))
    refused = live.call("check", "live")
    assert refused.code == 1 and "files_per_hour" in refused.stderr + refused.stdout, refused
