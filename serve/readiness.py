"""Whether a server really serves: every model is ready and answers an inference."""

import re
import time
from collections.abc import Callable, Sequence

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from bandstop.client.channel import credentials
from bandstop.serve.access import Access
from bandstop.serve.errors import NotServed
from bandstop.serve.probe import sample

_CALL_S = 10.0
_PAUSE_S = 0.05


def wait_until_served(
    access: Access, models: Sequence[str], *, timeout: float, alive: Callable[[], bool]
) -> str:
    """Wait until every model answers, and return the server's version.

    Args:
        access: to the server.
        models: all must answer an inference of zeros.
        timeout: seconds.
        alive: whether the server still runs.

    Raises:
        NotServed: the server ended, the time is over, or a model answers nonsense.
    """
    until = time.monotonic() + timeout
    with _client(access) as client:
        while not _is_ready(client, models):
            if not alive():
                raise NotServed("the server ended before it was ready")
            if time.monotonic() > until:
                raise NotServed(f"the server was not ready within {timeout:g} s")
            time.sleep(_PAUSE_S)
        for model in models:
            prove(client, model, max(_CALL_S, until - time.monotonic()))
        version = str(client.get_server_metadata(client_timeout=_CALL_S).version)
    if not alive():  # then another server answered, which took the address a moment before
        raise NotServed(f"the server ended, and another one answers on {access.url}")
    return version


def _client(access: Access) -> triton.InferenceServerClient:
    secret = credentials(access.tls) if access.tls else None
    return triton.InferenceServerClient(
        access.url, creds=secret, channel_args=list(access.channel_options)
    )


def prove(client: triton.InferenceServerClient, model: str, seconds: float = _CALL_S) -> None:
    """Ask `model` about one row of zeros and look at what comes back within `seconds`.

    Raises:
        NotServed: no answer, or an empty one, as a server with NumPy 2 in its Python gives.
    """
    try:
        metadata = client.get_model_metadata(model, client_timeout=_CALL_S)
        inputs = []
        for spec in metadata.inputs:
            zeros = sample(spec.shape, triton_to_np_dtype(spec.datatype))
            tensor = triton.InferInput(spec.name, list(zeros.shape), spec.datatype)
            inputs.append(tensor.set_data_from_numpy(zeros))
        reply = client.infer(model, inputs, client_timeout=seconds).get_response()
    except InferenceServerException as error:
        reason = _first_line(str(error.message()))
        raise NotServed(f"model {model} is loaded but does not answer: {reason}") from error
    if not reply.raw_output_contents or not all(reply.raw_output_contents):
        raise NotServed(
            f"model {model} answers with empty tensors: its Python has NumPy 2, expected NumPy 1"
        )


def reason_in_log(log: str) -> str:
    """Return why the server did not start, as it wrote it, in one line; empty if it did not.

    Every model that failed is told, once.
    """
    patterns = (
        r"failed to load '[^']+' version \d+: .+",
        r"Poll failed for model directory '[^']+': .+",
        r"[eE]rror: .+",
    )
    for pattern in patterns:
        if found := re.findall(pattern, log):
            return "; ".join(sorted(set(map(_first_line, found))))
    return ""


def _first_line(text: str) -> str:
    """Return a message of the server without the trace that follows it; its log escapes breaks."""
    return re.split(r"\\n|\n", text.strip())[0].removesuffix('"').strip()


def _is_ready(client: triton.InferenceServerClient, models: Sequence[str]) -> bool:
    try:
        return all(client.is_model_ready(model, client_timeout=_CALL_S) for model in models)
    except InferenceServerException:
        return False  # not listening yet
