"""Pages from templates: one self-contained file each, whose names and numbers are escaped."""

from collections.abc import Mapping
from importlib.resources import files

import jinja2


def page(template: str, content: Mapping[str, object]) -> str:
    """Return the HTML page that `template` of this folder makes of `content`."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)


def _source(name: str) -> str:
    return files("bandstop.edit.evaluation").joinpath(name).read_text(encoding="utf-8")
