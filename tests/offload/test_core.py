"""What a kernel may call: its place, messages, and what all cores do together."""

from __future__ import annotations

import operator
import pickle
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gates import Gate
from programs import Program

from offload import NotOnDevice, OptionError, PeerEnded, SerializationError, offload
from offload import core as calls
from offload.core import (
    bcast,
    coreid,
    isdevice,
    ishost,
    numcores,
    probe,
    rank,
    recv,
    reduce,
    send,
    sendrecv,
    size,
    sync,
)

PLACES = [[0], [2], [0, 1], [1, 3], [0, 2, 3], [1, 2, 3], [0, 1, 2, 3]]


@offload
def places() -> Any:
    return coreid(), rank(), size(), numcores(), ishost(), isdevice()


@offload
def coreid_there() -> int:
    return coreid()


@offload
def ring(value: Any, cores: list[int]) -> Any:
    """Send to the next core of the launch and return what came from the one before."""
    send((coreid(), value), cores[(rank() + 1) % size()])
    return recv(cores[(rank() - 1) % size()])


@offload
def collect(op: Any, values: dict[int, Any]) -> Any:
    return reduce(values[coreid()], op)


@offload
def spread(root: int) -> Any:
    return bcast({"from": coreid()}, root)


def test_a_kernel_knows_its_place(device: str) -> None:
    assert places(target=[1, 3]) == [(1, 0, 2, 4, False, True), (3, 1, 2, 4, False, True)]


def test_on_the_host_the_calls_say_so(device: str) -> None:
    assert ishost() and not isdevice()
    assert numcores() == 4
    for call, args in [
        (coreid, ()),
        (rank, ()),
        (size, ()),
        (send, (1, 0)),
        (recv, (0,)),
        (sendrecv, (1, 0)),
        (probe, (0,)),
        (bcast, (1, 0)),
        (reduce, (1, "sum")),
        (sync, ()),
    ]:
        with pytest.raises(NotOnDevice, match=rf"{call.__name__}\(\) was called on the host.*@offload"):
            call(*args)  # type: ignore[operator]
    with pytest.raises(NotOnDevice):
        places.fn()


@pytest.mark.parametrize("cores", [places for places in PLACES if len(places) > 1])
def test_values_of_any_kind_go_round(device: str, cores: list[int]) -> None:
    before = [cores[-1], *cores[:-1]]
    for value in (None, 3.5, "text", {"a": [1, 2]}, b"x" * 100_000):
        assert ring(value, cores, target=cores) == [(core, value) for core in before]


def test_arrays_are_the_receivers_own(device: str) -> None:
    @offload
    def exchange(n: int) -> Any:
        mine = np.full(n, float(coreid()))
        theirs = sendrecv(mine, 1 - coreid())
        mine += 10
        theirs += 0.5
        return theirs, mine

    for n in (0, 3, 200_000):
        (a, _), (b, mine) = exchange(n, target=[0, 1])
        assert np.array_equal(a, np.full(n, 1.5)) and np.array_equal(b, np.full(n, 0.5))
        assert np.array_equal(mine, np.full(n, 11.0))


@pytest.mark.parametrize("count", [3, 100_000])
def test_a_read_only_array_is_the_receivers_to_write_to(device: str, count: int) -> None:
    @offload(target=[0, 1])
    def swap(array: Any) -> float:
        other = sendrecv(array, 1 - rank())
        other[0] = 7.0
        return float(other[0] + array[0])

    assert swap(np.ones(count)) == [8.0, 8.0]


def test_what_does_not_pickle_cannot_be_sent(device: str) -> None:
    @offload(target=[0, 1])
    def swap() -> object:
        return sendrecv((n for n in range(3)), 1 - rank())

    with pytest.raises(SerializationError, match="generator"):
        swap()


def test_messages_between_two_cores_keep_their_order(device: str) -> None:
    @offload
    def talk(count: int) -> list[int]:
        if coreid() == 0:
            for number in range(count):
                send(number, 1)
            return []
        return [recv(0) for _ in range(count)]

    assert talk(500, target=[0, 1]) == [[], list(range(500))]


def test_probe_tells_whether_a_message_is_there(device: str) -> None:
    @offload
    def look() -> tuple[bool, bool, bool]:
        if coreid() == 0:
            before = probe(1)
            sync()
            sync()
            return before, probe(1), recv(1) == "here" and not probe(1)
        sync()
        send("here", 0)
        sync()
        return False, True, True

    assert look(target=[0, 1]) == [(False, True, True)] * 2


