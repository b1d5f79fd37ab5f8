"""What the package promises as a whole: its names, its errors, its weight."""

import pickle
import subprocess
import sys
from types import ModuleType

import pytest

import bandstop.client
from bandstop.client import ClientError, DeadlineExceeded, InvalidImage, InvalidInput, errors

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not ClientError
]
ERRORS = [kind for kind in KINDS if issubclass(kind, ClientError)]


def test_all_is_what_is_there() -> None:
    public = {
        name
        for name, value in vars(bandstop.client).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    late = {"AsyncClient"}  # loaded when it is asked for
    assert public | late == set(bandstop.client.__all__)
    assert {kind.__name__ for kind in ERRORS} < public
    assert bandstop.client.AsyncClient.__name__ == "AsyncClient"
    with pytest.raises(AttributeError, match="no attribute 'Asynchronous'"):
        bandstop.client.Asynchronous  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_client_loads_no_machine_learning() -> None:
    code = (
        "import sys, bandstop.client; "
        "print({'torch', 'torchvision', 'onnx', 'onnxruntime', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_a_place_in_the_tree_and_an_exit_code(kind: type[ClientError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.exit_code in (1, 2, 5, 6, 7)
    assert kind.__doc__


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(DeadlineExceeded, TimeoutError)


def test_reasons_survive_a_process_pool() -> None:
    error = pickle.loads(pickle.dumps(InvalidImage("two", {3: "three"})))
    assert (str(error), error.reasons) == ("two", {3: "three"})
