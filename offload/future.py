"""The standard library's view of a launch."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from device_runtime.interrupts import ShieldedLock
from offload.deadline import Deadline

if TYPE_CHECKING:
    from offload.handle import Handle
    from scheduler.ticket import Ticket


class LaunchFuture(Future[Any]):
    """Be a `Future` that a launch settles, with what the `result()` of its handle gives."""

    def __init__(self, handle: Handle[Any]) -> None:
        super().__init__()
        self._condition = threading.Condition(ShieldedLock())  # type: ignore[arg-type]
        # Only until the launch has ended: a handle keeps hold of its device's memory.
        self._handle: Handle[Any] | None = handle
        self._dispatcher = handle._dispatcher
        handle._on_done(self._settle)

    def cancel(self) -> bool:
        """Cancel the launch if no core has begun it; return whether it is cancelled."""
        handle = self._handle
        if self.done() or (handle is not None and handle.cancel()):
            cancelled = super().cancel()
            self._dispatcher.look_up()
            return cancelled
        return False

    def result(self, timeout: float | None = None) -> Any:
        try:
            return super().result(self._wait(timeout))
        finally:
            del self  # which the frames of an error would hold, and it the error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(self._wait(timeout))

    def _wait(self, timeout: float | None) -> float | None:
        """Wait for the launch, so that no other thread need be woken for it; return what time is left."""
        handle = self._handle
        if handle is None or self.done():
            return timeout
        deadline = Deadline(timeout)
        self._dispatcher.wait(lambda: handle._is_done() or self.done(), deadline.left())
        return deadline.left()

    def running(self) -> bool:
        """Tell whether a core has begun the launch, which cannot be cancelled any more."""
        handle = self._handle
        return handle is not None and not self.done() and handle.number_running() > 0

    def _settle(self, tickets: tuple[Ticket, ...]) -> None:
        handle, self._handle = self._handle, None
        assert handle is not None
        error = handle._error(tickets)
        # One that the kernel itself raised is an exception as any other: its outcome has it as a payload.
        outcomes = (outcome for ticket in tickets for outcome in ticket.outcomes if outcome is not None)
        first = next((one.error for one in outcomes if one.failed or one.error is not None), None)
        cancelled = isinstance(error, CancelledError) and isinstance(first, CancelledError)
        said = self._explain(error, cancelled)
        if cancelled and said is error:
            super().cancel()
        if not self.set_running_or_notify_cancel():
            return
        if said is not None:
            self.set_exception(said)
        else:
            self.set_result(handle._result(tickets))

    def _invoke_callbacks(self) -> None:
        """Make the calls that the user asked for; called by `Future` when it is settled."""
        if self._done_callbacks:  # type: ignore[attr-defined]
            self._dispatcher.call_back(self._call_back)

    def _call_back(self) -> None:
        super()._invoke_callbacks()  # type: ignore[misc]

    def _explain(self, error: BaseException | None, cancelled: bool) -> BaseException | None:
        """Return the exception that the future gets for an error of the launch."""
        return error

    def __repr__(self) -> str:
        shown = super().__repr__()
        return shown.replace("state=pending", "state=running") if self.running() else shown