def test_a_core_may_probe_until_a_message_comes(device: str) -> None:
    @offload(target=[0, 1])
    def look() -> Any:
        if coreid():
            return send("here", 0)
        while not probe(1):
            pass
        return recv(1)

    assert look() == ["here", None]


def test_a_probe_for_what_will_never_come_says_so(device: str) -> None:
    """As `recv` does; it may find nothing for a while before that is known."""

    @offload(target=[0, 1])
    def look() -> str:
        if coreid():
            return "ended"
        try:
            while not probe(1):
                pass
        except PeerEnded as error:
            return str(error)
        return "found"

    assert look() == ["core 0 waits for core 1 in vain: its shard has ended", "ended"]


@pytest.mark.parametrize("cores", PLACES)
def test_bcast_gives_the_roots_value_to_all(device: str, cores: list[int]) -> None:
    for root in cores:
        assert spread(root, target=cores) == [{"from": root}] * len(cores)


@pytest.mark.parametrize("cores", PLACES)
def test_reduce_gives_the_same_result_to_all(device: str, cores: list[int]) -> None:
    values = {0: 5, 1: -2, 2: 7, 3: 3}
    mine = [values[core] for core in cores]
    product = 1
    for value in mine:
        product *= value
    for op, expected in [("sum", sum(mine)), ("min", min(mine)), ("max", max(mine)), ("prod", product)]:
        assert collect(op, values, target=cores) == [expected] * len(cores)
    # In core order, which shows where the operation is not commutative.
    letters = {core: "abcd"[core] for core in values}
    word = "".join(letters[core] for core in cores)
    assert collect(operator.add, letters, target=cores) == [word] * len(cores)


def test_reduce_works_on_arrays(device: str) -> None:
    values = {core: np.array([core, -core, 1.0]) for core in range(4)}
    for op, expected in [
        ("sum", [6, -6, 4]),
        ("min", [0, -3, 1]),
        ("max", [3, 0, 1]),
        ("prod", [0, 0, 1]),
    ]:
        for found in collect(op, values):
            assert np.array_equal(found, expected)


def test_collective_calls_do_not_take_messages_of_send(device: str) -> None:
    @offload
    def mixed() -> Any:
        other = 1 - coreid()
        send("mine", other)
        total = reduce(coreid() + 1, "sum")
        sync()
        shared = bcast(coreid(), 1)
        return total, shared, recv(other)

    assert mixed(target=[0, 1]) == [(3, 1, "mine")] * 2


def test_wrong_calls_are_refused(device: str) -> None:
    with pytest.raises(OptionError, match="op='mean' is not one of sum, min, max, prod"):
        collect("mean", dict.fromkeys(range(4), 1))
    with pytest.raises(OptionError, match="core 3 is not in this launch"):
        spread(3, target=[0, 1])

    @offload
    def outside() -> None:
        send(1, 3)

    @offload
    def outside_recv() -> None:
        recv(3)

    for kernel in (outside, outside_recv):
        with pytest.raises(PeerEnded, match="not in th"):
            kernel(target=[0, 1])


def test_waiting_for_a_core_that_has_ended_raises(device: str) -> None:
    @offload
    def deserted() -> Any:
        if coreid() == 0:
            return recv(1)
        return None

    with pytest.raises(PeerEnded, match="ended"):
        deserted(target=[0, 1])
    assert places(target=0)[0][0] == 0


def test_every_call_is_there() -> None:
    names = "coreid numcores rank size ishost isdevice send recv sendrecv probe bcast reduce sync"
    assert all(callable(getattr(calls, name)) for name in names.split())


def test_a_core_that_waits_for_itself_in_vain_is_told(device: str) -> None:
    @offload(target=0)
    def kernel() -> Any:
        send("first", coreid())
        first = recv(coreid())
        try:
            recv(coreid())
        except PeerEnded:
            return first
        return "received what nobody sent"

    assert kernel() == ["first"]


@pytest.mark.parametrize("call", [lambda: bcast(1, 1), lambda: reduce(1, "sum"), sync])
def test_what_all_cores_do_together_does_not_wait_for_one_that_has_ended(
    device: str, call: Callable[[], Any]
) -> None:
    @offload(target=[0, 1])
    def deserted() -> Any:
        return call() if coreid() == 0 else None

    with pytest.raises(PeerEnded, match="core 1"):
        deserted()


