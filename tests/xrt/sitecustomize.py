"""Have XRT's library stood in for, where this folder is in PYTHONPATH: Python runs this at its start.

The owner of a device is a fresh interpreter, and this is the way into it. The
`pynq` that it imports is the genuine one, and so is pynq's binding of XRT; all
that is not there is the shared library.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any


class _Libraries(ctypes.CDLL):
    def __new__(cls, name: Any = None, *_: Any, **__: Any) -> Any:
        if not str(name).endswith("/lib/libxrt_core.so"):
            return super().__new__(cls)
        sys.path.append(str(Path(__file__).parent))
        from xrt_library import Library

        return Library()


ctypes.CDLL = _Libraries  # type: ignore[misc]
