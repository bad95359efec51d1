"""The options of a launch: what they are, what they may be, and how layers of them merge.

Later layers win: the defaults, the user's settings (settings.py), what the
decorator says, what `.options()` or the call says.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from device_runtime.errors import OptionError
from offload.deadline import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence


class LimitNames(TypedDict, total=False):
    """Give type checkers the options that leave the shape of what a call returns alone."""

    device: str | None
    timeout: float | None
    retries: int
    priority: int
    when_full: Literal["wait", "raise"]


class OptionNames(LimitNames, total=False):
    """Give type checkers all options but `async_`, which decides what a call returns."""

    auto: int | None
    target: int | str | Sequence[int] | Sequence[str] | None
    all: bool


@dataclass(frozen=True)
class Options:
    """Everything that can be asked of a launch besides its arguments.

    async_    return a handle at once instead of waiting for the values
    auto      run on this many cores, chosen by the scheduler
    target    run on these cores, ascending; names where the device has some
    all       run on every core; so it is unless `auto` or `target` is given
    device    address of the device; None is the session's default
    timeout   seconds a shard may take on its core before it is ended; None is no limit
    retries   how often a shard is run again after its core died under it; None is as the kernel has it
    priority  launches with a higher one go first
    when_full "wait" for room in a full queue, or "raise" QueueFull
    single    `target` was one int, not a sequence
    """

    async_: bool = False
    auto: int | None = None
    target: tuple[Any, ...] | None = None
    all: bool = True
    device: str | None = None
    timeout: float | None = None
    retries: int | None = None
    priority: int = 0
    when_full: str = "wait"
    single: bool = False

    @property
    def bare(self) -> bool:
        """Tell whether the launch is asked for one unit, so that its result is one value."""
        return self.single or self.auto == 1

    def merged(self, layer: Mapping[str, Any]) -> Options:
        """Return these options with those of a layer, as `check` gives it, on top."""
        if not layer:
            return self
        if layer.keys() & _PLACEMENTS:
            # A placement replaces the lower layers' whole, not field by field.
            return replace(self, **{**_NO_PLACEMENT, **layer})
        return replace(self, **layer)

    def place(
        self, cores: int, name: str, names: Mapping[str, int] = MappingProxyType({})
    ) -> tuple[tuple[int, ...] | None, int]:
        """Return the cores of a launch on a device of `cores` cores, and how many they are.

        `names` are other names of the cores. None leaves the choice to the
        scheduler. Raises OptionError for a core that is not there, and for more
        cores than there are.
        """
        if self.target is not None:
            target = self.target
            if type(target[0]) is str:
                target = _numbered(target, names, f"kernel {name}: target={_shown(self)}")
            if target[-1] >= cores:
                raise OptionError(
                    f"kernel {name}: target={_shown(self)} names core {target[-1]}, "
                    f"but the device's {cores} core{'s' * (cores > 1)} are numbered 0 to {cores - 1}"
                )
            return target, len(target)
        if self.auto is not None:
            if self.auto > cores:
                raise OptionError(
                    f"kernel {name}: auto={self.auto} asks for more cores than the device's {cores}"
                )
            return None, self.auto
        if not self.all:
            raise OptionError(f"kernel {name}: all=False needs auto= or target= to say which cores to use")
        return tuple(range(cores)), cores


NAMES = (
    "async_",
    "async",
    "auto",
    "target",
    "all",
    "device",
    "timeout",
    "retries",
    "priority",
    "when_full",
)
HARDWARE = "kernel", "xclbin", "verify"  # what a decorator takes besides, and nothing else
_PLACEMENTS = frozenset({"auto", "target"})
_NO_PLACEMENT: dict[str, Any] = {"auto": None, "target": None, "all": True, "single": False}


def for_decorators(name: str) -> str:
    """Say where an option of `HARDWARE` belongs."""
    return f"; {name}= is for hardware kernels, and only their decorator takes it"


def _meant(name: str) -> str:
    """Say what may be meant by an option that there is not."""
    import difflib

    if name in HARDWARE:
        return for_decorators(name)
    close = difflib.get_close_matches(name, (*NAMES, *HARDWARE), 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(NAMES)}"


def check(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a layer for `Options.merged` from options as a user wrote them.

    `where` says where, for messages. Raises OptionError for an option that is
    not known, of the wrong type or out of range, and for two placements.
    """
    layer: dict[str, Any] = {}
    for name, value in given.items():
        if name not in NAMES:
            raise OptionError(f"{where}: there is no option {name!r}{_meant(name)}")
        if name in ("auto", "target") and value is None:
            continue
        layer.update(_CHECKS[name](name, value, where))
    if "async_" in given and "async" in given:
        raise OptionError(f"{where}: async_ and 'async' are the same option; give one of them")
    found = placements(layer)
    if len(found) > 1:
        raise OptionError(f"{where}: {' and '.join(found)} are two placements; give one of them")
    if layer.get("all"):
        layer = {**_NO_PLACEMENT, **layer}
    return layer


