"""What every device must do, as tests: a device's own test class inherits them.

class TestMine(DeviceContract, LostUnits, Messages):
    def make(self):
        return MyDevice(2)
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import time
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest
from gates import Gate
from programs import PATIENCE

from device_runtime import codec
from device_runtime.capture import Capture
from device_runtime.context import current
from device_runtime.device import Device, ImmediateDevice
from device_runtime.errors import (
    ArgsDecodeError,
    DependencyError,
    MessageError,
    PeerEnded,
    ResultNotSerializable,
)
from device_runtime.launch import (
    Begun,
    Dependency,
    Ended,
    Event,
    Lost,
    Message,
    Outcome,
    PeerNotice,
    Plan,
    Ready,
    ShardId,
    Waiting,
    Work,
)
from device_runtime.runner import IMAGES_KEPT
from offload.core import probe, recv, send

Kind = TypeVar("Kind", bound=Event)


class Driver:
    """Drive a device as the dispatcher does, one step at a time."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.units = device.open()
        self.events: list[Event] = []
        self._launches = itertools.count(1)
        self._plans = itertools.count(1)
        self._sent: list[int] = []

    def work(
        self,
        fn: Callable[..., Any] | Capture,
        *args: Any,
        cores: tuple[int, ...] = (0,),
        shard: ShardId | None = None,
        dependencies: tuple[Dependency, ...] = (),
        calls: list[Any] | None = None,
        report_begin: bool = False,
    ) -> Work:
        """Make the work of one shard."""
        image = (fn if isinstance(fn, Capture) else Capture(fn)).image()
        value = (args, {}) if calls is None else ((), tuple(map(list, zip(*calls, strict=True))))
        payload = codec.encode(value, self.device.place)
        shard = shard or ShardId(next(self._launches), 0)
        plan = Plan(next(self._plans), image, cores, calls is not None, report_begin)
        return Work(shard, plan, payload, dependencies)

    def send(self, unit: int, *messages: Message) -> None:
        """Hand messages to a unit."""
        self.device.send(unit, messages)
        self._sent += [message.shard.launch for message in messages if isinstance(message, Work)]

    def next(self, kind: type[Kind], fits: Callable[[Kind], bool] = lambda _: True) -> Kind:
        """Return the first event of a kind, and take it out; wait for it on the device's descriptor."""
        poll = select.poll()
        poll.register(self.device.fileno(), select.POLLIN)
        while True:
            for event in self.events:
                if isinstance(event, kind) and fits(event):
                    self.events.remove(event)
                    return event
            for launch in self._sent if isinstance(self.device, ImmediateDevice) else ():
                if self.device.pending(launch):
                    self.device.run(launch)
            assert poll.poll(PATIENCE * 1000), f"no {kind.__name__} comes"
            self.events += self.device.receive()

    def outcome(self, work: Work) -> Outcome:
        """Return how a shard ended."""
        return self.next(Ended, lambda event: event.shard == work.shard).outcome

    def value(self, work: Work) -> Any:
        """Return a shard's value, or raise its exception."""
        outcome = self.outcome(work)
        assert outcome.payload is not None, outcome.error
        if outcome.failed:
            raise codec.decode_error(outcome.payload)
        return codec.decode(outcome.payload, writable=True)

    def lost(self, unit: int) -> Lost:
        """Return how a unit was lost, once it is back; others may have been brought down with it."""
        lost = self.next(Lost, lambda event: event.unit == unit)
        self.next(Ready, lambda event: event.unit == unit)
        return lost

    def run(self, fn: Callable[..., Any] | Capture, *args: Any, unit: int = 0) -> Any:
        """Run a function on a unit and return its value."""
        work = self.work(fn, *args, cores=(unit,))
        self.send(unit, work)
        return self.value(work)


def add(a: Any, b: Any) -> Any:
    return a + b


def place() -> tuple[int, int, int, int]:
    context = current()
    assert context is not None
    return context.core, context.numcores, context.rank, context.size


class Unloadable:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


