"""`bandstop unlearn` for one request: run the method, note how far it is, write the artifact."""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bandstop.cli.layers import show_layers
from bandstop.cli.output import say
from bandstop.cli.unlearn_source import Source, save
from bandstop.edit import team
from bandstop.edit.edits import on_cpu
from bandstop.edit.errors import InputError
from bandstop.edit.journal import Journal
from bandstop.edit.manifest import params_of
from bandstop.edit.method import Method
from bandstop.edit.origin import Origin
from bandstop.edit.request import ForgetRequest, parse_forget, parse_instances
from bandstop.edit.resources import process_memory
from bandstop.edit.storage import canonical_json, sha256, state_sha256, tensor_sha256
from bandstop.edit.unlearn import every_class, unlearn


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user wants forgotten, in words; nothing of it means every class.

    Attributes:
        forget: see `--forget`.
        instances: see `--instances`.
    """

    forget: str | None = None
    instances: Path | None = None

    def request(self, source: Source) -> ForgetRequest:
        """Return the request that this makes of `source`.

        Raises:
            InputError: see `asked` and `parse_instances`; or a file that cannot be read.
        """
        names = source.model.class_names
        if self.instances is not None:
            try:
                text = self.instances.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"--instances {self.instances}: not a readable text") from error
            return parse_instances(text, names, f"--instances {self.instances}")
        if self.forget is None:
            return every_class(source.model)
        return asked(self.forget, names, source.origin)


def unlearn_once(
    out: Path, source: Source, method: Method, wanted: Asked, *, device: str, cache: Path | None
) -> dict[str, object]:
    """Write the artifact `out` of one run of `method`; return what was done.

    A method that takes minutes notes its state in `OUT.partial` and goes on from there. In a team
    of processes the first one writes.

    Raises:
        InputError: see `Asked.request`, or what the method cannot work with.
        NothingForgottenError, DivergedError: see the method.
    """
    request = wanted.request(source)
    own_cache = out.with_name(out.name + ".cache")
    journal = Journal(partial_of(out), _settings(source, method, request), cache or own_cache)
    started = time.perf_counter()
    moved = source.model.to(device)
    folded, edit = unlearn(moved, method, request, source.data, journal)
    seconds = time.perf_counter() - started
    source = replace(source, model=moved.cpu())
    edit = on_cpu(edit)
    if team.rank() == 0:
        save(out, source, method, request, folded.cpu(), edit)
        journal.remove_()
        shutil.rmtree(own_cache, ignore_errors=True)
        show_layers(edit.found)
        say(f"forgetting took {seconds:.1f} s")
    names, origin = source.model.class_names, source.origin
    result: dict[str, object] = {"artifact": str(out), "method": method.name}
    if request.instances:
        result["instances"] = len(request.instances)
    else:
        result["forget"] = [names[c] for c in request.classes]
    result["unlearn_seconds"] = round(seconds, 3)
    if sys.platform == "linux":
        result["peak_memory_mb"] = round(process_memory("VmHWM") / 2**20, 1)
    held_out = edit.found.get("held_out")
    if isinstance(held_out, dict):
        result["over_forgot"] = held_out["over_forgot"]
    if origin.forgotten:
        result["forgotten_before"] = [names[c] for c in origin.forgotten]
    if origin.instances:
        result["instances_before"] = len(origin.instances)
    if source.stand_in is not None:
        result["stand_in"] = source.stand_in
    return result


def partial_of(out: Path) -> Path:
    """Return the file in which the run that makes `out` notes how far it is."""
    return out.with_name(out.name + ".partial")


def asked(forget: str, class_names: Sequence[str], origin: Origin) -> ForgetRequest:
    """Return the request that `--forget` makes of a model with this past.

    Raises:
        InputError: see `parse_forget`; or a class is not known any more, or none would be left.
    """
    request = parse_forget(forget, class_names)
    again = [class_names[c] for c in request.classes if c in origin.forgotten]
    if again:
        raise InputError(
            f"forget: the model has forgotten {', '.join(again)} already, or was trained without"
        )
    if len(request.classes) + len(origin.forgotten) == len(class_names):
        raise InputError("forget: no class would be left, counting those forgotten before")
    return request


def _settings(source: Source, method: Method, request: ForgetRequest) -> str:
    """Return a digest of all that decides the outcome."""
    parts = (source.data.train, source.data.validate)
    record = {
        "method": [method.name, params_of(method), method.seed],
        "request": asdict(request),
        "model": state_sha256(source.model.network.state_dict()),
        "images": [[tensor_sha256(part.index), tensor_sha256(part.labels)] for part in parts],
        "stand_in": source.stand_in,
    }
    return sha256(canonical_json(record))
