"""Scripts and functions to capture kernels of, and a run of what was captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from device_runtime.capture import load_image
from device_runtime.launch import Image


def script(source: str, **more: Any) -> dict[str, Any]:
    """Run source as a script's own module and return its globals."""
    names: dict[str, Any] = {"__name__": "__main__", **more}
    exec(source, names)
    return names


def run(image: Image, *args: Any) -> Any:
    """Load an image and call what it holds."""
    return load_image(image.data)(*args)


def closure(value: Any) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Return a function that returns its closure variable, and one that rebinds it."""

    def kernel() -> Any:
        return value

    def rebind(new: Any) -> None:
        nonlocal value
        value = new

    return kernel, rebind
