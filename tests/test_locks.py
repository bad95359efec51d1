"""The host's side has one lock: the dispatcher's guard."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = {
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "Semaphore",
    "Guard",
    "ShieldedLock",
    "allocate_lock",
}


def made(module: Path) -> list[str]:
    """Return the locks that a module makes, by their classes' names."""
    calls = [node.func for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
    names = [call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls]
    return [name for name in names if name in LOCKS]


def test_there_is_one_lock() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): made(path)
        for floor in ("offload", "scheduler", "device_runtime")
        for path in ROOT.joinpath(floor).rglob("*.py")
        if made(path)
    }
    assert found == {
        "scheduler/dispatcher.py": ["Guard"],
        "device_runtime/process/arena.py": ["Guard"],  # around single additions; nothing is called inside
        "device_runtime/interrupts.py": ["Lock", "Lock"],  # what a Guard and a ShieldedLock are made of
        "scheduler/pump.py": ["Lock"],  # on which one thread sleeps; it guards nothing
        "device_runtime/inline.py": ["Lock"],  # the same, for kernels that take turns
        "offload/future.py": [
            "Condition",
            "ShieldedLock",
        ],  # each future's own; the standard library locks it
        # Fences: taken and released at once, for the order of stores in memory.
        "device_runtime/process/channel.py": ["Lock"],
        "device_runtime/process/lines.py": ["Lock"],
        "device_runtime/process/worker.py": ["Lock"],  # the core's: who has it sends, nobody waits for it
        "offload/session.py": ["Lock"],  # by which threads wait for the one that opens a device
        "offload/submissions.py": ["Event"],  # by which a thread waits for the end of another
    }
