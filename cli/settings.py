"""A method's settings as a user gives them: a YAML file, and `key=value` on top."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from bandstop.edit.errors import InputError


def given_settings(config: Path | None, texts: Sequence[str]) -> dict[str, object]:
    """Return the settings in the YAML file `config` with the `key=value` in `texts` on top.

    Raises:
        InputError: a file or text that is none of these.
    """
    given = {} if config is None else _read_yaml(config)
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: expected key=value")
        given[key] = _read_value(text, value)
    return given


def _read_value(text: str, value: str) -> object:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {text}: the value is not readable YAML") from error


def _read_yaml(config: Path) -> dict[str, object]:
    try:
        text = config.read_text()
        given, root = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{config}: not readable YAML ({' '.join(str(error).split())})") from error
    if (
        not isinstance(root, yaml.MappingNode)
        or not isinstance(given, dict)
        or not all(isinstance(key, str) for key in given)
    ):
        raise InputError(f"{config}: expected a mapping of settings")
    keys = Counter(str(key.value) for key, _ in root.value)  # YAML takes the last
    if twice := [key for key, times in keys.items() if times > 1]:
        raise InputError(f"{config}: given twice: {', '.join(twice)}")
    return given