def placements(layer: Mapping[str, Any]) -> list[str]:
    """Return the options of a layer that say which cores to use."""
    return [name for name in ("auto", "target", "all") if layer.get(name)]


def _flag(name: str, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, bool):
        raise OptionError(f"{where}: {name}={value!r} must be True or False")
    return {"async_" if name == "async" else name: value}


def _integer(name: str, value: Any, where: str) -> int:
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise OptionError(f"{where}: {name}={value!r} must be an integer, not {type(value).__name__}")


def _count(name: str, value: Any, where: str) -> dict[str, Any]:
    number = _integer(name, value, where)
    least = 1 if name == "auto" else 0
    if number < least:
        raise OptionError(f"{where}: {name}={number} must be at least {least}")
    return {name: number}


def _priority(name: str, value: Any, where: str) -> dict[str, Any]:
    return {name: _integer(name, value, where)}


def _target(name: str, value: Any, where: str) -> dict[str, Any]:
    single = not isinstance(value, Iterable) or getattr(value, "shape", None) == ()
    if isinstance(value, (bytes, Mapping)):
        raise OptionError(f"{where}: target={value!r} must be an integer or a sequence of integers")
    asked = [value] if single or isinstance(value, str) else list(value)
    if asked and all(isinstance(core, str) and not core.isdecimal() for core in asked):
        if len(set(asked)) < len(asked):
            raise OptionError(f"{where}: target={value!r} names a core more than once")
        return {"target": tuple(asked), "single": isinstance(value, str)}  # the device knows their numbers
    if isinstance(value, str):
        raise OptionError(f"{where}: target={value!r} must be an integer or a sequence of integers")
    if any(isinstance(core, str) and not core.isdecimal() for core in asked):
        raise OptionError(f"{where}: target={value!r} has names and numbers of cores: give one or the other")
    cores = sorted(_integer("target", core, where) for core in asked)
    if not cores:
        raise OptionError(f"{where}: target={value!r} names no core")
    if cores[0] < 0:
        raise OptionError(f"{where}: target={value!r} names core {cores[0]}; cores are numbered from 0")
    repeated = next((a for a, b in itertools.pairwise(cores) if a == b), None)
    if repeated is not None:
        raise OptionError(f"{where}: target={value!r} names core {repeated} more than once")
    return {"target": tuple(cores), "single": single}


def _numbered(target: tuple[Any, ...], names: Mapping[str, int], where: str) -> tuple[int, ...]:
    """Return the numbers of cores that were asked for by name, ascending."""
    known = f"they are {', '.join(names)}" if names else "they have numbers only, from 0"
    for name in target:
        if name not in names:
            raise OptionError(f"{where}: no core of the device has the name {name!r}; {known}")
    numbers = sorted(names[name] for name in target)
    if len(set(numbers)) < len(numbers):
        raise OptionError(f"{where} names a core more than once: {dict(names)}")
    return tuple(numbers)


def _device(name: str, value: Any, where: str) -> dict[str, Any]:
    if value is not None and (not isinstance(value, str) or not value):
        raise OptionError(f"{where}: device={value!r} must be an address such as 'local:4'")
    return {name: value}


def _timeout(name: str, value: Any, where: str) -> dict[str, Any]:
    number = seconds(value, f"{where}: ")
    if number is not None and number <= 0:
        raise OptionError(f"{where}: timeout={value!r} must be more than 0 seconds")
    return {name: number}


def _when_full(name: str, value: Any, where: str) -> dict[str, Any]:
    if value not in ("wait", "raise"):
        raise OptionError(f"{where}: {name}={value!r} must be 'wait' or 'raise'")
    return {name: value}


_CHECKS = {
    "async_": _flag,
    "async": _flag,
    "all": _flag,
    "auto": _count,
    "retries": _count,
    "priority": _priority,
    "target": _target,
    "device": _device,
    "timeout": _timeout,
    "when_full": _when_full,
}


def _shown(options: Options) -> str:
    assert options.target is not None
    return repr(options.target[0] if options.single else list(options.target))
