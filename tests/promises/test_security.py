"""What host and cores share cannot be reached by other users, nor changed by other cores."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import Program, descriptors

import offload as of
from offload import offload
from offload.core import coreid

SCRIPT = """
    import os
    {first}
    import numpy as np
    import offload as of
    from offload import offload

    table = None

    @offload
    def total(array):
        return float(array.sum() + table.sum())

    of.define_on_device(table=np.ones(300_000))
    print(total(np.ones(300_000)), flush=True)
    input()
"""


def unix_sockets() -> dict[str, str]:
    """Return the names of sockets by their number; "" for those without one."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {fields[6]: " ".join(fields[7:]) for fields in map(str.split, lines)}


def mapped(process: int) -> list[str]:
    """Return the names of the files that a process has mapped."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    return [fields[5] for fields in (line.split(maxsplit=5) for line in lines) if len(fields) > 5]


@pytest.mark.parametrize("umask", ["", "os.umask(0)"], ids=["umask of the user's", "umask 000"])
def test_nothing_has_a_name(program: Callable[..., Program], umask: str) -> None:
    script = program("script.py", files={"script.py": SCRIPT.format(first=umask)})
    assert script.line() == "[600000.0, 600000.0]"
    processes = script.processes()
    assert len(processes) == 4  # host, zygote and cores
    sockets, seen = unix_sockets(), set()
    for process in processes:
        for target in descriptors(process).values():
            kind = target.partition(":")[0]
            seen.add(kind)
            if kind == "socket":
                assert sockets[target[8:-1]] == "", "a socket has a name"
            elif target.startswith("/memfd:"):
                assert target.endswith(" (deleted)")
            else:
                assert kind in ("pipe", "anon_inode") or target == "/dev/null"
        assert not [name for name in mapped(process) if name.startswith("/dev/")]
    assert {"socket", "pipe", "/memfd"} <= seen
    assert not script.temporary_files()
    assert script.end("\n").code == 0


def test_a_core_cannot_change_what_another_one_was_sent() -> None:
    @offload
    def scribble(array: Any) -> float:
        if coreid() == 0:
            ctypes.memset(array.ctypes.data, 0, array.nbytes)
        return float(array.sum())

    with of.connect("local:2"):
        array = np.ones(300_000)
        launch = scribble.launch(array)
        with pytest.raises(of.WorkerDied, match="SIGSEGV"):
            launch.wait()
        assert scribble(array, target=1) == [300_000.0]
        assert array.sum() == 300_000


def test_a_core_is_given_no_way_to_write_to_what_others_were_sent() -> None:
    def place_of(text: bytes, descriptor: int) -> int | None:
        """Return where a file in memory has a page that begins with a text."""
        place = 0
        try:
            while True:
                place = os.lseek(descriptor, place, os.SEEK_DATA)
                if os.pread(descriptor, len(text), place) == text:
                    return place
                place += 4096
        except OSError:  # there is no more data
            return None

    @offload
    def scribble(array: Any) -> set[str]:
        told = set()
        for name in os.listdir("/proc/self/fd"):
            if "memfd:" in os.path.realpath(f"/proc/self/fd/{name}"):
                place = place_of(array[:16].tobytes(), int(name))
                try:
                    if place is not None:
                        os.pwrite(int(name), bytes(array.nbytes), place)
                        told.add("written")
                except OSError as error:
                    told.add(error.strerror)
        return told

    with of.connect("local:2"):
        array = np.frombuffer(b"not to be changed" * 10_000, np.uint8)
        assert scribble(array) == [{"Bad file descriptor"}] * 2


def test_no_configuration_is_read_from_the_current_folder(program: Callable[..., Program]) -> None:
    setting = 'device = "inline:7"\n'
    files = {
        name: setting for name in ("offload.toml", "config.toml", "offload/config.toml", ".offload.toml")
    }
    files["pyproject.toml"] = f"[tool.offload]\n{setting}"
    files["setup.cfg"] = f"[offload]\n{setting}"
    files["scripts/script.py"] = "import offload as of; print(of.connect().device)"
    assert program("scripts/script.py", files=files).end() == (0, "local:2\n", "")
