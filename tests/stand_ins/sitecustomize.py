"""Have hardware stood in for, where this folder is in PYTHONPATH: Python runs this at its start.

The owner of a device is a fresh interpreter, and this is the way into it. The
`pynq` that it imports is the genuine one. For a card, so is its binding of
XRT, and all that is not there is the shared library; with STAND_IN_ZYNQ there
is a Zynq board, and STAND_IN_MACHINE says what kind of processor it has.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# The folder is not in the search path any more when it is needed.
HERE = os.path.dirname(__file__)


class _Libraries(ctypes.CDLL):
    def __new__(cls, name: Any = None, *_: Any, **__: Any) -> Any:
        if not str(name).endswith("/lib/libxrt_core.so"):
            return super().__new__(cls)
        sys.path.append(HERE)
        from xrt_library import Library

        return Library()


class _Zynq:
    """Have a board found, once it is known what a board is."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        if name != "device_runtime.fpga.board":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_both(module: ModuleType) -> None:
            load(module)
            sys.path.append(HERE)
            import zynq_board  # noqa: F401

        spec.loader.exec_module = load_both  # type: ignore[method-assign]
        return spec


ctypes.CDLL = _Libraries  # type: ignore[misc]
if "STAND_IN_ZYNQ" in os.environ:
    sys.meta_path.insert(0, _Zynq())  # type: ignore[arg-type]
if "STAND_IN_MACHINE" in os.environ:
    platform.machine = lambda: os.environ["STAND_IN_MACHINE"]
