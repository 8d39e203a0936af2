//! How streams are, as metrics in the text format that Prometheus reads.
//!
//! It says what `stream status` says, of streams, their partitions and the
//! processes that run. Counters are of a process, and begin at zero with it.

use std::fmt::Write as _;

use super::status::{LagUnit, LiveStatus, PartitionStatus, Status};

/// What a family of metrics is about, and its samples.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: Vec<(String, f64)>,
}

/// A metric of a process: name, kind, help, value.
type OfProcess = (&'static str, &'static str, &'static str, fn(&LiveStatus) -> Option<f64>);

const OF_PROCESSES: &[OfProcess] = &[
    ("events_total", "counter", "Events that the process read.", |live| Some(live.events as f64)),
    ("predictions_total", "counter", "Predictions that it made.", |live| Some(live.rows as f64)),
    ("filtered_events_total", "counter", "Events that the filter took out.", |live| Some(live.filtered as f64)),
    ("late_events_total", "counter", "Events that came after their windows were closed.", |live| {
        Some(live.late as f64)
    }),
    ("dead_letters_total", "counter", "Events that no prediction could be made of.", |live| Some(live.dead as f64)),
    ("alerts_total", "counter", "Rows of alerts.", |live| Some(live.alerts as f64)),
    ("commits_total", "counter", "Commits of the prediction table.", |live| Some(live.commits as f64)),
    ("waiting_rows", "gauge", "Rows that wait for their commit.", |live| Some(live.waiting_rows as f64)),
    ("last_commit_seconds", "gauge", "How long the last commit of the process took.", |live| {
        Some(live.last_commit_seconds)
    }),
    ("last_commit_files", "gauge", "Data files of the last commit of the process.", |live| {
        Some(live.last_commit_files as f64)
    }),
    ("state_bytes", "gauge", "Bytes of window state.", |live| Some(live.state_bytes as f64)),
    ("state_keys", "gauge", "Keys with window state.", |live| Some(live.state_keys as f64)),
    ("watermark_timestamp_seconds", "gauge", "The oldest watermark of a partition, since the epoch.", |live| {
        live.watermark.map(seconds)
    }),
    ("features_loaded_timestamp_seconds", "gauge", "When the joined features were read, since the epoch.", |live| {
        live.features_loaded.map(seconds)
    }),
    ("schema_drifts", "gauge", "Ways in which events are not what they were, twenty at most.", |live| {
        Some(live.drift.len() as f64)
    }),
    ("process_status_timestamp_seconds", "gauge", "When the process said this, since the epoch.", |live| {
        Some(seconds(live.at))
    }),
];

/// A gauge of a partition: name, help, value.
type OfPartition = (&'static str, &'static str, fn(&PartitionStatus) -> Option<f64>);

const OF_PARTITIONS: &[OfPartition] = &[
    ("partition_position", "The committed position.", |partition| Some(partition.position as f64)),
    ("partition_epoch", "How often the partition was taken over.", |partition| Some(partition.epoch as f64)),
];

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// All metrics of these streams.
pub fn exposition(statuses: &[Status]) -> String {
    let mut families = of_streams(statuses);
    for (name, help, value) in OF_PARTITIONS {
        let samples = partitions(statuses, |_, partition| value(partition));
        families.push(Family { name, kind: "gauge", help, samples });
    }
    for (name, unit, help) in [
        ("partition_lag_events", LagUnit::Events, "Offsets of the topic between the committed position and its end."),
        ("partition_lag_bytes", LagUnit::Bytes, "Bytes of the file between the committed position and its end."),
    ] {
        let lag = |status: &Status, partition: &PartitionStatus| {
            // The table may have been read after the source was asked.
            partition.lag.filter(|_| status.lag_unit == unit).map(|lag| lag.max(0) as f64)
        };
        families.push(Family { name, kind: "gauge", help, samples: partitions(statuses, lag) });
    }
    for (name, kind, help, value) in OF_PROCESSES {
        let samples = processes(statuses).filter_map(|live| Some((of_process(live), value(live)?)));
        families.push(Family { name, kind, help, samples: samples.collect() });
    }
    let quantiles = processes(statuses).flat_map(|live| {
        let found = [("0.5", live.latency_p50_ms), ("0.95", live.latency_p95_ms), ("0.99", live.latency_p99_ms)];
        found
            .into_iter()
            .filter_map(|(quantile, ms)| Some((format!("{},quantile=\"{quantile}\"", of_process(live)), ms? / 1000.0)))
    });
    families.push(Family {
        name: "arrival_to_prediction_seconds",
        kind: "gauge",
        help: "From an event's arrival to its prediction, since the process began: quantiles.",
        samples: quantiles.collect(),
    });
    let models = processes(statuses).map(|live| {
        let version = format!("{},model_version=\"{}\"", of_process(live), escaped(&live.model_version));
        (version, 1.0)
    });
    let help = "The version of the model that scores.";
    families.push(Family { name: "model_info", kind: "gauge", help, samples: models.collect() });
    text(&families)
}

fn of_streams(statuses: &[Status]) -> Vec<Family> {
    let of_stream = |value: &dyn Fn(&Status) -> Option<f64>| {
        let samples = statuses.iter().filter_map(|status| Some((of_pipeline(&status.pipeline), value(status)?)));
        samples.collect::<Vec<_>>()
    };
    let gauge = |name, help, samples| Family { name, kind: "gauge", help, samples };
    vec![
        gauge(
            "processes",
            "Processes that run the stream on this machine.",
            of_stream(&|status| Some(status.processes.len() as f64)),
        ),
        gauge(
            "source_reachable",
            "Whether the source said how much it has: 1 or 0.",
            of_stream(&|status| Some(f64::from(u8::from(status.source_error.is_none())))),
        ),
        gauge(
            "last_commit_timestamp_seconds",
            "When the last commit of the prediction table was, since the epoch.",
            of_stream(&|status| status.committed_ms.map(|ms| ms as f64 / 1000.0)),
        ),
        gauge(
            "metrics_timestamp_seconds",
            "When the prediction table was read for these metrics, since the epoch.",
            of_stream(&|status| Some(seconds(status.at))),
        ),
    ]
}

fn of_pipeline(name: &str) -> String {
    format!("pipeline=\"{}\"", escaped(name))
}

fn of_process(live: &LiveStatus) -> String {
    format!("{},process=\"{}\"", of_pipeline(&live.pipeline), live.process)
}

fn processes(statuses: &[Status]) -> impl Iterator<Item = &LiveStatus> {
    statuses.iter().flat_map(|status| &status.processes)
}

fn partitions(statuses: &[Status], value: impl Fn(&Status, &PartitionStatus) -> Option<f64>) -> Vec<(String, f64)> {
    let mut samples = Vec::new();
    for status in statuses {
        for partition in &status.partitions {
            let Some(value) = value(status, partition) else { continue };
            let name = partition.name.as_ref().map(|name| format!(",name=\"{}\"", escaped(name))).unwrap_or_default();
            let labels = format!("{},partition=\"{}\"{name}", of_pipeline(&status.pipeline), partition.partition);
            samples.push((labels, value));
        }
    }
    samples
}

/// The text of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Families that have samples.
fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for Family { name, kind, help, samples } in families.iter().filter(|family| !family.samples.is_empty()) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP insightera_stream_{name} {help}\n# TYPE insightera_stream_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "insightera_stream_{name}{{{labels}}} {value}");
        }
    }
    text
}
