"""Kernels: functions that run on a device when they are called."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from device_runtime.interrupts import Shield
from offload.body import Body
from offload.options import LimitNames, OptionNames, Options, check
from offload.session import Session, session

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from offload.calls import Binds, Gives, Of, Placed, Starts, Target
    from offload.handle import Handle, SingleHandle

P = ParamSpec("P")
R = TypeVar("R")
Q = ParamSpec("Q")
S = TypeVar("S")
T = TypeVar("T")


class Kernel(Generic[P, R]):
    """Be a function whose calls run on the cores of a device.

    A call takes the function's own arguments and, by name, options (see
    `Options`); it waits and returns one value per core, in core order, or with
    `async_=True` returns a handle at once.

        find_pi(100_000)                        # [3.14…, 3.13…]
        find_pi(100_000, target=[0, 1])
        find_pi.launch(100_000).wait()
    """

    def __init__(self, body: Body, layer: Mapping[str, Any], bound: tuple[Any, ...] = ()) -> None:
        functools.update_wrapper(self, body.fn)
        self._body = body
        self._layer = dict(layer)
        self._bound = bound  # the instance or class that the function is a method of
        # With the defaults it was made from, not their session, which would then never be freed.
        self._merged: tuple[Options | None, Options] = None, Options()
        shown = body.signature.shown
        if shown is not None:
            self.__signature__ = shown.replace(parameters=list(shown.parameters.values())[len(bound) :])

    if TYPE_CHECKING:

        @property
        def _gives(self) -> list[R]: ...
        @property
        def _gives_placed(self) -> list[R]: ...
        @property
        def _starts(self) -> Handle[R]: ...
        @property
        def _binds(self: Of[S, Q, T]) -> Callable[[S], Kernel[Q, T]]: ...

    # Arguments are checked where a call has none but the function's own. Beside an option they
    # cannot be: nothing that is given by name may be added to what a ParamSpec stands for.
    @overload
    def __call__(self: Gives[T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def __call__(self, /, *args: Any, async_: Literal[True], **kwargs: Any) -> Handle[R]: ...
    @overload
    def __call__(self, /, *args: Any, async_: Literal[False], **kwargs: Any) -> list[R]: ...
    @overload
    def __call__(self: Placed[T], /, *args: Any, auto: int | None, **kwargs: Any) -> T: ...
    @overload
    def __call__(self: Placed[T], /, *args: Any, target: Target, **kwargs: Any) -> T: ...
    @overload
    def __call__(self: Placed[T], /, *args: Any, all: bool, **kwargs: Any) -> T: ...
    @overload
    def __call__(self: Gives[T], /, *args: Any, device: str | None, **kwargs: Any) -> T: ...
    @overload
    def __call__(self: Gives[T], /, *args: Any, timeout: float | None, **kwargs: Any) -> T: ...
    @overload
    def __call__(self: Gives[T], /, *args: Any, retries: int, **kwargs: Any) -> T: ...
    @overload
    def __call__(self: Gives[T], /, *args: Any, priority: int, **kwargs: Any) -> T: ...
    @overload
    def __call__(self: Gives[T], /, *args: Any, when_full: Literal["wait", "raise"], **kwargs: Any) -> T: ...

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run on the device and return the list of the cores' values, or a handle if `async_`."""
        here = session()
        options = self._options(here, kwargs)
        if self._bound:
            args = self._bound + args
        self._body.signature.check(args, kwargs)
        if options.async_:
            return _launch(here, self._body, args, kwargs, options)
        return _call(here, self._body, args, kwargs, options)

    @overload
    def launch(self: Starts[T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def launch(self, /, *args: Any, async_: bool, **kwargs: Any) -> Handle[R]: ...
    @overload
    def launch(self, /, *args: Any, auto: int | None, **kwargs: Any) -> Handle[R]: ...
    @overload
    def launch(self, /, *args: Any, target: Target, **kwargs: Any) -> Handle[R]: ...
    @overload
    def launch(self, /, *args: Any, all: bool, **kwargs: Any) -> Handle[R]: ...
    @overload
    def launch(self: Starts[T], /, *args: Any, device: str | None, **kwargs: Any) -> T: ...
    @overload
    def launch(self: Starts[T], /, *args: Any, timeout: float | None, **kwargs: Any) -> T: ...
    @overload
    def launch(self: Starts[T], /, *args: Any, retries: int, **kwargs: Any) -> T: ...
    @overload
    def launch(self: Starts[T], /, *args: Any, priority: int, **kwargs: Any) -> T: ...
    @overload
    def launch(self: Starts[T], /, *args: Any, when_full: Literal["wait", "raise"], **kwargs: Any) -> T: ...

    def launch(self, /, *args: Any, **kwargs: Any) -> Any:
        """Start a launch and return its handle, whatever the option `async_` says."""
        here = session()
        options = self._options(here, kwargs)
        full = self._bound + args
        self._body.signature.check(full, kwargs)
        return _launch(here, self._body, full, kwargs, options)

    @overload
    def options(self, /, *, async_: Literal[True], **options: Unpack[OptionNames]) -> AsyncKernel[P, R]: ...
    @overload
    def options(self, /, *, async_: Literal[False], **options: Unpack[OptionNames]) -> Kernel[P, R]: ...
    @overload
    def options(self, /, **options: Unpack[OptionNames]) -> Self: ...

    def options(self, /, **options: Any) -> Any:
        """Return this kernel with other options; those that are not given stay as they are."""
        layer = check(options, f"{self._body.name}.options()")
        return make(self._body, merged_layers(self._layer, layer), self._bound)

    def map(
        self, *iterables: Iterable[Any], chunksize: int | None = None, window: int | None = None
    ) -> Iterator[R]:
        """Run once per element, as `map` does, and iterate over the values in input order.

        Elements are taken from the iterables as cores become free, so they may
        be endless. Each call runs on one core; `chunksize` calls travel
        together, by default as many as make a few milliseconds of work, and at
        most `window` chunks are under way (twice as many as there are cores).

        A call that raises ends the iteration there with its exception. Closing
        the iterator cancels what is queued. Where an iterable fails, or an
        element cannot be sent, the values before it come first. An element may
        be a handle: its chunk begins when all handles in it have ended, and ends
        the iteration if one of them failed.
        """
        here = session()
        here.pool(self._options(here, {}).device)
        with Shield():  # Python forgets an interrupt that strikes in the midst of an import
            from offload.mapping import map_kernel

        return map_kernel(
            here, self._body, self._bound, self._options(here, {}), iterables, chunksize, window
        )

    @property
    def fn(self) -> Callable[P, R]:
        """The plain function; calling it runs it here and now."""
        fn = self._body.fn
        return cast("Callable[P, R]", MethodType(fn, *self._bound) if self._bound else fn)

    @property
    def __offload_kernel__(self) -> Callable[..., Any]:
        """What travels when another kernel refers to this one: the function, and what it is bound to."""
        return self.fn

    # Of a class method, which is bound to the class; of any other in its class; of a method; of a static one.
    @overload
    def __get__(self: Binds[S, T], instance: Any, owner: S) -> T: ...
    @overload
    def __get__(self, instance: None, owner: Any) -> Self: ...
    @overload
    def __get__(self: Binds[S, T], instance: S, owner: Any) -> T: ...
    @overload
    def __get__(self, instance: Any, owner: Any) -> Self: ...

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Bind as a function in a class does; the instance then travels as the first argument."""
        kind = self._body.kind
        if kind == "class":
            return make(self._body, self._layer, (owner if owner is not None else type(instance),))
        if instance is None or kind != "method" or self._bound:
            return self
        return make(self._body, self._layer, (instance,))

    def __reduce__(self) -> Any:
        """Pickle by name, as functions do."""
        named = _named(self)
        # cloudpickle takes the functions of a script along; only its frame tells that it asks.
        if named is None or ".cloudpickle" in sys._getframe(1).f_globals.get("__name__", ""):
            return self.__offload_reduce__()
        name: str = self.__dict__["__qualname__"]
        if named is self:
            return name
        owner = named._bound[:1]  # of a class method's kernel, which each access makes anew
        if owner and owner[0] is self._bound[0] and named._layer == self._layer:
            return getattr, (*owner, name.rpartition(".")[2])
        return _like, (named, self._layer, self._bound)

    def __offload_reduce__(self) -> Any:
        """Take the kernel apart by value: into its function, for a launch, and what goes with it."""
        return _rebuild, (self._body.fn, self._body.kind, self._layer, self._bound)

    def __repr__(self) -> str:
        said = "".join(f", {name}={value!r}" for name, value in self._layer.items())
        return f"<kernel {self._body.name}{said}>"

    def _options(self, here: Session, kwargs: dict[str, Any]) -> Options:
        """Return the options of a launch, taking those given in the call out of `kwargs`."""
        defaults, options = self._merged
        if defaults is not here.defaults:
            options = here.defaults.merged(self._layer)
            self._merged = here.defaults, options
        given = kwargs.keys() & self._body.signature.options if kwargs else None
        if given:
            layer = {name: kwargs.pop(name) for name in given}
            options = options.merged(check(layer, f"kernel {self._body.name}"))
        return options


class AsyncKernel(Kernel[P, R]):
    """Be a kernel with the option `async_=True`: a call returns its handle at once."""

    if TYPE_CHECKING:

        @property
        def _gives(self) -> Handle[R]: ...  # type: ignore[override]
        @property
        def _gives_placed(self) -> Handle[R]: ...  # type: ignore[override]
        @property
        def _binds(self: Of[S, Q, T]) -> Callable[[S], AsyncKernel[Q, T]]: ...


class SingleKernel(AsyncKernel[P, R]):
    """Be an asynchronous kernel for one core: `result()` of a call's handle is one value."""

    if TYPE_CHECKING:

        @property
        def _gives(self) -> SingleHandle[R]: ...  # type: ignore[override]
        @property
        def _starts(self) -> SingleHandle[R]: ...
        @property
        def _binds(self: Of[S, Q, T]) -> Callable[[S], SingleKernel[Q, T]]: ...

        # With another placement it is a kernel for one core no more.
        @overload  # type: ignore[override]
        def options(self, /, **options: Unpack[LimitNames]) -> Self: ...
        @overload
        def options(self, /, **options: Unpack[OptionNames]) -> AsyncKernel[P, R]: ...

        def options(self, /, **options: Any) -> Any: ...  # pyright: ignore[reportIncompatibleMethodOverride]


def _first_launch(
    here: Session,
    body: Body,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
) -> Handle[Any]:
    """Open the device, and load what launches take while its cores start."""
    global _launch
    here.pool(options.device)
    with Shield():
        from offload.launching import launch

    _launch = launch
    return launch(here, body, args, kwargs, options)


def _first_call(
    here: Session, body: Body, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
) -> list[Any]:
    """Do the same for the first call that waits."""
    global _call
    here.pool(options.device)
    with Shield():
        from offload.launching import call

    _call = call
    return call(here, body, args, kwargs, options)


_launch, _call = _first_launch, _first_call


def make(body: Body, layer: Mapping[str, Any], bound: tuple[Any, ...] = ()) -> Kernel[..., Any]:
    """Make the kernel of a function, of the class that fits its options."""
    kind: type[Kernel[..., Any]] = Kernel
    if body.makes is not None:
        kind = body.makes
    elif layer.get("async_"):
        kind = SingleKernel if layer.get("auto") == 1 else AsyncKernel
    return kind(body, layer, bound)


def merged_layers(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return two layers of options as one: a placement above replaces all of the one below."""
    keep = dict(lower)
    if upper.keys() & {"auto", "target"}:
        for name in ("auto", "target", "all", "single"):
            keep.pop(name, None)
    return {**keep, **upper}


def _named(kernel: Kernel[..., Any]) -> Kernel[..., Any] | None:
    """Return the kernel of the same function that is found under the function's name, None if none is."""
    found: Any = sys.modules.get(getattr(kernel, "__module__", ""))
    for part in getattr(kernel, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, Kernel) and found._body is kernel._body else None


def _like(named: Kernel[..., Any], layer: dict[str, Any], bound: tuple[Any, ...]) -> Kernel[..., Any]:
    return make(named._body, layer, bound)


def _rebuild(fn: Any, kind: str, layer: dict[str, Any], bound: tuple[Any, ...]) -> Kernel[..., Any]:
    body = Body(fn)
    body.kind = kind
    return make(body, layer, bound)
