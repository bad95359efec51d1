"""Single calls of functions, one on one core each: what an executor stands on."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from functools import partial
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from device_runtime import codec
from device_runtime.errors import ArgsNotSerializable, ForkedHandleError, OffloadError, SessionClosed
from device_runtime.interrupts import Shield
from offload import initializer as initializers
from offload.body import refuse_coroutine
from offload.future import LaunchFuture
from offload.handle import SingleHandle

if TYPE_CHECKING:
    from device_runtime.capture import Capture
    from scheduler.dispatcher import Dispatcher
    from scheduler.ticket import Pool, Route, Ticket

_log = logging.getLogger("offload")

_CAPTURES_KEPT = 128  # as many as a core remembers


class _Thread(threading.local):
    calls_back = False  # whether it is inside of a future's callbacks


_thread = _Thread()


class Submission(LaunchFuture):
    """Be the future of one call."""

    def __init__(self, handle: SingleHandle[Any], owner: Submissions) -> None:
        self._owner = owner
        super().__init__(handle)

    def drop(self, kill: bool = False) -> None:
        """Cancel the launch, and leave it to its end to tell what becomes of the future."""
        handle = self._handle
        if handle is not None:
            handle.cancel(kill)

    def _settle(self, tickets: tuple[Ticket, ...]) -> None:
        try:
            super()._settle(tickets)
        finally:
            self._owner.forget(self)

    def _call_back(self) -> None:
        before, _thread.calls_back = _thread.calls_back, True
        try:
            super()._call_back()
        finally:
            _thread.calls_back = before

    def _explain(self, error: BaseException | None, cancelled: bool) -> BaseException | None:
        failed = isinstance(error, initializers.InitializerFailed)
        if error is not None and failed:
            self._owner.break_down(error)
        broken = self._owner.broken
        return _broken_by(broken) if broken is not None and (failed or cancelled) else error


class Submissions:
    """Run calls on the cores of a device of their own, in the order they are made.

    `pending` holds the futures of the calls that have not ended. `broken` is
    the error of an initializer that failed; no call is made from then on.
    """

    def __init__(self, address: str, initialize: bytes | None) -> None:
        from scheduler.dispatcher import Dispatcher

        self._route: Route | None = None  # the way that the last call went
        self.pending: dict[Submission, None] = {}
        self.broken: BaseException | None = None
        self.closed = False
        self._initialize = initialize
        self._captures: dict[tuple[Callable[..., Any], bool], Capture] = {}
        self._process = os.getpid()
        self._closer = threading.Thread(target=self._close, name="offload-executor-shutdown")
        self._closing = [self._closer]  # who takes it out starts it
        self._started = threading.Event()
        dispatcher = Dispatcher()
        try:
            pool = dispatcher.open(address)
        except BaseException:
            dispatcher.close()
            raise
        self.cores = pool.units
        self._open: tuple[Dispatcher, Pool] | None = dispatcher, pool
        live.add(self)

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        chunked: bool = False,
    ) -> Future[Any]:
        """Queue a call and return its future.

        With `chunked`, `args` holds one list, of the arguments of calls to be
        made one after another; what the future gives is described at `run_calls`.

        Raises BrokenExecutor once an initializer has failed, RuntimeError after
        `close`, and ForkedHandleError in a forked child.
        """
        from scheduler.ticket import Route, Ticket

        if self.broken is not None:
            raise _broken_by(self.broken)
        opened = self._open
        if self.closed or opened is None:
            raise RuntimeError("cannot schedule new futures after shutdown")
        dispatcher, pool = opened
        try:
            capture = self._capture(function, chunked)
            image = capture.image()
            payload = codec.encode((args, kwargs), partial(dispatcher.place, pool.device))
        except ArgsNotSerializable as error:
            told = ArgsNotSerializable(f"kernel {capture.name}: {error}")
            told.__cause__ = error.__cause__
            return _failed(told)
        except ForkedHandleError:
            raise
        except OffloadError as error:
            return _failed(error)
        estimate = hash((getattr(function, "__code__", capture.name), chunked))
        route = self._route
        if route is None or (route.name, route.kernel) != (capture.name, estimate):
            route = self._route = Route(pool, None, 1, capture.name, estimate, bare=True)
        ticket = Ticket(route, image, payload)
        try:
            dispatcher.submit(ticket)
        except SessionClosed:  # while it waited for room in the queue
            raise RuntimeError("cannot schedule new futures after shutdown") from None
        future = Submission(SingleHandle(dispatcher, ticket, True), self)
        self.pending[future] = None
        if future.done():  # perhaps before it was noted as pending
            self.forget(future)
        elif self.broken is not None:  # since we looked
            future.drop()
        return future

    def cancel(self, kill: bool = False) -> None:
        """Cancel the calls that are queued; with `kill`, end those that run, too."""
        for future in reversed(list(self.pending)):
            if kill:
                future.drop(kill=True)
            future.cancel()

    def close(self, wait: bool) -> None:
        """Make no more calls, and give everything back when the last one has ended."""
        self.closed = True
        if self._process != os.getpid():
            return  # a forked child has no part in its parent's cores
        with Shield():
            try:
                closer = self._closing.pop()
            except IndexError:
                pass
            else:
                try:
                    closer.start()
                except RuntimeError:  # no thread can be had any more
                    self._close()
                self._started.set()
        if wait:
            if _thread.calls_back:
                raise RuntimeError("a future's callback cannot wait for its executor; use wait=False")
            self._started.wait()
            if self._closer.ident is not None:
                self._closer.join()

    def break_down(self, error: BaseException) -> None:
        """Fail all calls that have not begun, as an initializer has failed."""
        if self.broken is None:
            self.broken = error
            _log.critical("an executor's initializer failed", exc_info=error)
            for future in list(self.pending):
                future.drop()

    def forget(self, future: Submission) -> None:
        """Note that a call has ended."""
        self.pending.pop(future, None)
        if not self.pending:
            for key in list(self._captures):
                if not _lasts(key[0]):
                    self._captures.pop(key, None)

    def _capture(self, function: Callable[..., Any], chunked: bool) -> Capture:
        if type(function) not in (FunctionType, BuiltinFunctionType, type):
            return self._captured(function, chunked)
        key = function, chunked
        found = self._captures.get(key)
        if found is None:
            found = self._captures[key] = self._captured(function, chunked)
            for oldest in list(self._captures)[:-_CAPTURES_KEPT]:
                self._captures.pop(oldest, None)
        return found

    def _captured(self, function: Callable[..., Any], chunked: bool) -> Capture:
        from device_runtime.capture import Capture

        refuse_coroutine(function)
        name = Capture(function).name
        if chunked:
            from device_runtime.runner import run_calls

            function = partial(run_calls, function)
        if self._initialize is not None:
            function = partial(initializers.run_initialized, self._initialize, function)
        capture = Capture(function)
        capture.name = name
        return capture

    def _close(self) -> None:
        opened = self._open
        if opened is not None:
            opened[0].close()
        self._open = None
        live.discard(self)


live: set[Submissions] = set()  # those whose devices are open


def _lasts(function: Callable[..., Any]) -> bool:
    """Tell whether a function lives as long as its module; others may hold what is to be freed."""
    owner = getattr(function, "__self__", None)
    return "<" not in function.__qualname__ and (owner is None or isinstance(owner, ModuleType))


def _failed(error: BaseException) -> Future[Any]:
    """Return the future of a call that could not be sent."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    future.set_exception(error)
    return future


def _broken_by(error: BaseException) -> BrokenExecutor:
    broken = BrokenExecutor(f"the executor makes no more calls: {error}")
    broken.__cause__ = error
    return broken


os.register_at_fork(after_in_child=live.clear)
