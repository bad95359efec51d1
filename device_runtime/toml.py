"""Read TOML files."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from device_runtime.errors import OptionError


def parse(text: str, path: str) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises OptionError, naming the file, for what is no TOML, and where Python 3.10 lacks tomli.
    """
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        reader = importlib.import_module(name)
    except ModuleNotFoundError:
        raise OptionError(
            f"{path}: reading TOML on Python 3.10 needs the package tomli (pip install tomli)"
        ) from None
    try:
        return dict(reader.loads(text))
    except (ValueError, RecursionError) as error:  # an error of TOML's is a ValueError, as is a long number
        raise OptionError(f"{path} is not valid TOML: {error}") from error