class Block:
    """Pickle as arrays do, with a buffer, and know what it was loaded from."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer
        self.loaded_from = type(buffer)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.buffer),)


def test_several_threads_of_a_kernel_may_send(local: str) -> None:
    """Between any two lines that put a message into a ring, another thread has its turn."""

    @offload
    def exchange(threads: int, each: int) -> int:
        import threading
        import time

        def take_turns(frame: Any, event: str, arg: object) -> Any:
            if frame.f_code.co_filename.endswith("ring.py"):
                time.sleep(0)
            return take_turns

        sync()  # threads cannot all wait for the other core to begin
        if coreid() == 1:
            return sum(recv(0) for _ in range(threads * each))
        threading.settrace(take_turns)
        senders = [
            threading.Thread(target=lambda: [send(number, 1) for number in range(each)])
            for _ in range(threads)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        threading.settrace(None)  # type: ignore[arg-type]
        return threads * sum(range(each))

    sent, received = exchange(4, 100)
    assert received == sent


def test_a_second_thread_of_a_kernel_that_would_wait_is_told(local: str, gates: list[Gate]) -> None:
    @offload
    def both(gate: Gate) -> list[str]:
        import threading

        failed: list[str] = []

        def receive() -> None:
            try:
                recv(1)
            except RuntimeError as error:
                failed.append(str(error))
                gate.come()

        sync()
        if coreid() == 1:
            gate.wait()  # until one of the two has failed: nobody makes room on the way here
            send("now the one that waits can go on", 0)
            return []
        thread = threading.Thread(target=receive)
        thread.start()
        try:
            send(bytes(10_000_000), 1)
        except PeerEnded:
            pass
        except RuntimeError as error:
            failed.append(str(error))
            gate.come()
        thread.join()
        return failed

    (told,), nothing = both(gates[0])
    assert "two threads of a kernel on core 0 wait at once" in told
    assert not nothing


def test_a_thread_that_a_kernel_leaves_behind_takes_nothing_of_the_next_one(
    local: str, gates: list[Gate]
) -> None:
    @offload
    def leave_behind(gate: Gate) -> None:
        import threading
        import time

        from device_runtime.context import current

        def wait_for_ever() -> None:
            try:
                recv(1)
            except PeerEnded as error:
                assert "has ended" in str(error)

        sync()
        if coreid() == 0:
            here: Any = current()
            threading.Thread(target=wait_for_ever).start()
            while not here.mesh._waiter.locked():
                time.sleep(0)  # nothing else tells that it waits
        else:
            gate.pass_through()  # its end would end the wait, too

    @offload
    def exchange() -> int:
        return sendrecv(coreid(), 1 - coreid())

    for _ in range(3):
        handle = leave_behind.launch(gates[0])
        gates[0].wait()
        assert handle.wait_any(20) == {0: None}
        gates[0].let_on()
        handle.wait()
        assert coreid_there(timeout=20) == [0, 1]
        assert exchange(timeout=20) == [1, 0]


def test_the_bytes_of_an_array_are_no_part_of_the_pickle(local: str) -> None:
    @offload
    def swap(count: int) -> bool:
        # What a pickle holds itself is loaded as bytes or bytearray.
        return sendrecv(Block(bytearray(count)), 1 - rank()).loaded_from is memoryview

    assert swap(2_000_000) == [True, True]


def test_messages_go_past_the_host(program: Callable[..., Program], tmp_path: Any) -> None:
    """Cores talk while the host is stopped, so nothing of it takes part."""
    gates = {name: Gate.make(tmp_path / name) for name in ("begin", "end")}
    script = f"""
        from offload import offload
        from offload.core import rank, sendrecv, sync

        @offload
        def talk():
            if rank() == 0:
                with open({gates["begin"].here!r}, "w"):
                    pass
                with open({gates["begin"].open!r}) as pipe:
                    pipe.read()
            for number in range(100):
                assert sendrecv(number, 1 - rank()) == number
            sync()
            if rank() == 0:
                with open({gates["end"].here!r}, "w"):
                    pass

        print(talk())
    """
    started = program("script.py", files={"script.py": script})
    gates["begin"].wait()
    started.signal(signal.SIGSTOP)
    gates["begin"].let_on()
    gates["end"].wait()
    started.signal(signal.SIGCONT)
    assert started.end() == (0, "[None, None]\n", "")
