"""ONNX Runtime on the CPU, as every check of a file runs it."""

import onnxruntime as ort
import torch


def session(file: bytes) -> ort.InferenceSession:
    """Return a session for the bytes of an ONNX file, with as many threads as PyTorch has."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
