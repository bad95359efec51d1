"""A second Python process, as fresh as a core is: what travels is loaded and run there."""

from __future__ import annotations

import importlib
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_runtime import codec
from device_runtime.errors import ResultNotSerializable
from device_runtime.launch import Image

_LOOP = """
import pickle, struct, sys
from device_runtime import capture, codec
from device_runtime.errors import ResultNotSerializable
while True:
    try:
        sys.path[:], image, args = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    try:
        function = capture.load_image(image)
        args, kwargs = codec.decode(args)
        reply = True, codec.encode(function(*args, **kwargs), bytes, error=ResultNotSerializable)
    except BaseException as error:
        reply = False, codec.encode_error(error, bytes)
    data = pickle.dumps(reply)
    sys.stdout.buffer.write(struct.pack("q", len(data)) + data)
    sys.stdout.buffer.flush()
"""


class Far:
    """Run images in the other process; raise there what the kernel raised."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={"PYTHONPATH": str(Path(codec.__file__).parent.parent)},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._write, self._read = self._process.stdin, self._process.stdout

    def run(self, image: Image, *args: Any, **kwargs: Any) -> Any:
        payload = codec.encode((args, kwargs), bytes)
        pickle.dump((sys.path, image.data, payload), self._write)
        self._write.flush()
        (size,) = struct.unpack("q", self._read.read(8))
        good, reply = pickle.loads(self._read.read(size))
        if not good:
            raise codec.decode_error(reply)
        return codec.decode(reply, writable=True, error=ResultNotSerializable)

    def close(self) -> None:
        self._write.close()
        self._process.wait()
        self._read.close()


@pytest.fixture
def far() -> Iterator[Far]:
    core = Far()
    yield core
    core.close()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Make modules in a folder that is on the path, as if they lay next to the script."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def make(name: str, source: str) -> Any:
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        made.append(name)
        return importlib.import_module(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)
