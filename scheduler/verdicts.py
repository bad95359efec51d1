"""The errors of shards that ended without an outcome of their own, in words."""

from __future__ import annotations

from concurrent.futures import CancelledError

from device_runtime.errors import (
    DependencyError,
    LaunchTimeout,
    NoUnitsError,
    PoisonedKernel,
    SessionClosed,
    WorkerDied,
)
from device_runtime.launch import Lost
from scheduler.events import Settle
from scheduler.state import MAX_UNITS_LOST
from scheduler.ticket import END, VALUE, Route, Ticket


def verdict(ticket: Ticket, action: Settle, lost: Lost | None) -> BaseException:
    """Make the error of a shard that the state machine ended without an outcome."""
    how, route = action.how, ticket.route
    core = None if ticket.units is None else ticket.units[action.rank]
    where = f"kernel {route.name} on core {core}" if core is not None else f"kernel {route.name}"
    if how in ("died", "poisoned"):
        assert lost is not None
        begun = lost.begun is not None and lost.begun.launch == ticket.number
        told = f"; its last output was:\n{lost.output}" if lost.output else ""
        if how == "died":
            attempt = _attempt(route, action.deaths)
            return WorkerDied(
                f"{where}: the core's process ended ({lost.why}) while it ran the kernel{attempt}; "
                f"the core is being restarted, without its resident data{told}",
                lost.exit_code,
                begun,
                lost.output,
            )
        return PoisonedKernel(
            f"{where}: the launch has ended {MAX_UNITS_LOST} core processes (last: {lost.why}) "
            f"and is not tried again{told}",
            lost.exit_code,
            begun,
            lost.output,
        )
    if how == "timeout":
        assert route.timeout is not None
        attempt = _attempt(route, action.deaths + 1)
        return LaunchTimeout(
            f"{where} took longer than its timeout, {route.timeout:g} s{attempt}, and was ended"
        )
    if how == "dependency":
        return dependency_error(ticket)
    if how == "no units":
        lacking = [unit for unit in ticket.units or () if unit in route.pool.gone]
        if lacking:
            told = f"core {lacking[0]} of {route.pool.address} is gone"
        else:
            told = f"no core of {route.pool.address} is left to run it"
        why = route.pool.gone.get(lacking[0] if lacking else 0)
        return NoUnitsError(f"{where}: {told}" + (f": {why}" if why else ""))
    if how == "closed":
        return SessionClosed(f"{where}: the session was shut down before the launch had ended")
    return CancelledError(f"the launch of {route.name} was cancelled")


def _attempt(route: Route, attempt: int) -> str:
    """Say in which attempt it was, where there may be several."""
    return f", in attempt {attempt} of {route.retries + 1}" if route.retries else ""


def dependency_error(ticket: Ticket) -> DependencyError:
    """Make the error of a launch whose arguments include the handle of one that failed.

    Its cause will be the error of the launch where it began, however many have
    failed because of one another since.
    """
    failed, wants = next(
        (one, need.wants)
        for need in ticket.depends
        if need.wants != END
        for one in need.tickets
        if one.done and not one.ok
    )
    ticket.cause = failed.cause or failed
    return DependencyError(
        f"kernel {ticket.name} was not run: "
        + (
            f"a handle among its arguments, of kernel {failed.name}, failed"
            if wants == VALUE
            else f"kernel {failed.name} failed, and so did not write what it was to read"
        )
    )
