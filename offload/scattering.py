"""Give each shard of a launch its own slice of an argument."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar, cast

from device_runtime.errors import OptionError

T = TypeVar("T")


class Scatter:
    """Mark an argument that is to be sliced."""

    __slots__ = ("sizes", "value")

    def __init__(self, value: Any, sizes: tuple[int, ...] | None) -> None:
        self.value = value
        self.sizes = sizes

    def __reduce__(self) -> NoReturn:
        raise OptionError(
            "scatter() must be an argument of the call itself, not inside a list, a dict or another object: "
            "write kernel(scatter(x), scatter(y)) instead of kernel([scatter(x), scatter(y)])"
        )

    def slices(self, count: int, name: str) -> list[Any]:
        """Return the slices for `count` shards of kernel `name`, in core order."""
        total = len(self.value)
        if self.sizes is None:
            least, more = divmod(total, count)
            sizes: Sequence[int] = [least + (rank < more) for rank in range(count)]
        else:
            sizes = self.sizes
            if len(sizes) != count:
                raise OptionError(
                    f"kernel {name}: scatter was given {len(sizes)} sizes, "
                    f"but the launch has {count} shard{'s' * (count > 1)}"
                )
            if sum(sizes) != total:
                raise OptionError(
                    f"kernel {name}: the sizes given to scatter add up to {sum(sizes)}, "
                    f"but the argument has {total} elements"
                )
        slices, start = [], 0
        for size in sizes:
            slices.append(self.value[start : start + size])
            start += size
        return slices


def scatter(value: T, sizes: Sequence[int] | None = None) -> T:
    """Mark an argument so that each shard of the launch gets its own slice of it.

    `value` is a sequence or an array, which is cut along its first axis.
    Slices are as even as possible, longer ones first, or as long as `sizes`
    says, in core order. Type checkers see the type of `value`.

        smooth(scatter(rows))           # with 4 cores and 10 rows: 3, 3, 2, 2
        smooth(scatter(rows, [7, 1, 1, 1]))

    Raises OptionError for an object that has no length or no slices; the call
    raises it for sizes that do not fit.
    """
    checked = None
    if sizes is not None:
        try:
            checked = tuple(operator.index(size) for size in sizes)
        except TypeError:
            raise OptionError(f"scatter: sizes={sizes!r} must be a sequence of integers") from None
        if any(size < 0 for size in checked):
            raise OptionError(f"scatter: sizes={sizes!r} must not be negative")
    try:
        value[0:0]  # type: ignore[index]
        len(value)  # type: ignore[arg-type]
    except Exception:
        raise OptionError(
            f"scatter: a {type(value).__name__} cannot be cut into slices; give a sequence or an array"
        ) from None
    return cast(T, Scatter(value, checked))


def broadcast(value: T) -> T:
    """Return `value`: every shard gets all of it, as it does without a word. The opposite of `scatter`."""
    return value
