"""One peer in a process of its own, on command, for `bench/inference.py`.

    python bench/inference_peers.py ENGINE MODEL ROWS.npy THREADS

Prints one line when the model is loaded and then answers each line of its
input, as crates/infer/examples/score_bench.rs does. A peer gets the rows as
its interface likes them best: that copy is not measured. The output transform
and the allocation of the result are.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main():
    engine, path, rows, threads = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    x = np.array(np.load(rows, mmap_mode="r"), order="C")
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    before, start = resident(), time.perf_counter()
    try:
        prepare, predict, single, *more = ENGINES[engine](path, threads, x)
        explain = more[0] if more else None
    except Exception as error:
        answer(failed=f"{type(error).__name__}: {error}".splitlines()[0][:160])
        return
    answer(load_seconds=time.perf_counter() - start, bytes=resident() - before)
    ready = {}
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        try:
            if command == "rows":
                count = int(argument)
                if count not in ready:
                    ready = {count: prepare(x[:count])}
                wall, cpu = time.perf_counter(), time.process_time()
                predict(ready[count])
                answer(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
            elif command == "explain":
                if explain is None:
                    answer()
                    continue
                wall, cpu = time.perf_counter(), time.process_time()
                explain(x[: int(argument)])
                answer(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
            elif command == "single":
                answer(**(percentiles(single, x, int(argument)) if single else {}))
            elif command == "write":
                np.asarray(predict(prepare(x)), np.float64).ravel().tofile(argument)
                answer(wall=0)
        except Exception as error:
            answer(failed=f"{type(error).__name__}: {error}".splitlines()[0][:160])


def percentiles(single, x, count):
    call = single(x)
    times = []
    for row in range(count):
        start = time.perf_counter_ns()
        call(row % len(x))
        times.append((time.perf_counter_ns() - start) / 1000)
    return {"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99))}


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def same(x):
    return x


def xgboost(path, threads, x):
    import xgboost

    booster = xgboost.Booster(model_file=path)
    booster.set_param({"nthread": threads})
    library = xgboost.core._LIB

    def single(x):
        # XGBoosterPredictFromDense, without Python between the call and the library.
        settings = json.dumps({"type": 0, "training": False, "iteration_begin": 0, "iteration_end": 0, "missing": float("nan"), "strict_shape": False}).encode()
        interfaces = [json.dumps({"data": [x[row].ctypes.data, True], "shape": [1, x.shape[1]], "typestr": "<f4", "version": 3}).encode() for row in range(min(len(x), 2000))]
        shape, dimensions, result = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64(), ctypes.POINTER(ctypes.c_float)()
        places = ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(result)
        call, handle = library.XGBoosterPredictFromDense, booster.handle

        def one(row):
            assert call(handle, interfaces[row % len(interfaces)], settings, None, *places) == 0
            return result[0]

        return one

    def explain(rows):
        return booster.predict(xgboost.DMatrix(rows, feature_names=booster.feature_names), pred_contribs=True)

    return same, booster.inplace_predict, single, explain


def lightgbm(path, threads, x):
    import lightgbm
    from lightgbm.basic import _LIB

    booster = lightgbm.Booster(model_file=path)

    def single(x):
        fast, length, result = ctypes.c_void_p(), ctypes.c_int64(), np.zeros(1)
        start = _LIB.LGBM_BoosterPredictForMatSingleRowFastInit
        # 0: transformed; rows of single precision.
        assert start(booster._handle, 0, 0, -1, 0, x.shape[1], f"num_threads={threads}".encode(), ctypes.byref(fast)) == 0
        call, place, out = _LIB.LGBM_BoosterPredictForMatSingleRowFast, ctypes.byref(length), result.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        rows = [ctypes.c_void_p(x[row].ctypes.data) for row in range(min(len(x), 2000))]

        def one(row):
            assert call(fast, rows[row % len(rows)], place, out) == 0
            return result[0]

        return one

    def explain(rows):
        return booster.predict(rows, num_threads=threads, pred_contrib=True)

    return same, lambda rows: booster.predict(rows, num_threads=threads), single, explain


def catboost(path, threads, x):
    import catboost

    model = catboost.CatBoostClassifier().load_model(str(path))

    def predict(rows):
        return model.predict(rows, prediction_type="Probability", thread_count=threads)[:, 1]

    def explain(rows):
        return model.get_feature_importance(catboost.Pool(rows), type="ShapValues", thread_count=threads)

    return catboost.Pool, predict, lambda x: lambda row: predict(x[row : row + 1]), explain


def sklearn(path, threads, x):
    import joblib

    model = joblib.load(path.with_suffix(".joblib"))
    if hasattr(model, "n_jobs"):
        model.n_jobs = threads
    return same, lambda rows: model.predict_proba(rows)[:, 1], lambda x: lambda row: model.predict_proba(x[row : row + 1])


def onnxruntime(path, threads, x):
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    found = path.with_suffix(".onnx")
    if not found.exists():
        convert(path, found)
    session = onnxruntime.InferenceSession(found, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [output.name for output in session.get_outputs()][1:2]

    def predict(rows):
        return session.run(outputs, {name: rows})[0][:, 1]

    return same, predict, lambda x: lambda row: session.run(outputs, {name: x[row : row + 1]})


def convert(path, found):
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    inputs = [("input", FloatTensorType([None, 30]))]
    if path.suffix == ".ubj":
        import xgboost

        booster = xgboost.Booster(model_file=path)
        booster.feature_names = None
        model = onnxmltools.convert_xgboost(booster, initial_types=inputs)
    else:
        import lightgbm

        model = onnxmltools.convert_lightgbm(lightgbm.Booster(model_file=path), initial_types=inputs, zipmap=False)
    found.write_bytes(model.SerializeToString())


def lignum(path, threads, x, compiled=False):
    import lignum

    model = lignum.load(str(path))
    if compiled:
        model.compile(work_dir=str(path.parent / "lignum"))

    def double(rows):
        return np.ascontiguousarray(rows, np.float64)

    def single(x):
        rows = double(x[:2000])
        return lambda row: model.predict(rows[row % len(rows)], n_jobs=1)

    return double, lambda rows: model.predict(rows, n_jobs=threads), single


def lignum_compiled(path, threads, x):
    return lignum(path, threads, x, compiled=True)


def daal4py(path, threads, x):
    import daal4py

    daal4py.daalinit(threads)
    if path.suffix == ".ubj":
        import xgboost

        model = daal4py.mb.convert_model(xgboost.Booster(model_file=path))
    else:
        import lightgbm

        model = daal4py.mb.convert_model(lightgbm.Booster(model_file=path))

    def predict(rows):
        found = model.predict_proba(rows) if hasattr(model, "predict_proba") else model.predict(rows)
        return found[:, 1] if found.ndim == 2 else found

    return same, predict, None


def lleaves(path, threads, x):
    import lleaves

    model = lleaves.Model(model_file=str(path))
    model.compile(cache=str(path.with_suffix(".lleaves")))
    return (lambda rows: np.ascontiguousarray(rows, np.float64)), lambda rows: model.predict(rows, n_jobs=threads), None


def tl2cgen(path, threads, x):
    import tl2cgen
    import treelite

    library = path.with_suffix(".tl2cgen.so")
    if not library.exists():
        load = treelite.frontend.load_xgboost_model if path.suffix == ".ubj" else treelite.frontend.load_lightgbm_model
        tl2cgen.export_lib(load(path), toolchain="gcc", libpath=library, params={"parallel_comp": 8}, nthreads=2)
    model = tl2cgen.Predictor(library, nthreads=threads)
    return tl2cgen.DMatrix, lambda rows: model.predict(rows).ravel(), None


def ydf(path, threads, x):
    """A model of its own, of equal size: YDF reads no other library's."""
    import inference_models
    import ydf

    folder = path.with_suffix(".ydf")
    if not folder.exists():
        rows, label = inference_models.rows(inference_models.TRAIN_ROWS, inference_models.SEED + 1)
        data = dict(zip(inference_models.NAMES, rows.T)) | {"label": label}
        shape = {"max_depth": 7} if path.suffix == ".ubj" else {"growing_strategy": "BEST_FIRST_GLOBAL", "max_num_nodes": 31, "max_depth": -1}
        learner = ydf.GradientBoostedTreesLearner(label="label", num_trees=500, shrinkage=0.05, validation_ratio=0, num_threads=2, **shape)
        learner.train(data, verbose=0).save(str(folder))
    model = ydf.load_model(str(folder))

    def columns(rows):
        return {name: np.ascontiguousarray(rows[:, at]) for at, name in enumerate(inference_models.NAMES)}

    return columns, lambda rows: model.predict(rows, num_threads=threads), None


ENGINES = {
    "xgboost": xgboost,
    "lightgbm": lightgbm,
    "catboost": catboost,
    "scikit-learn": sklearn,
    "onnxruntime": onnxruntime,
    "lignum": lignum,
    "lignum compiled": lignum_compiled,
    "daal4py": daal4py,
    "lleaves": lleaves,
    "tl2cgen": tl2cgen,
    "ydf": ydf,
}

if __name__ == "__main__":
    main()
