"""Be a user's script in small: start a system, print the value of one call, and stay until the input ends.

    python -m benchmarks.program SYSTEM KERNEL

KERNEL is `pure` or `numpy`.
"""

from __future__ import annotations

import sys

from benchmarks.systems import Function, Offload, System


def main() -> None:
    """Run the script."""
    _, name, kernel = sys.argv
    with _system(name) as system:
        print(system.blocking(_kernel(kernel))(1000), flush=True)
        sys.stdin.read()


def _kernel(name: str) -> Function:
    if name == "numpy":
        from benchmarks.array_kernels import numpy_total

        return numpy_total
    from benchmarks.kernels import echo

    return echo


def _system(name: str) -> System:
    if name == "offload":
        return Offload(2)
    from benchmarks.peers import PEERS

    return PEERS[name](2)


if __name__ == "__main__":
    main()
