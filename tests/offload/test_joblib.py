"""joblib runs on our cores by the name of our backend."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from gates import Gate
from programs import Program, children

joblib = pytest.importorskip("joblib", reason="needs the extra joblib")

from joblib import Parallel, delayed, effective_n_jobs, parallel_config  # noqa: E402

import offload  # noqa: E402
from device_runtime.errors import RemoteTraceback, WorkerDied  # noqa: E402

offload.register_joblib()


def square(number: int) -> int:
    return number * number


def process(_: object) -> int:
    return os.getpid()


def fail_at(number: int, bad: int) -> int:
    if number == bad:
        raise LookupError(f"no {number}")
    return number


def inner_sum(number: int) -> int:
    return sum(Parallel(n_jobs=2)(delayed(square)(i) for i in range(number)))


@pytest.fixture(scope="class")
def on_cores() -> Iterator[None]:
    with parallel_config("offload", n_jobs=2):
        yield


@pytest.mark.usefixtures("on_cores")
class TestCalls:
    def test_values_in_order(self) -> None:
        assert Parallel(n_jobs=2)(delayed(square)(i) for i in range(10)) == [i * i for i in range(10)]

    def test_run_in_other_processes_which_stay(self) -> None:
        first = set(Parallel()(delayed(process)(i) for i in range(8)))
        second = set(Parallel()(delayed(process)(i) for i in range(8)))
        assert os.getpid() not in first | second
        assert len(first | second) <= 2

    @pytest.mark.parametrize("batch_size", [1, 7, "auto"])
    def test_batches_change_nothing(self, batch_size: object) -> None:
        found = Parallel(batch_size=batch_size)(delayed(square)(i) for i in range(300))
        assert found == [i * i for i in range(300)]

    def test_closures_and_arrays(self) -> None:
        factor, arrays = 3, [np.full(20_000, float(i)) for i in range(6)]
        found = Parallel()(delayed(lambda a: factor * a)(array) for array in arrays)
        for value, array in zip(found, arrays, strict=True):
            np.testing.assert_array_equal(value, 3 * array)

    def test_streams(self) -> None:
        found = Parallel(return_as="generator")(delayed(square)(i) for i in range(50))
        assert list(found) == [i * i for i in range(50)]

    def test_exceptions(self) -> None:
        with pytest.raises(LookupError, match="no 5") as raised:
            Parallel()(delayed(fail_at)(i, 5) for i in range(100))
        assert isinstance(raised.value.__cause__, RemoteTraceback)
        assert Parallel()(delayed(square)(i) for i in range(4)) == [0, 1, 4, 9]

    def test_a_crash_is_reported_and_survived(self) -> None:
        with pytest.raises(WorkerDied):
            Parallel()(delayed(os._exit)(3) for _ in range(1))
        assert Parallel()(delayed(square)(i) for i in range(4)) == [0, 1, 4, 9]

    def test_timeout_ends_what_runs(self, gate: Gate) -> None:
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(timeout=0.05)(delayed(gate.stay)() for _ in range(2))
        assert Parallel()(delayed(square)(i) for i in range(4)) == [0, 1, 4, 9]

    def test_unpicklable_arguments(self) -> None:
        with pytest.raises(TypeError, match="generator"):
            Parallel()(delayed(list)(i for i in range(n)) for n in range(3))

    def test_nested_parallel_runs_within_the_core(self) -> None:
        found = Parallel()(delayed(inner_sum)(n) for n in range(6))
        assert found == [sum(i * i for i in range(n)) for n in range(6)]

    def test_nested_by_name_runs_within_the_core(self) -> None:
        def outer(number: int) -> list[int]:
            with parallel_config("offload", n_jobs=2):
                return list(Parallel()(delayed(process)(i) for i in range(number)))

        found = Parallel()(delayed(outer)(3) for _ in range(2))
        assert all(len(set(processes)) == 1 and os.getpid() not in processes for processes in found)

    def test_shared_memory_is_left_to_threads(self) -> None:
        seen: list[int] = []
        Parallel(require="sharedmem")(delayed(seen.append)(i) for i in range(5))
        assert sorted(seen) == list(range(5))


class TestHowMany:
    def test_as_asked_for(self) -> None:
        cpus = joblib.cpu_count()
        with parallel_config("offload"):
            assert effective_n_jobs(3) == 3
            assert effective_n_jobs(-1) == cpus
            assert effective_n_jobs(-2) == max(cpus - 1, 1)
            with pytest.raises(ValueError, match="n_jobs"):
                effective_n_jobs(0)
        with parallel_config("offload", device="local:3"):
            assert effective_n_jobs(-1) == 3
            assert effective_n_jobs(2) == 2
            assert effective_n_jobs(8) == 3

    def test_unknown_settings_are_refused(self) -> None:
        with pytest.raises(TypeError, match="devise"):
            parallel_config("offload", devise="local:2")

    def test_all_of_them_by_default(self) -> None:
        with parallel_config("offload", device="local:2"):
            assert effective_n_jobs(Parallel().n_jobs) == 2
            assert Parallel()(delayed(square)(i) for i in range(4)) == [0, 1, 4, 9]

    def test_one_and_inline_run_in_the_caller(self) -> None:
        for options in ({"n_jobs": 1}, {"device": "inline:4"}):
            with parallel_config("offload", **options):
                assert set(Parallel()(delayed(process)(i) for i in range(3))) == {os.getpid()}


def test_cores_go_when_the_configuration_does() -> None:
    before = children()
    with parallel_config("offload", n_jobs=2):
        Parallel()(delayed(square)(i) for i in range(4))
        started = children() - before
        assert started
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "offload-executor-shutdown":
            thread.join()
    assert not started & children()


def test_backend_travels_without_its_cores() -> None:
    with parallel_config("offload", n_jobs=2) as config:
        Parallel()(delayed(square)(i) for i in range(4))
        assert pickle.loads(pickle.dumps(config["backend"])).effective_n_jobs(2) == 2


@pytest.mark.parametrize(
    "order",
    ["import joblib, offload", "import offload, joblib; offload.register_joblib()"],
)
def test_in_a_program(program: Callable[..., Program], order: str) -> None:
    ended = program(
        "-c",
        f"{order}\n"
        "def cube(x): return x ** 3\n"
        "with joblib.parallel_config('offload', n_jobs=2):\n"
        "    print(joblib.Parallel()(joblib.delayed(cube)(i) for i in range(5)))\n",
    ).end()
    assert (ended.code, ended.out, ended.err) == (0, "[0, 1, 8, 27, 64]\n", "")
