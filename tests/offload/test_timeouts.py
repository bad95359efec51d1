"""What can be a timeout, wherever a handle takes one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from gates import Gate, gated

from offload import Handle, OptionError, as_completed, offload, wait_all, wait_any

Wait = Callable[[Handle[Any], Any], object]

WAITS: dict[str, Wait] = {
    "wait": lambda handle, timeout: handle.wait(timeout=timeout),
    "progress": lambda handle, timeout: handle.wait(timeout=timeout, progress=True),
    "wait_any": lambda handle, timeout: handle.wait_any(timeout=timeout),
    "as_completed": lambda handle, timeout: handle.as_completed(timeout=timeout),
    "result": lambda handle, timeout: handle.result(timeout=timeout),
    "exception": lambda handle, timeout: handle.exception(timeout=timeout),
    "wait_all": lambda handle, timeout: wait_all(handle, timeout=timeout),
    "wait_any of several": lambda handle, timeout: wait_any(handle, timeout=timeout),
    "as_completed of several": lambda handle, timeout: as_completed(handle, timeout=timeout),
}

over_all_waits = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


@offload(async_=True)
def nothing() -> None: ...


def ended() -> Handle[None]:
    handle = nothing()
    handle.wait()
    return handle


@over_all_waits
@pytest.mark.parametrize("timeout", ["1", True, [1], math.nan], ids=ascii)
def test_what_is_not_a_number_is_refused_though_the_launch_has_ended(
    device: str, wait: Wait, timeout: object
) -> None:
    with pytest.raises(OptionError, match=re.escape(f"timeout={timeout!r} must be a number of seconds")):
        wait(ended(), timeout)


@over_all_waits
@pytest.mark.parametrize("timeout", [10**300, math.inf, 1e10, 30, Decimal("30"), 0, -1], ids="{:.0e}".format)
def test_any_number_will_do(device: str, wait: Wait, timeout: float) -> None:
    wait(ended(), timeout)


@over_all_waits
@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_the_error_tells_the_timeout_that_was_given(
    local: str, gate: Gate, wait: Wait, timeout: float
) -> None:
    handle = offload(gated, target=0).launch(gate)
    gate.wait()
    with pytest.raises(TimeoutError, match=f"after {timeout} s.*nothing was cancelled"):
        found: Any = wait(handle, timeout)
        next(found)  # an iterator, if it is not raised at once
    gate.let_on()
    assert handle.wait() == [None]
