"""What host and core say to each other, as frames on a socket that keeps their bounds.

A frame is a pickle of `(entries, returned)`: tuples that begin with a word,
and the offsets of the receiver's blocks that the sender no longer looks at. A
frame too large for the socket is put in a block, and a pickle of its offset
and size is sent in its place.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any

from device_runtime.launch import Buffer, Dependency, Image, Payload, ShardId, Work
from device_runtime.process.arena import Arena, Block, on_wire
from device_runtime.process.reader import Reader, Viewed

LARGEST = 32768  # bytes of a frame on the socket
RECEIVE = LARGEST + 4096

Entry = tuple[Any, ...]


def pack(entries: list[Entry], returned: list[int], arena: Arena) -> tuple[bytes, Block | None]:
    """Return the frame to be sent, and the block to be kept until the other side has returned it."""
    frame = pickle.dumps((entries, returned), 5)
    if len(frame) <= LARGEST:
        return frame, None
    block = arena.store(memoryview(frame))
    return pickle.dumps((block.offset, block.nbytes, None), 5), block


def unpack(frame: bytes, reader: Reader) -> tuple[list[Entry], list[int]]:
    """Return the entries of a frame, and the returned offsets."""
    content = pickle.loads(frame)
    if len(content) == 3:
        content = pickle.loads(reader.copy(content[0], content[1]))
    entries: list[Entry]
    returned: list[int]
    entries, returned = content
    return entries, returned


def payload_out(payload: Payload, reach: Callable[[Buffer], Buffer]) -> Entry:
    """Describe a payload; `reach` gives a buffer that the other side can read."""
    return on_wire(reach(payload.data)), tuple(on_wire(reach(buffer)) for buffer in payload.buffers)


def payload_in(entry: Entry, reader: Reader) -> Payload:
    """Rebuild a payload; its buffers are views of the other side's memory."""
    data, buffers = entry
    return Payload(
        reader.copy(*data) if isinstance(data, tuple) else data,
        tuple(Viewed(reader.view(*b)) if isinstance(b, tuple) else b for b in buffers),
    )


def image_out(image: Image) -> Entry:
    """Describe an image; it is sent before the first work that needs it."""
    return (
        "image",
        image.number,
        image.name,
        image.module,
        image.data,
        image.fresh,
        image.resident,
        dict(image.sources),
    )


def work_out(work: Work, reach: Callable[[Buffer], Buffer]) -> Entry:
    """Describe a work, but for its image."""
    return (
        "work",
        tuple(work.shard),
        work.image.number,
        payload_out(work.args, reach),
        work.cores,
        [(need.bare, [payload_out(p, reach) for p in need.payloads]) for need in work.dependencies],
        work.mapped,
        work.report_begin,
        work.log_level,
    )


def work_in(entry: Entry, image: Image, reader: Reader) -> Work:
    """Rebuild a work."""
    _, shard, _, args, cores, needs, mapped, report_begin, log_level = entry
    return Work(
        ShardId(*shard),
        image,
        payload_in(args, reader),
        cores,
        tuple(_dependency_in(bare, payloads, reader) for bare, payloads in needs),
        mapped,
        report_begin,
        log_level,
    )


def _dependency_in(bare: bool, payloads: Iterable[Entry], reader: Reader) -> Dependency:
    return Dependency(bare, tuple(payload_in(payload, reader) for payload in payloads))
