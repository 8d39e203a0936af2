"""SQL inside a Spark ML pipeline, judged by Spark."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent


def test_statements_of_a_pipeline_score_as_in_spark(binary, tmp_path):
    made = subprocess.run([sys.executable, str(HERE / "spark_sql_stage.py"), str(tmp_path)], capture_output=True,
                          text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    done = subprocess.run([str(binary), "score", str(tmp_path / "model"), "--input", str(tmp_path / "rows.parquet"),
                           "--output", str(tmp_path / "out.parquet")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "out.parquet")
    found, expected = table["prediction"].to_numpy(), table["expected"].to_numpy()
    assert len(found) == 10_000 and np.isfinite(expected).all()
    wrong = np.flatnonzero(np.abs(found - expected) > 1e-12 * np.maximum(np.abs(expected), 1))
    assert len(wrong) == 0, (len(wrong), table.slice(int(wrong[0]), 1).to_pylist())
    assert len(np.unique(found)) > 5000
