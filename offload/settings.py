"""What a user has set outside the script: OFFLOAD_* variables and a TOML file.

Only options that leave the meaning of a script alone can be set there: device,
timeout, retries and priority. Which cores a kernel runs on, and whether its
call waits, change what the call returns; they belong in the script.

The file is the one OFFLOAD_CONFIG names, else `offload/config.toml` in the
user's configuration folder ($XDG_CONFIG_HOME, ~/.config). Nothing is ever read
from the current folder: a script's meaning must not hang on where it is run.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from device_runtime.errors import OptionError
from offload.options import check

_SETTABLE = ("device", "timeout", "retries", "priority")


def read(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the user's layer of options; a variable wins over the file.

    Raises OptionError for a value that cannot be meant, naming where it stands.
    """
    layer = _from_file(environment)
    for name in _SETTABLE:
        variable = f"OFFLOAD_{name.upper()}"
        text = environment.get(variable, "").strip()
        if text:
            layer.update(check({name: text if name == "device" else _number(text)}, variable))
    return layer


def _number(text: str) -> Any:
    """Return the number that `text` writes, else the text, for `check` to complain of."""
    for read_as in (int, float):
        try:
            return read_as(text)
        except ValueError:
            continue
    return text


def _from_file(environment: Mapping[str, str]) -> dict[str, Any]:
    named = environment.get("OFFLOAD_CONFIG")
    path = named or _user_file(environment)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        if named:
            raise OptionError(f"OFFLOAD_CONFIG={named!r}: there is no such file") from None
        return {}
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error}") from error
    given = parse(text, path)
    for name in given:
        if name not in _SETTABLE:
            raise OptionError(f"{path}: {name!r} cannot be set there; {', '.join(_SETTABLE)} can")
    return check(given, path)


def _user_file(environment: Mapping[str, str]) -> str:
    # By the XDG specification a relative path here is to be ignored.
    folder = environment.get("XDG_CONFIG_HOME", "")
    base = folder if os.path.isabs(folder) else os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "offload", "config.toml")


def parse(text: str, path: str) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises OptionError, naming the file, for what is no TOML, and where Python 3.10 lacks tomli.
    """
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        toml = importlib.import_module(name)
    except ModuleNotFoundError:
        raise OptionError(
            f"{path}: reading TOML on Python 3.10 needs the package tomli (pip install tomli)"
        ) from None
    try:
        return dict(toml.loads(text))
    except toml.TOMLDecodeError as error:
        raise OptionError(f"{path} is not valid TOML: {error}") from error
