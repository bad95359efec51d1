"""Libraries that have threads of their own use a core's share of the CPUs, or what the user has said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from programs import Program

from device_runtime.process.cpus import available

SCRIPT = """
{before}
from offload import offload
@offload
def threads():
    import numpy, threadpoolctl
    numpy.ones((4, 4)) @ numpy.ones((4, 4))
    return [each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]
print(threads())
"""
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


# NumPy comes to a core from the process that it was forked from, or is loaded by its kernel.
@pytest.mark.parametrize("before", ["import numpy", ""], ids=["preloaded", "loaded late"])
@pytest.mark.parametrize("cores", [1, 2])
def test_a_core_uses_its_share(program: Callable[..., Program], before: str, cores: int) -> None:
    ended = program("-c", SCRIPT.format(before=before), device=f"local:{cores}").end()
    share = max(1, available() // cores)
    assert (ended.out, ended.err) == (f"{[[share]] * cores}\n", "")


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_what_the_user_has_set_wins(program: Callable[..., Program], variable: str) -> None:
    told = 1 if available() >= 4 else available()  # not the share, and no more than OpenBLAS takes
    ended = program("-c", SCRIPT.format(before=""), device="local:2", **{variable: str(told)}).end()
    assert (ended.out, ended.err) == (f"{[[told]] * 2}\n", "")