class _Driven:
    """Say which device the tests of a contract are about; the fixture `driver` opens it, once a class."""

    @abstractmethod
    def make(self) -> Device:
        """Make the device, with two units."""


class DeviceContract(_Driven):
    """What holds for every device."""

    def test_it_has_the_units_it_was_asked_for(self, driver: Driver) -> None:
        assert driver.units == 2

    def test_it_runs_a_function(self, driver: Driver) -> None:
        assert driver.run(add, 1, 2) == 3

    def test_each_unit_knows_its_place(self, driver: Driver) -> None:
        works = [driver.work(place, cores=(0, 1), shard=ShardId(7, rank)) for rank in (0, 1)]
        for unit, work in enumerate(works):
            driver.send(unit, work)
        assert [driver.value(work) for work in works] == [(0, 2, 0, 2), (1, 2, 1, 2)]

    def test_a_unit_runs_what_it_is_sent_in_order(self, driver: Driver) -> None:
        works = [driver.work(add, i, 0) for i in range(min(5, driver.device.depth))]
        driver.send(0, *works)
        ended = [driver.next(Ended) for _ in works]
        assert [event.shard for event in ended] == [work.shard for work in works]
        assert {event.unit for event in ended} == {0}

    def test_an_outcome_tells_when_it_began_and_ended(self, driver: Driver) -> None:
        before = time.monotonic()
        work = driver.work(add, 1, 2)
        driver.send(0, work)
        outcome = driver.outcome(work)
        assert before <= outcome.begun <= outcome.ended <= time.monotonic()

    def test_receive_waits_for_nothing(self, driver: Driver) -> None:
        driver.run(add, 1, 2)
        assert not [event for event in driver.device.receive() if isinstance(event, Ended)]

    def test_an_exception_is_an_outcome(self, driver: Driver) -> None:
        with pytest.raises(ZeroDivisionError):
            driver.run(lambda: 1 / 0)
        assert driver.run(add, 1, 2) == 3

    def test_sys_exit_is_an_outcome(self, driver: Driver) -> None:
        def leave() -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            driver.run(leave)
        assert driver.run(add, 1, 2) == 3

    def test_arguments_that_do_not_load_are_an_outcome(self, driver: Driver) -> None:
        with pytest.raises(ArgsDecodeError):
            driver.run(add, Unloadable(), 1)
        assert driver.run(add, 1, 2) == 3

    def test_a_value_that_does_not_pickle_is_an_outcome(self, driver: Driver) -> None:
        with pytest.raises(ResultNotSerializable):
            driver.run(lambda: (i for i in range(3)))
        assert driver.run(add, 1, 2) == 3

    @pytest.mark.parametrize("nbytes", [0, 1, 100, 8192, 100_000, 5_000_000])
    def test_bytes_of_any_size_travel(self, driver: Driver, nbytes: int) -> None:
        data = os.urandom(nbytes)
        assert driver.run(add, data, b"") == data

    @pytest.mark.parametrize("count", [0, 1, 3000, 1_000_000])
    def test_arrays_of_any_size_travel(self, driver: Driver, count: int) -> None:
        np = pytest.importorskip("numpy")
        data = np.arange(count, dtype=float)
        result = driver.run(add, data, 1)
        assert np.array_equal(result, data + 1)
        result[:] = 0  # it is the host's own

    def test_arrays_are_read_only_in_a_kernel(self, driver: Driver) -> None:
        np = pytest.importorskip("numpy")

        def scribble(a: Any) -> None:
            a[0] = 1

        for count in (3, 3_000_000):
            data = np.zeros(count)
            with pytest.raises(ValueError, match="read-only"):
                driver.run(scribble, data)
            assert not data.any()

    def test_arguments_are_those_of_the_time_they_were_placed(self, driver: Driver) -> None:
        np = pytest.importorskip("numpy")
        data = np.ones(1_000_000)
        work = driver.work(add, data, 0)
        data[:] = 2
        driver.send(0, work)
        assert driver.value(work).sum() == len(data)

    def test_results_stay_as_they_are(self, driver: Driver) -> None:
        np = pytest.importorskip("numpy")
        results = [driver.run(np.full, 100_000, i) for i in range(20)]
        assert [int(result[0]) for result in results] == list(range(20))
        assert all(result.min() == result.max() for result in results)

    def test_results_outlive_the_device(self) -> None:
        np = pytest.importorskip("numpy")
        driver = Driver(self.make())
        result = driver.run(np.arange, 100_000)
        driver.device.close()
        assert int(result.sum()) == sum(range(100_000))

    def test_a_kernel_is_remembered_and_may_be_forgotten(self, driver: Driver) -> None:
        """A unit remembers as many images as its device sees fit; the works need not know."""
        first = Capture(add)
        assert driver.run(first, 1, 2) == 3
        assert driver.run(first, 3, 4) == 7
        for i in range(IMAGES_KEPT + 2):
            assert driver.run(lambda i=i: i) == i
        assert driver.run(first, 5, 6) == 11

    def test_what_a_kernel_captured_is_fresh_in_every_launch(self, driver: Driver) -> None:
        seen: list[int] = []

        def note(i: int) -> list[int]:
            seen.append(i)
            return seen

        capture = Capture(note)
        assert [driver.run(capture, 1), driver.run(capture, 2)] == [[1], [2]]
        assert seen == []

    def test_a_mapped_work_makes_one_call_after_another(self, driver: Driver) -> None:
        work = driver.work(add, calls=[(1, 2), (3, 4)])
        driver.send(0, work)
        assert driver.value(work) == ([3, 7], None)

    def test_the_first_call_that_fails_ends_a_mapped_work(self, driver: Driver) -> None:
        work = driver.work(lambda x: 1 // x, calls=[(1,), (0,), (2,)])
        driver.send(0, work)
        values, error = driver.value(work)
        assert values == [1]
        assert isinstance(codec.decode_error(error), ZeroDivisionError)

    def test_another_launchs_value_can_be_an_argument(self, driver: Driver) -> None:
        np = pytest.importorskip("numpy")
        first = driver.work(np.ones, 100_000)
        driver.send(0, first)
        payload = driver.outcome(first).payload
        assert payload is not None

        class Stands:
            def __reduce__(self) -> Any:
                return codec.depend(self)

        handles: list[Any] = []
        args = codec.encode(((Stands(), 1), {}), driver.device.place, dependencies=handles)
        work = driver.work(add, cores=(1,), dependencies=(Dependency(True, (payload,)),))
        work = Work(work.shard, work.plan, args, work.dependencies)
        driver.send(1, work)
        assert driver.value(work).sum() == 200_000

    def test_what_comes_after_a_work_that_failed_is_not_run(self, driver: Driver) -> None:
        def fail() -> None:
            raise ValueError

        works = [driver.work(add, 1, 2), driver.work(fail), driver.work(add, 3, 4)]
        well, failed, ordinary = (one.shard.launch for one in works)
        for after in ((well,), (well, failed), (ordinary, well), (works[-1].shard.launch + 100,)):
            works.append(driver.work(add, "ra", "n")._replace(after=after))
        driver.send(0, *works)
        for good in (works[0], works[2], works[3], works[5]):
            assert driver.value(good) in (3, 7, "ran")
        for bad in (works[4], works[6]):
            with pytest.raises(DependencyError):
                driver.value(bad)

    def test_a_kill_is_answered(self, driver: Driver) -> None:
        """Also by a device that cannot end a shard: until `Ready` comes the unit is sent nothing more."""
        assert driver.run(add, 1, 2) == 3
        driver.events.clear()  # tests before this one may have brought the unit down with another
        work = driver.work(add, 1, 2)
        driver.send(0, work)
        driver.device.kill(0, work.shard)
        driver.next(Ready, lambda event: event.unit == 0)
        if any(isinstance(event, Lost) and event.unit == 0 for event in driver.events):
            driver.next(Lost, lambda event: event.unit == 0)
        else:
            assert driver.value(work) == 3
        assert driver.run(add, 1, 2) == 3

    @pytest.mark.parametrize("call", [partial(send, None), recv, probe], ids=["send", "recv", "probe"])
    def test_messages_that_cannot_be_are_refused(self, driver: Driver, call: Callable[[int], Any]) -> None:
        """Those to a unit that is not in the launch are, on every device; on some all are."""
        with pytest.raises(MessageError):
            driver.run(call, 1)

    def test_two_devices_do_not_disturb_each_other(self, driver: Driver) -> None:
        other = Driver(self.make())
        ours, theirs = driver.work(add, 1, 2), other.work(add, "a", "b")
        driver.send(0, ours)
        other.send(0, theirs)
        assert (driver.value(ours), other.value(theirs)) == (3, "ab")
        other.device.close()
        assert driver.run(add, 1, 2) == 3

    def test_it_can_be_closed_at_once(self) -> None:
        driver = Driver(self.make())
        driver.device.close()

    def test_it_can_be_closed_with_works_not_received(self) -> None:
        driver = Driver(self.make())
        for unit in range(driver.units):
            driver.send(unit, driver.work(add, 1, 2, cores=(unit,)))
        driver.device.close()


class LostUnits(_Driven):
    """What holds for devices whose units can die, or be killed, and come back."""

    def lost(self, driver: Driver, work: Work) -> Lost:
        """Send a work that ends its unit, and see the unit come back."""
        driver.send(0, work)
        lost = driver.lost(0)
        assert driver.run(add, 1, 2) == 3
        assert driver.run(add, 1, 2, unit=1) == 3
        return lost

    def test_begun_is_told_when_it_is_asked_for(self, driver: Driver) -> None:
        work = driver.work(add, 1, 2, report_begin=True)
        driver.send(0, work)
        begun = driver.next(Begun)
        assert (begun.unit, begun.shard) == (0, work.shard)
        assert begun.at <= driver.outcome(work).ended

    def test_a_unit_that_is_killed_comes_back(self, driver: Driver, gate: Gate) -> None:
        work = driver.work(gate.pass_through)
        driver.send(0, work)
        gate.wait()
        driver.device.kill(0, work.shard)
        assert driver.lost(0).begun == work.shard
        assert driver.run(add, 1, 2) == 3

    def test_a_unit_that_is_killed_at_once_always_comes_back(self, driver: Driver) -> None:
        """However often: that it did nothing before its end is not its fault."""
        for _ in range(10):
            work = driver.work(signal.pause)
            driver.send(0, work)
            driver.device.kill(0, work.shard)
            driver.lost(0)
        assert driver.run(add, 1, 2) == 3

    def test_a_kill_that_comes_too_late_hits_nothing_else(self, driver: Driver, gate: Gate) -> None:
        first, second = driver.work(add, 1, 2), driver.work(gate.pass_through, report_begin=True)
        driver.send(0, first, second)
        gate.wait()
        driver.device.kill(0, first.shard)
        driver.next(Ready, lambda event: event.unit == 0)
        gate.let_on()
        assert driver.value(first) == 3
        assert driver.value(second) is None

    def test_the_exit_code_is_told(self, driver: Driver) -> None:
        work = driver.work(os._exit, 3)
        lost = self.lost(driver, work)
        assert (lost.exit_code, lost.begun) == (3, work.shard)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
    def test_the_signal_is_told(self, driver: Driver, number: signal.Signals) -> None:
        work = driver.work(signal.raise_signal, number)  # in the very thread that runs the kernel
        lost = self.lost(driver, work)
        assert (lost.exit_code, lost.begun) == (-number, work.shard)
        assert number.name in lost.why

    def test_a_unit_lost_before_user_code_ran_says_so(self, driver: Driver) -> None:
        class Kills:
            def __reduce__(self) -> Any:
                return os._exit, (5,)

        assert self.lost(driver, driver.work(add, Kills(), 1)).begun is None

    def test_outcomes_from_before_the_end_are_told(self, driver: Driver) -> None:
        first, last = driver.work(add, 1, 2), driver.work(os._exit, 3)
        driver.send(0, first)
        driver.send(0, last)
        assert driver.value(first) == 3
        assert driver.lost(0).begun == last.shard

    def test_outcomes_and_an_end_that_nobody_has_looked_at_are_told_in_one_turn(self, driver: Driver) -> None:
        end = os.pidfd_open(driver.run(os.getpid))
        first, last = driver.work(add, 1, 2), driver.work(os._exit, 3)
        driver.send(0, first, last)
        over = select.poll()
        over.register(end, select.POLLIN)
        try:
            assert over.poll(PATIENCE * 1000)
        finally:
            os.close(end)
        assert driver.value(first) == 3
        assert driver.lost(0).begun == last.shard

    def test_it_can_be_closed_while_a_kernel_runs(self) -> None:
        driver = Driver(self.make())
        work = driver.work(signal.pause, report_begin=True)
        driver.send(0, work)
        driver.next(Begun)
        driver.device.close()


class Messages(_Driven):
    """What holds for devices whose units exchange messages."""

    def pair(self, driver: Driver, first: Callable[..., Any], second: Callable[..., Any]) -> list[Work]:
        """Send two shards of one launch, one to each unit."""
        number = next(driver._launches)
        works = [
            driver.work(fn, cores=(0, 1), shard=ShardId(number, rank))
            for rank, fn in enumerate((first, second))
        ]
        for unit, work in enumerate(works):
            driver.send(unit, work)
        return works

    @pytest.mark.parametrize("size", [1, 1000, 2_000_000])
    def test_two_units_exchange_values(self, driver: Driver, size: int) -> None:
        def swap(size: int = size) -> Any:
            context = current()
            assert context is not None
            context.mesh.put(1 - context.core, bytes([context.core]) * size)
            return context.mesh.get(1 - context.core)

        works = self.pair(driver, swap, swap)
        assert [driver.value(work) for work in works] == [b"\1" * size, b"\0" * size]

    def test_tags_keep_messages_apart(self, driver: Driver) -> None:
        def both(order: tuple[int, int]) -> Any:
            context = current()
            assert context is not None
            other = 1 - context.core
            for tag in (0, 1):
                context.mesh.put(other, f"tag {tag}", tag)
            return [context.mesh.get(other, tag) for tag in order]

        works = self.pair(driver, lambda: both((0, 1)), lambda: both((1, 0)))
        assert [driver.value(work) for work in works] == [["tag 0", "tag 1"], ["tag 1", "tag 0"]]

    def test_a_core_that_is_not_in_the_launch_is_refused(self, driver: Driver) -> None:
        def send() -> None:
            context = current()
            assert context is not None
            context.mesh.put(1, "?")

        with pytest.raises(PeerEnded, match="not in this launch"):
            driver.run(send)

    def test_who_waits_in_vain_is_told(self, driver: Driver) -> None:
        """A device either finds that nothing can come, or says who waits and passes on the answer."""

        def wait() -> Any:
            context = current()
            assert context is not None
            return context.mesh.get(1 - context.core)

        works = self.pair(driver, wait, lambda: None)
        assert driver.value(works[1]) is None
        if not isinstance(driver.device, ImmediateDevice):
            waiting = driver.next(Waiting, lambda event: event.shard == works[0].shard)
            assert (waiting.unit, waiting.core) == (0, 1)
            driver.send(0, PeerNotice(waiting.shard, 1, "its shard has ended"))
        with pytest.raises(PeerEnded, match="its shard has ended"):
            driver.value(works[0])

    def test_messages_that_nobody_took_do_not_reach_the_next_launch(self, driver: Driver) -> None:
        def send() -> None:
            context = current()
            assert context is not None
            context.mesh.put(1, "old")

        def probe() -> bool:
            context = current()
            assert context is not None
            return context.mesh.probe(0)

        first = self.pair(driver, send, lambda: None)
        assert [driver.value(work) for work in first] == [None, None]
        second = self.pair(driver, lambda: None, probe)
        assert driver.value(second[1]) is False
        assert driver.value(second[0]) is None
