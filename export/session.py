"""ONNX Runtime as every check of a file runs it."""

import onnxruntime as ort
import torch

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# products of float32 in the 10 bits of TF32 would miss every tolerance
_OPTIONS: dict[str, dict[str, str]] = {CPU: {}, CUDA: {"use_tf32": "0"}}


def session(file: bytes, provider: str = CPU) -> ort.InferenceSession:
    """Return a session for the bytes of an ONNX file, with as many threads as PyTorch has.

    Where `provider` cannot be loaded ONNX Runtime takes the CPU, as the session's `get_providers`
    tells.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    return ort.InferenceSession(
        file, options, providers=[provider], provider_options=[_OPTIONS[provider]]
    )


def providers() -> tuple[str, ...]:
    """Return what a file is checked on here: the CPU, and CUDA where there is a GPU for it."""
    gpu = CUDA in ort.get_available_providers() and torch.cuda.is_available()
    return (CPU, CUDA) if gpu else (CPU,)
