"""Real students: XGBoost trains on them in Python, Insightera scores them, row by row the same."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import xgboost

from lakehouse import COLUMNS, MODEL, START, rows  # noqa: F401

TIME = pa.timestamp("us", tz="UTC")


def ulps(a, b):
    """Distance of two single-precision numbers in units in the last place."""
    as_integers = [np.asarray(v, np.float32).view(np.int32).astype(np.int64) for v in (a, b)]
    ordered = [np.where(v < 0, np.int64(-(2**31)) - v, v) for v in as_integers]
    return np.abs(ordered[0] - ordered[1])


def score_and_compare(project, frame, features, label, tmp_path):
    data = xgboost.DMatrix(frame[features], label=label)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 6, "eta": 0.1, "seed": 1}, data, 120)
    model = tmp_path / "model.ubj"
    booster.save_model(model)
    table = pa.table({
        "nim": pa.array(frame["nim"]),
        **{name: pa.array(frame[name].astype("float64")) for name in features},
        "feature_timestamp": pa.array([START + datetime.timedelta(seconds=i) for i in range(len(frame))], TIME),
    })
    half = len(table) // 2
    project.make_table("real.students", table.slice(0, half), table.slice(half))
    project.pipeline(sql=f"SELECT nim, {', '.join(features)}, feature_timestamp FROM real.students")
    project.register(model)
    answer = project.run()
    assert answer["scored"] == len(frame) and answer["reasons"] == {"first": len(frame)}
    found = pd.DataFrame(project.predictions()).set_index("nim").loc[frame["nim"]]
    margin = booster.predict(data, output_margin=True)
    assert np.array_equal(found["margin"].to_numpy(np.float32).view(np.int32), margin.view(np.int32)), "margins differ"
    assert ulps(found["probability"], booster.predict(data)).max() <= 2
    assert project.run()["status"] == "unchanged"
    code, verified = project.verify()
    assert code == 0 and verified["current"] == len(frame)


def test_the_students_of_uci(empty_project, test_data, tmp_path):
    frame = pd.read_csv(test_data / "uci_dropout" / "data.csv")
    target = frame.columns[-1]
    features = [name for name in frame.columns if name != target]
    assert len(frame) == 4424 and len(features) == 36
    frame["nim"] = [f"{i:07d}" for i in range(len(frame))]
    score_and_compare(empty_project, frame, features, frame[target] == "Dropout", tmp_path)


def test_the_registrations_of_the_open_university(empty_project, test_data, tmp_path):
    info = pd.read_csv(test_data / "oulad" / "studentInfo.csv")
    registration = pd.read_csv(test_data / "oulad" / "studentRegistration.csv", na_values="?")
    frame = info.merge(registration, on=["code_module", "code_presentation", "id_student"])
    assert len(frame) == 32593
    frame["nim"] = frame["code_module"] + frame["code_presentation"] + frame["id_student"].astype(str)
    categories = ["gender", "region", "highest_education", "imd_band", "age_band", "disability", "code_module"]
    for name in categories:
        codes = frame[name].astype("category").cat.codes.astype("float64")
        frame[name] = codes.where(codes >= 0)
    features = [*categories, "num_of_prev_attempts", "studied_credits", "date_registration"]
    score_and_compare(empty_project, frame, features, frame["final_result"] == "Withdrawn", tmp_path)
