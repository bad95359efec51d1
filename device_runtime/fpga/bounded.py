"""Arrays that a model cannot leave unseen."""

from __future__ import annotations

from typing import Any

import numpy as np

from device_runtime.errors import EmulationError

_get, _set = np.ndarray.__getitem__, np.ndarray.__setitem__


class Bounded(np.ndarray):
    """Memory of an emulated device, as a model has it: slices that reach past its ends are errors.

    NumPy cuts such a slice off, and says nothing; a circuit goes on in the
    memory beside. What a model makes of the array, its slices among it, is
    NumPy's business again.
    """

    what = ""  # it is, for messages; "" for what was made of one

    def __getitem__(self, key: Any) -> Any:
        if type(key) is not int and self.what:  # loops over elements must not pay for much
            self._check(key)
        return _get(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is not int and self.what:
            self._check(key)
        _set(self, key, value)

    def _check(self, key: Any) -> None:
        for one, size in zip(key if isinstance(key, tuple) else (key,), self.shape):
            if isinstance(one, slice):
                for end in one.start, one.stop:
                    if end is not None and not -size <= end <= size:
                        raise EmulationError(
                            f"{self.what} has {size} elements, and a slice of it reaches to {end}: "
                            "a circuit would go on in the memory beside it"
                        )
            elif not isinstance(one, (int, np.integer)):
                return  # from here on keys and axes do not go together one by one


def bounded(array: Any, what: str) -> Any:
    """Return a view of an array that tells where a slice reaches past its ends."""
    view = array.view(Bounded)
    view.what = what
    return view
