"""Triton backend `onnxruntime` in Python: serves MODEL/VERSION/model.onnx as the C++ one does.

Runs inside the server's own environment (NumPy 1, onnxruntime) and imports nothing of ours. The
configuration keys are those of the C++ backend, so one config.pbtxt suits both.
"""

import json
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb

TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
}
LEVELS = {
    "-1": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "0": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "1": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "2": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
FATAL = 4  # ONNX Runtime's log level: errors reach the client as replies
AUTO_BATCH = 4  # what the C++ backend chooses
APPLIED = "applied_forget_class"  # the output by which a gated model tells what it applied
COUNTER = "bandstop_images_by_forget_class"
FLUSH_S = 1.0
FLUSH_SHARE = 0.02  # of the time that telling the server about the counts may take


class TritonPythonModel:
    """One instance of one version of a model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Fill in inputs and outputs from the ONNX file where the configuration names none."""
        config = auto_complete_model_config.as_dict()
        if config["input"] and config["output"]:
            return auto_complete_model_config
        options = session_options({})
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = open_session(config, pb.get_model_dir(), options)
        batched = all(_is_batched(t) for t in (*session.get_inputs(), *session.get_outputs()))
        if batched and not config["max_batch_size"]:
            config["max_batch_size"] = AUTO_BATCH
            auto_complete_model_config.set_dynamic_batching()
        for key, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
            if not config[key]:
                config[key] = [declaration(t, batched=batched) for t in sorted(tensors, key=_name)]
        return auto_complete_model_config

    def initialize(self, args):
        """Open the model and refuse a configuration that does not fit it."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self.batched = config["max_batch_size"] > 0
        self.session = open_session(config, folder, session_options(config))
        wrong = misfits(config, self.session.get_inputs(), self.session.get_outputs())
        if wrong:
            raise pb.TritonModelException(
                "config.pbtxt does not fit the graph: " + "; ".join(wrong)
            )
        self.inputs = [t.name for t in self.session.get_inputs()]
        self.outputs = [o["name"] for o in config["output"]]
        self.tally = tally_of(args) if APPLIED in self.outputs else None

    def execute(self, requests):
        """Answer the requests, all in one run; a request that fails does so alone."""
        try:
            parts = self._together(requests)
        except Exception:
            # one of them is at fault: find out which
            return [self._alone(request) for request in requests]
        return [self._reply(request, part) for request, part in zip(requests, parts, strict=True)]

    def finalize(self):
        """Let go of the model."""
        self.session = None
        if self.tally is not None:
            self.tally.close()

    def _together(self, requests):
        """Return the values of each request's outputs, from one run."""
        if len(requests) > 1 and not self.batched:
            raise ValueError("the model takes one request at a time")
        feeds = [self._feed(request) for request in requests]
        values = self.session.run(self.outputs, joined(feeds))
        if len(requests) == 1:
            return [values]
        return split(values, [len(feed[self.inputs[0]]) for feed in feeds])

    def _feed(self, request):
        """Return the request's inputs by name; they are views of memory that is shared."""
        feed = {}
        for name in self.inputs:
            tensor = pb.get_input_tensor_by_name(request, name)
            if tensor is None:
                raise ValueError(f"input {name} is missing")
            feed[name] = tensor.as_numpy()  # the server has reshaped it as the configuration says
        return feed

    def _alone(self, request):
        try:
            return self._reply(request, self.session.run(self.outputs, self._feed(request)))
        except Exception as error:
            # the code that the C++ backend gives
            return pb.InferenceResponse(
                error=pb.TritonError(f"onnx runtime error: {error}", pb.TritonError.INTERNAL)
            )

    def _reply(self, request, values):
        if self.tally is not None:
            self.tally.add(values[self.outputs.index(APPLIED)])
        wanted = set(request.requested_output_names())
        return pb.InferenceResponse(
            output_tensors=[
                pb.Tensor(name, np.ascontiguousarray(value))
                for name, value in zip(self.outputs, values, strict=True)
                if name in wanted
            ]
        )


class Tally:
    """Counts images by what was forgotten for them, for the server's metrics.

    The answers wait for none of it: a thread tells the server, which takes about 0.1 ms a class.
    """

    def __init__(self, family, labels):
        """Count into `family`, with `labels` and the class."""
        self.family, self.labels, self.metrics = family, labels, {}
        self.lock, self.stop, self.counts = threading.Lock(), threading.Event(), Counter()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def add(self, applied):
        """Count the rows of `applied` (n, slots); a class that is named twice counts once."""
        with self.lock:
            for row in applied.tolist():
                self.counts.update(row if len(row) == 1 else set(row))

    def close(self):
        """Tell the rest and stop."""
        self.stop.set()
        self.thread.join()
        self._flush()
        self.metrics.clear()

    def _work(self):
        pause = FLUSH_S
        while not self.stop.wait(pause):
            began = time.monotonic()
            self._flush()
            pause = max(FLUSH_S, (time.monotonic() - began) / FLUSH_SHARE)

    def _flush(self):
        with self.lock:
            counts, self.counts = self.counts, Counter()
        for index, count in counts.items():
            name = "refused" if index < 0 else str(index)
            if name not in self.metrics:
                labels = {**self.labels, "forget_class": name}
                self.metrics[name] = self.family.Metric(labels=labels)
            self.metrics[name].increment(count)


def tally_of(args):
    """Return the counts of a version's images; None where the server keeps no metrics."""
    try:
        family = pb.MetricFamily(
            name=COUNTER,
            description="Images answered, by what was forgotten for them",
            kind=pb.MetricFamily.COUNTER,
        )
    except Exception:  # whatever it is, the model is to be served
        return None
    return Tally(family, {"model": args["model_name"], "version": args["model_version"]})


def joined(feeds):
    """Return one feed with the rows of all feeds in order; a single feed stays as it is."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def split(values, counts):
    """Return for each count its rows of every array in `values`.

    Raises:
        ValueError: an array does not have a row for each.
    """
    if any(len(value) != sum(counts) for value in values):
        raise ValueError(f"outputs of {[len(v) for v in values]} rows for {sum(counts)} rows")
    ends = np.cumsum(counts)[:-1]
    columns = [np.split(value, ends) for value in values]
    return [[column[i] for column in columns] for i in range(len(counts))]


def session_options(config):
    """Return ONNX Runtime's options by the C++ backend's keys.

    Raises:
        TritonModelException: a value that is no number or not known.
    """
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = _number(config, "intra_op_thread_count", 0)
    options.inter_op_num_threads = _number(config, "inter_op_thread_count", 0)
    if _number(config, "execution_mode", 0) == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = _number(config, "enable_mem_arena", 1) != 0
    options.enable_mem_pattern = _number(config, "enable_mem_pattern", 1) != 0
    level = str(((config.get("optimization") or {}).get("graph") or {}).get("level", 0))
    if level not in LEVELS:
        raise pb.TritonModelException(f"optimization.graph.level {level}: expected -1, 0, 1 or 2")
    options.graph_optimization_level = LEVELS[level]
    # idle threads that spin would take the processor from the other models
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _number(config, key, default):
    text = (config.get("parameters") or {}).get(key, {}).get("string_value", "")
    if text and not (text.isascii() and text.isdecimal()):
        raise pb.TritonModelException(f"parameter {key}: expected a number, got {text!r}")
    return int(text) if text else default


def open_session(config, folder, options):
    """Return a session on the model file of a version folder."""
    name = config.get("default_model_filename") or "model.onnx"
    return ort.InferenceSession(Path(folder) / name, options, providers=["CPUExecutionProvider"])


def misfits(config, inputs, outputs):
    """Return all differences between a configuration and the graph's inputs and outputs."""
    batched = config["max_batch_size"] > 0
    named = {entry["name"] for entry in config["input"]}
    wrong = [f"input {t.name} of the graph is not declared" for t in inputs if t.name not in named]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        graph = {t.name: t for t in tensors}
        if not config[kind]:
            wrong.append(f"no {kind} is declared, the graph has {sorted(graph)}")
        for entry in config[kind]:
            name = entry["name"]
            if name in graph:
                found = _tensor_misfits(entry, graph[name], batched=batched)
                wrong += [f"{kind} {name}: {text}" for text in found]
            else:
                wrong.append(f"{kind} {name} is not in the graph, which has {sorted(graph)}")
    return wrong


def _tensor_misfits(entry, tensor, *, batched):
    wrong = []
    if TYPES.get(tensor.type) != entry["data_type"]:
        wrong.append(f"{entry['data_type']}, graph {tensor.type}")
    reshape = entry.get("reshape")
    dims = entry["dims"] if reshape is None else reshape.get("shape", [])
    want = ([-1] if batched else []) + [int(d) for d in dims]
    have = [d if isinstance(d, int) else -1 for d in tensor.shape]
    if batched and have[:1] != [-1]:
        wrong.append(f"max_batch_size needs a first dimension that varies, graph {have}")
    elif len(want) != len(have) or any(h not in (-1, w) for w, h in zip(want, have, strict=True)):
        wrong.append(f"shape {want}, graph {have}")
    return wrong


def declaration(tensor, *, batched):
    """Return the configuration of a graph's input or output."""
    dims = [d if isinstance(d, int) else -1 for d in tensor.shape][1 if batched else 0 :]
    entry = {"name": tensor.name, "data_type": TYPES[tensor.type], "dims": dims or [1]}
    return entry if dims else {**entry, "reshape": {"shape": []}}


def _is_batched(tensor):
    return bool(tensor.shape) and not isinstance(tensor.shape[0], int)


def _name(tensor):
    return tensor.name
