"""The unlearning methods by name, and their settings by preset."""

from collections.abc import Mapping
from typing import cast

from bandstop.edit import svd, wf_net
from bandstop.edit.errors import InputError
from bandstop.edit.logit_mask import LogitMask
from bandstop.edit.method import Method
from bandstop.edit.svd import SVD
from bandstop.edit.wf_net import WFNet

METHODS: Mapping[str, type[SVD] | type[WFNet] | type[LogitMask]] = {
    "svd": SVD,
    "wf-net": WFNet,
    "logit-mask": LogitMask,
}
PAPER = {"svd": svd.PAPER, "wf-net": wf_net.PAPER}


def preset(method: str, name: str = "default") -> Method:
    """Return the setting called `name`: `default`, or `paper` for the paper's own.

    Raises:
        InputError: no such method, or no such preset of it.
    """
    if method not in METHODS:
        raise InputError(f"no method {method!r}; expected one of {', '.join(METHODS)}")
    if name == "default":
        return cast(Method, METHODS[method]())
    if name == "paper" and method in PAPER:
        return cast(Method, PAPER[method])
    known = "default, paper" if method in PAPER else "default"
    raise InputError(f"{method} has no preset {name!r}; expected {known}")
