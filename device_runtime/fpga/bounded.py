"""Arrays that a model cannot leave unseen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.errors import EmulationError


class Bounded(np.ndarray):
    """Memory of an emulated device, as a model has it: slices that reach past its ends are errors.

    NumPy cuts such a slice off, and says nothing; a circuit goes on in the
    memory beside. What a model makes of the array, its slices among it, is
    NumPy's business again.
    """

    what = ""  # it is, for messages
    plain: NDArray[Any] | None = None  # the same memory; None in what was made of one

    def __getitem__(self, key: Any) -> Any:
        if self.plain is None:
            return super().__getitem__(key)
        if type(key) is not int:  # loops over elements must not pay for much
            self._check(key)
        return self.plain[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.plain is None:
            super().__setitem__(key, value)
            return
        if type(key) is not int:
            self._check(key)
        self.plain[key] = value

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[Any, ...] = (), **options: Any
    ) -> Any:
        # What comes out is what would come out of NumPy's own arrays: a sum is a number, no array.
        if out:
            options["out"] = tuple(map(_plain, out))
        if "where" in options:
            options["where"] = _plain(options["where"])
        found = getattr(ufunc, method)(*map(_plain, inputs), **options)
        if not out:
            return found
        given = tuple(map(_or_else, out, found if type(found) is tuple else (found,)))
        return given[0] if len(given) == 1 else given

    def _check(self, key: Any) -> None:
        for one, size in zip(key if type(key) is tuple else (key,), self.shape):
            if type(one) is slice:
                for end in one.start, one.stop:
                    if end is not None and not -size <= end <= size:
                        raise EmulationError(
                            f"{self.what} has {size} elements, and a slice of it reaches to {end}: "
                            "a circuit would go on in the memory beside it"
                        )
            elif not isinstance(one, (int, np.integer)):
                return  # from here on keys and axes do not go together one by one


def _or_else(given: Any, found: Any) -> Any:
    return found if given is None else given


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Bounded) else value


def bounded(array: NDArray[Any], what: str, writable: bool = True) -> Any:
    """Return a view of an array that tells where a slice reaches past its ends."""
    plain = array.view()
    plain.flags.writeable = writable
    made = plain.view(Bounded)
    made.what, made.plain = what, plain
    return made
