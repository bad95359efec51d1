"""Bitstreams for the emulated FPGA, as a TOML file describes them: see `offload.testing.Xclbin.from_toml`."""

from __future__ import annotations

import importlib
import os
import runpy
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any

from device_runtime import toml
from device_runtime.errors import OptionError
from device_runtime.fpga.circuit import Fault
from device_runtime.fpga.rtl import Rtl
from device_runtime.fpga.timing import TimingModel

_KINDS = {list: "a list", dict: "a table", int: "a whole number", str: "a text"}
_KEYS: dict[str, tuple[type, ...]] = {
    "kernels": (list,),
    "units": (int, dict),
    "banks": (list, dict),
    "wiring": (dict,),
    "clock": (int,),
    "faults": (dict,),
    "timing": (dict,),
    "platform": (str,),
    "models": (dict,),
}


def arguments(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a TOML file says, as arguments of Xclbin; its kernels are loaded.

    Raises OptionError, naming file and key, and what a kernel's module raises.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} cannot be read: {error}") from error
    given = toml.parse(text, str(file))
    _check_names(given, _KEYS, str(file))
    for key, value in given.items():
        _check_kind(value, f"{file}: {key}", *_KEYS[key])
    for key in ("kernels", "banks"):
        if isinstance(given.get(key), list):
            _check_texts(given[key], f"{file}: {key}")
    for name, to in given.get("wiring", {}).items():
        _check_kind(to, f"{file}: wiring.{name}", str, list)
        _check_texts([to] if isinstance(to, str) else to, f"{file}: wiring.{name}")
    if "faults" in given:
        given["faults"] = {
            unit: _made(Fault, table, f"{file}: faults.{unit}") for unit, table in given["faults"].items()
        }
    if "timing" in given:
        given["timing"] = _made(TimingModel, given["timing"], f"{file}: timing")
    if "kernels" not in given:
        raise OptionError(f"{file}: kernels is not said: a list such as ['kernels:vadd', 'vadd.py:vadd']")
    ran: dict[Path, dict[str, Any]] = {}
    function = partial(_function, file=file, ran=ran)
    given["kernels"] = [function(name, "kernels") for name in given["kernels"]]
    for kernel, model in given.get("models", {}).items():
        key = f"models.{kernel}"
        verilog = not isinstance(model, str) or ":" not in model
        if isinstance(model, str) and verilog and not model.endswith((".v", ".sv")):
            raise OptionError(
                f"{file}: {key} = {model!r} is neither a function, 'file.py:function', nor Verilog, "
                "a file that ends in .v or .sv"
            )
        given["models"][kernel] = _rtl(model, file, key) if verilog else function(model, key)
    return given


def _rtl(model: Any, file: Path, key: str) -> Rtl:
    """Return the Verilog that a file beside the TOML file is, a list of such, or what a table says."""
    what = f"{file}: {key}"
    _check_kind(model, what, str, list, dict)
    table = model if isinstance(model, dict) else {"sources": model}
    _check_names(table, ("sources", "top", "ports"), what)
    sources = table.get("sources", [])
    _check_kind(sources, f"{what}.sources", str, list)
    sources = [sources] if isinstance(sources, str) else sources
    _check_texts(sources, f"{what}.sources")
    try:
        return Rtl(**{**table, "sources": [file.parent / source for source in sources]})
    except OptionError as error:
        raise OptionError(f"{what}: {error}") from None


def _function(name: str, key: str, file: Path, ran: dict[Path, dict[str, Any]]) -> Any:
    """Return what is called "module:function", or "file.py:function" beside the TOML file."""
    where, _, function = name.rpartition(":")
    if not where or not function or (where.startswith(".") and not where.endswith(".py")):
        raise OptionError(
            f"{file}: {key} names {name!r}: it is written 'module:function' or 'file.py:function'"
        )
    what = f"{file}: {key} names {name!r}, and"
    if where.endswith(".py"):
        script = file.parent / where
        if not script.is_file():
            raise OptionError(f"{what} there is no file {script}")
        if script not in ran:
            try:
                ran[script] = runpy.run_path(str(script), run_name=script.stem)
            except ModuleNotFoundError as error:
                raise OptionError(
                    f"{what} {script} imports {error.name!r}, which is not there: what lies beside that file "
                    "is no module for it; 'module:function' names a kernel in a module that PYTHONPATH has"
                ) from error
        found = ran[script]
    else:
        try:
            found = vars(importlib.import_module(where))
        except ModuleNotFoundError as error:
            if error.name is None or not f"{where}.".startswith(f"{error.name}."):
                raise
            raise OptionError(f"{what} there is no module {error.name!r}") from error
    if function not in found:
        raise OptionError(f"{what} there is no {function!r} in {where}")
    return found[function]


def _made(kind: type[Any], table: Any, what: str) -> Any:
    _check_kind(table, what, dict)
    _check_names(table, [one.name for one in fields(kind)], what)
    for one in fields(kind):
        if one.default is MISSING and one.name not in table:
            raise OptionError(f"{what}: {one.name} is not said")
    try:
        return kind(**table)
    except OptionError as error:
        raise OptionError(f"{what}: {error}") from None


def _check_names(given: Mapping[str, Any], known: Any, what: str) -> None:
    for name in given:
        if name not in known:
            raise OptionError(f"{what}: there is no {name!r} to be set; there is {', '.join(known)}")


def _check_kind(value: Any, what: str, *kinds: type) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = " or ".join(_KINDS[kind] for kind in kinds)
        raise OptionError(f"{what} must be {wanted}, not {value!r}")


def _check_texts(values: list[Any], what: str) -> None:
    for value in values:
        _check_kind(value, f"{what}: each", str)
