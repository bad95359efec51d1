"""Launches that share the memory of a device wait for each other, as long as that may help."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from device_runtime.errors import DeviceMemoryError
from device_runtime.fpga.room import Room


class Bank:
    """Have room for some, and tell of each attempt in vain."""

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        self.refused = threading.Semaphore(0)

    def take(
        self,
        room: Room,
        who: str | None,
        count: int,
        alone: bool = False,
        bank: str = "A",
        drivers: bool = True,
    ) -> int:
        def allocate() -> int:
            if count > self.free:
                self.refused.release()
                raise DeviceMemoryError(f"{self.free} are free")
            self.free -= count
            return count

        return room.take(who, [bank], allocate, (lambda: count <= self.size) if alone else None, drivers)


def started(run: Callable[[], Any]) -> Future[Any]:
    """Run it in a thread."""
    found: Future[Any] = Future()

    def main() -> None:
        try:
            found.set_result(run())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=main, daemon=True).start()
    return found


def test_who_finds_none_waits_for_the_others_end() -> None:
    room, bank = Room(), Bank(3)
    assert bank.take(room, "one", 2) == 2
    second = started(partial(bank.take, room, "two", 3, True))
    bank.refused.acquire()
    third = started(partial(bank.take, room, "three", 1, True))  # there is room, but it is not its turn
    bank.free += 2
    room.ended("one")
    assert second.result(30) == 3
    bank.refused.acquire()  # the third, whose turn it is now
    bank.free += 3
    room.ended("two")
    assert third.result(30) == 1


def test_who_gives_some_back_and_goes_on_is_not_waited_for() -> None:
    room, bank = Room(), Bank(3)
    bank.take(room, "driver", 2)
    second = started(partial(bank.take, room, "two", 3, True))
    bank.refused.acquire()
    bank.free += 2
    room.look_again()
    assert second.result(30) == 3


def test_who_came_later_is_not_waited_for() -> None:
    room, bank = Room(), Bank(3)
    bank.take(room, "one", 1)
    second = started(partial(bank.take, room, "two", 3, True))
    bank.refused.acquire()
    bank.take(room, "driver", 1)  # which does not wait
    bank.free += 1
    room.ended("one")
    with pytest.raises(DeviceMemoryError, match="2 are free"):
        second.result(30)


def test_where_nobody_has_any_it_is_an_error() -> None:
    room, bank = Room(), Bank(1)
    bank.take(room, "one", 1)
    room.ended("one")  # and somebody else has what it had taken
    with pytest.raises(DeviceMemoryError, match="0 are free"):
        bank.take(room, "two", 1, True)


def test_who_holds_some_does_not_wait() -> None:
    room, bank = Room(), Bank(2)
    bank.take(room, "one", 1)
    bank.take(room, "two", 1)
    for name in ("one", "two"):
        with pytest.raises(DeviceMemoryError):
            bank.take(room, name, 1)


def test_what_cannot_help_is_not_waited_for() -> None:
    room, bank, other = Room(), Bank(2), Bank(2)
    bank.take(room, "one", 1)
    other.take(room, "two", 2, bank="B")
    with pytest.raises(DeviceMemoryError, match="1 are free"):
        bank.take(room, "three", 3, True)  # more than there is
    room.ended("one")
    with pytest.raises(DeviceMemoryError, match="1 are free"):
        bank.take(room, "three", 2, True)


def test_whose_end_is_not_told_is_not_waited_for() -> None:
    room, bank = Room(), Bank(1)
    bank.take(room, None, 1)
    with pytest.raises(DeviceMemoryError):
        bank.take(room, "one", 1, True)


def test_who_waits_for_no_driver_waits_for_the_others() -> None:
    room, bank = Room(), Bank(3)
    bank.take(room, "kernel", 2, alone=True)
    second = started(partial(bank.take, room, "array", 2, True, drivers=False))
    bank.refused.acquire()
    bank.free += 2
    room.ended("kernel")
    assert second.result(30) == 2
    bank.free += 2
    room.ended("array")

    bank.take(room, "driver", 2)
    with pytest.raises(DeviceMemoryError):
        bank.take(room, "array", 2, alone=True, drivers=False)
