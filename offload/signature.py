"""Check a call against a kernel's signature where the caller stands, before anything travels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from offload.options import HARDWARE, NAMES, for_decorators


class Signature:
    """Know what arguments a function takes.

    `shown` is the `inspect.Signature`, None for the few built-in functions
    that have none; the core then finds wrong arguments itself.
    """

    __slots__ = ("_least", "_most", "_name", "_plain", "options", "shown")

    def __init__(self, fn: Callable[..., Any], name: str) -> None:
        self._name = name
        try:
            self.shown: inspect.Signature | None = inspect.signature(fn)
        except (TypeError, ValueError):
            self.shown = None
        parameters = list(self.shown.parameters.values()) if self.shown is not None else []
        # A parameter of the kernel's own hides the option of that name.
        self.options = frozenset(NAMES) - {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._plain = not any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
        self._least = sum(p.default is p.empty for p in positional)
        endless = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self._most = float("inf") if endless else len(positional)

    def hidden_options(self) -> list[str]:
        """Return the options that cannot be given in a call, as the kernel has parameters named so."""
        return [name for name in NAMES if name not in self.options]

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError, naming the kernel, if it cannot be called like this."""
        if not kwargs and self._plain and self._least <= len(args) <= self._most:
            return
        if self.shown is None:
            return
        try:
            self.shown.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}() {error}{self._hint(kwargs)}") from None

    def _hint(self, kwargs: Mapping[str, Any]) -> str:
        import difflib

        assert self.shown is not None
        for name in kwargs:
            if name in self.shown.parameters:
                continue
            if name in HARDWARE:
                return for_decorators(name)
            close = difflib.get_close_matches(name, self.options, 1, 0.75)
            if close:
                return f"; did you mean the option {close[0]!r}?"
        return ""
