"""Kernels pickle as functions do: by name."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from programs import Program

from offload import Kernel, offload, offload_single

pytestmark = pytest.mark.parametrize("protocol", [4, 5])


@offload(auto=1)
def double(x: int) -> int:
    return 2 * x


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @offload
    def times(self, x: int) -> int:
        return self.factor * x

    @offload_single
    @classmethod
    def made(cls, factor: int) -> Scale:
        return cls(factor)

    @offload
    @staticmethod
    def plain(x: int) -> int:
        return x


def again(value: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


def test_a_kernel_of_a_module_is_the_same_one_again(protocol: int) -> None:
    for kernel in (double, Scale.times, Scale.plain):
        assert again(kernel, protocol) is kernel
    assert again({"call": double}, protocol) == {"call": double}
    assert copy.copy(double) is double and copy.deepcopy(double) is double


def test_other_options_and_instances_go_along(protocol: int) -> None:
    other = again(double.options(timeout=3), protocol)
    assert type(other) is Kernel and repr(other) == repr(double.options(timeout=3))
    assert other.fn is double.fn
    bound = again(Scale(3).times, protocol)
    assert bound.fn(4) == 12 and bound.fn.__func__ is Scale.times.fn
    made = again(Scale.made, protocol)
    assert type(made) is type(Scale.made) and made.fn(7).factor == 7


def test_a_kernel_under_another_name_than_its_function(protocol: int) -> None:
    kernel = offload(again)
    assert again(kernel, protocol).fn is again


def test_one_that_has_no_name_does_not_pickle(protocol: int) -> None:
    @offload
    def nested() -> None: ...

    with pytest.raises((pickle.PicklingError, AttributeError), match="nested"):
        pickle.dumps(nested, protocol)


def test_a_scripts_kernel(program: Callable[..., Program], protocol: int) -> None:
    """By name for pickle; for cloudpickle, as any function of a script, with all that it uses."""
    script = f"""
        import pickle, cloudpickle
        from offload import offload

        scale = 3

        @offload
        def factorial(n):
            return scale if n == 0 else n * factorial.fn(n - 1)

        assert pickle.loads(pickle.dumps(factorial, {protocol})) is factorial
        with open("../kernels", "wb") as file:
            cloudpickle.dump([factorial, factorial.options(target=1)], file, {protocol})
    """
    written = program("script.py", files={"script.py": script}).end()
    assert (written.code, written.err) == (0, "")
    loaded = program(
        "-c", "import pickle; a, b = pickle.load(open('../kernels', 'rb')); print(a(4), b(4))"
    ).end()
    assert (loaded.code, loaded.out) == (0, "[72, 72] [72]\n")
