"""The host's side of a launch: everything a `concurrent.futures.Future` can do, and more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from device_runtime import codec
from offload.deadline import Deadline
from offload.future import LaunchFuture
from offload.shards import Shards
from offload.table import handle_table

if TYPE_CHECKING:
    from scheduler.ticket import Ticket

R = TypeVar("R")

_log = logging.getLogger("offload")


@dataclass(frozen=True)
class Timing:
    """Tell when a shard was queued, began and ended, in seconds since the handle's launch.

    `core` is None until the scheduler has chosen one. `begun` and `ended` are
    None until the shard has ended, and stay so if its kernel gave neither a
    value nor an exception: it was cancelled or timed out, or its core died.
    `begun` stays None, too, if the arguments did not load.

    The rest tells what a shard has cost on a device with memory of its own:
    bytes moved to it and from it, seconds that took, seconds its circuits ran,
    seconds that were waited for its bitstream to be loaded, where it was the
    first on its unit since then, and seconds its circuits would have run, and the
    bytes have moved, by the timing model of an emulated FPGA. All None elsewhere,
    and where `begun` is.
    """

    core: int | None
    queued: float
    begun: float | None
    ended: float | None
    to_device: int | None = None
    from_device: int | None = None
    transfer: float | None = None
    compute: float | None = None
    loading: float | None = None
    predicted: float | None = None
    predicted_transfer: float | None = None


class Handle(Shards[R]):
    """Stand for a launch whose values may not be there yet.

    Given as an argument to a later launch, it makes that launch wait, and
    becomes there what `result()` would give. `await handle` gives that, too.
    """

    __slots__ = ()

    def result(self, timeout: float | None = None) -> R | list[R]:
        """Wait, and return the value of a launch that was asked for one unit, else the list in core order.

        Raises what `wait` raises.
        """
        values = self.wait(timeout)
        return values[0] if self._single and len(values) == 1 else values

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and return an exception such as `wait` would raise, None if it would raise none.

        Each is one of its own, as those that threads raise at the same time have to be.
        Raises CancelledError if the launch was cancelled, and TimeoutError.
        """
        error = self._error(self._wait_done(Deadline(timeout)))
        if isinstance(error, CancelledError):
            try:
                raise error
            finally:
                del error  # whose traceback holds this frame
        return error

    def done(self) -> bool:
        """Tell whether all cores have finished."""
        self._check_process()
        return self._is_done()

    def cancel(self, kill: bool = False) -> bool:
        """Cancel the launch if no core has begun it; with `kill`, end it on the cores that run it, too.

        Return whether all of it is now cancelled; `wait` then raises CancelledError.
        """
        cancelled = [self._dispatcher.cancel(ticket, kill) for ticket in self._tickets]
        return all(cancelled)

    def add_done_callback(self, callback: Callable[[Handle[R]], object]) -> None:
        """Call `callback(handle)` once all cores have finished; at once if they have.

        Launches appended until then count as well, and none after.
        It runs in some thread of the host's. An exception it raises is logged
        to the logger "offload".
        """

        def call() -> None:
            try:
                callback(self)
            except Exception:
                _log.exception("a callback of the launch of %s failed", self._name)

        self._on_done(lambda _: self._dispatcher.call_back(call))

    def future(self) -> Future[Any]:
        """Return a `concurrent.futures.Future` of what `result()` gives; cancelling it cancels the launch."""
        return LaunchFuture(self)

    @property
    def timing(self) -> list[Timing]:
        """When each shard was queued, began and ended, in the order of `wait`."""
        start = self._tickets[0].submitted
        found = []
        for ticket in self._tickets:
            for rank, outcome in enumerate(list(ticket.outcomes)):
                begun = outcome.begun if outcome is not None else 0.0
                ended = outcome.ended if outcome is not None else 0.0
                found.append(
                    Timing(
                        ticket.units[rank] if ticket.units is not None else None,
                        ticket.submitted - start,
                        begun - start if begun else None,
                        ended - start if ended else None,
                        *(outcome.costs if outcome is not None and outcome.costs and begun else ()),
                    )
                )
        return found

    @property
    def submitted(self) -> float:
        """When the launch was made, in seconds of `time.monotonic`; `timing` counts from here."""
        return self._tickets[0].submitted

    def __await__(self) -> Generator[Any, None, R | list[R]]:
        import asyncio  # whoever awaits has it; for the others it is half of what there is to load

        loop = asyncio.get_running_loop()
        settled = loop.create_future()

        def settle(tickets: tuple[Ticket, ...]) -> None:
            if not settled.done():
                settled.set_result(tickets)

        def tell(tickets: tuple[Ticket, ...]) -> None:
            # A loop that is closed by now has nobody left who waits.
            if not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(settle, tickets)
                except RuntimeError:
                    _log.debug("the event loop that awaited %s was closed", self._name)

        self._on_done(tell)
        tickets = yield from settled
        return self._result(tickets)

    def __reduce__(self) -> Any:
        return codec.depend(self)

    def __repr__(self) -> str:
        ended = sum(len(ticket.finished) for ticket in self._tickets)
        state = "done" if self._is_done() else f"{ended} of {self._count} cores done"
        wrong = [
            outcome.error
            for ticket in self._tickets
            for outcome in ticket.outcomes
            if outcome is not None and (outcome.failed or outcome.error is not None)
        ]
        if wrong:
            state += ", cancelled" if all(isinstance(e, CancelledError) for e in wrong) else ", failed"
        return f"<Handle of {self._name}: {state}>"

    def _repr_html_(self) -> str:
        return handle_table(self)

    def _on_done(self, callback: Callable[[tuple[Ticket, ...]], None]) -> None:
        """Call `callback` once, when all launches have ended, with these; it must not hold up others."""
        self._check_process()
        self._follow(0, callback)

    def _follow(self, begin: int, callback: Callable[[tuple[Ticket, ...]], None]) -> None:
        """Call `callback` when the launches from that at `begin` on, and any to come meanwhile, ended."""
        tickets = self._tickets
        pending = [callback]

        def ended(_: object) -> None:
            if all(ticket.done for ticket in tickets):
                try:
                    call = pending.pop()
                except IndexError:
                    return  # the last two ended at once, and the other one's thread calls
                if self._tickets is tickets:
                    call(tickets)
                else:
                    self._follow(len(tickets), call)

        for ticket in tickets[begin:]:
            ticket.on_done(ended)


class SingleHandle(Handle[R]):
    """Stand for a launch that was asked for one unit: `result()` and `await` give one value.

    After `append` they give a list, as any handle of several launches does.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def result(self, timeout: float | None = None) -> R: ...

        def __await__(self) -> Generator[Any, None, R]: ...
