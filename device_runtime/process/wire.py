"""What host and core say to each other, record by record.

Works and outcomes have forms of their own, a fixed head and a pickle; what
else there is to say is a pickled tuple that begins with a word. A record too
large for the channel is put in a block, and its place is sent.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any

from device_runtime.errors import DeviceMemoryError
from device_runtime.launch import (
    Buffer,
    Costs,
    Dependency,
    Encoded,
    Image,
    Outcome,
    Payload,
    Plan,
    ShardId,
    Work,
    make,
)
from device_runtime.process.arena import Arena, Block, on_wire
from device_runtime.process.channel import LARGEST
from device_runtime.process.reader import Reader, Viewed

WORK, WORKS, ENDED, LARGE = b"WBEL"  # first bytes of records; a pickle begins with another
# What the flags of works and outcomes say.
PLAIN = 1  # the rest loads to scalars
MORE = 2  # the rest is a pickle of the payload's description and of what else there is to say
FAILED = 4  # the payload is an exception
COSTED = 8  # what the shard has cost follows the head

WORK_HEAD = struct.Struct("<BBHIQ")  # first byte, flags, attempt, plan, launch
WORKS_HEAD = struct.Struct("<BxHIQ")  # first byte, how many, plan, first launch; sizes and arguments follow
ENDED_HEAD = struct.Struct("<BBxxxxxxdd")  # first byte, flags, begun, ended
_COSTS = struct.Struct("<QQddddd")  # as `Costs` has them, NaN for None
# The first words of a first attempt with plain arguments, but for its plan, and of an end with a plain value.
PLAIN_WORK, PLAIN_END = WORK | PLAIN << 8, ENDED | PLAIN << 8
_SHORT = LARGEST - 10_000  # bytes of arguments with which a work is no large record, whatever else it tells
_LARGE = struct.Struct("<BxxxxxxxQQ")  # first byte, offset and size of the block


Entry = tuple[Any, ...]


def pack(entry: Entry) -> bytes:
    """Return the record of an entry that is neither a work nor an outcome."""
    return pickle.dumps(entry, 5)


def fit(record: bytes, arena: Arena) -> tuple[bytes, Block | None]:
    """Return the record to be sent, and the block to be kept until the other side has returned it."""
    if len(record) <= LARGEST:
        return record, None
    block = arena.store(memoryview(record))
    return _LARGE.pack(LARGE, block.offset, block.nbytes), block


def unfit(record: bytes, reader: Reader) -> bytes:
    """Return the record that was put in a block, or is here."""
    if record[0] != LARGE:
        return record
    _, offset, nbytes = _LARGE.unpack(record)
    return reader.copy(offset, nbytes)


def payload_out(payload: Encoded, reach: Callable[[Buffer], Buffer]) -> Entry:
    """Describe an encoded value; `reach` gives a buffer that the other side can read."""
    if type(payload) is bytes:
        return payload, ()
    assert type(payload) is Payload
    return on_wire(reach(payload.data)), tuple([on_wire(reach(buffer)) for buffer in payload.buffers])


def payload_in(entry: Entry, reader: Reader) -> Payload:
    """Rebuild a payload; its buffers are views of the other side's memory."""
    data, buffers = entry
    return Payload(
        reader.copy(*data) if isinstance(data, tuple) else data,
        tuple([Viewed(reader.view(*b)) if isinstance(b, tuple) else b for b in buffers]),
    )


def image_out(image: Image) -> Entry:
    """Describe an image; it is sent before the first plan that needs it."""
    return (
        "image",
        image.number,
        image.name,
        image.module,
        image.data,
        image.fresh,
        image.resident,
        dict(image.sources),
        image.pure,
    )


def plan_out(plan: Plan) -> Entry:
    """Describe a plan; it is sent before the first work that needs it."""
    return "plan", plan.number, plan.image.number, plan.cores, plan.mapped, plan.report_begin, plan.log_level


def work_out(work: Work, reach: Callable[[Buffer], Buffer], returned: Sequence[int]) -> bytes:
    """Return the record of a work; `returned` are offsets of blocks no longer looked at."""
    args, shard = work.args, work.shard
    flags, data = _in_one(args)
    if data is not None and not (work.dependencies or work.after or returned):
        return WORK_HEAD.pack(WORK, flags, shard.attempt, work.plan.number, shard.launch) + data
    needs = [(need.bare, [payload_out(p, reach) for p in need.payloads]) for need in work.dependencies]
    more = pickle.dumps((payload_out(args, reach), needs, returned, work.after), 5)
    return WORK_HEAD.pack(WORK, MORE, shard.attempt, work.plan.number, shard.launch) + more


def _in_one(value: Encoded) -> tuple[int, bytes | None]:
    """Return the flags and the bytes that say all of an encoded value; no bytes if there is more to say."""
    if type(value) is bytes:
        return PLAIN, value
    assert type(value) is Payload
    data = value.data
    return 0, None if value.buffers or not isinstance(data, bytes) else data


def plain_record(shard: ShardId, plan: int, args: bytes) -> bytes:
    """Return the record of a work with plain arguments, if there is nothing more to tell."""
    return WORK_HEAD.pack(WORK, PLAIN, shard.attempt, plan, shard.launch) + args


def works_record(first: int, plan: int, args: Sequence[bytes]) -> bytes:
    """Return the record of several such works, first attempts of launches numbered in a row."""
    sizes = struct.pack(f"<{len(args)}H", *map(len, args))
    return b"".join((WORKS_HEAD.pack(WORKS, len(args), plan, first), sizes, *args))


def works_in(record: bytes) -> tuple[int, int, list[bytes]]:
    """Return the first launch, the plan, and the arguments of each, of such a record."""
    _, count, plan, first = WORKS_HEAD.unpack_from(record)
    place, args = WORKS_HEAD.size + 2 * count, []
    for size in struct.unpack_from(f"<{count}H", record, WORKS_HEAD.size):
        args.append(record[place : place + size])
        place += size
    return first, plan, args


def is_short(args: Encoded) -> bool:
    """Tell whether a work with these arguments surely fits the channel."""
    if type(args) is bytes:
        return len(args) <= _SHORT
    assert type(args) is Payload
    parts = (args.data, *args.buffers)
    return sum([len(part) + 64 if isinstance(part, bytes) else 64 for part in parts]) <= _SHORT


def short_work(plan: Plan, launch: int, args: Encoded) -> bytes | None:
    """Return the record of the first attempt at any shard of a launch; None if there is more to tell."""
    flags, data = _in_one(args)
    if data is None or len(data) > _SHORT:
        return None
    return WORK_HEAD.pack(WORK, flags, 0, plan.number, launch) + data


def more_of_work(
    record: bytes,
) -> tuple[Entry, list[tuple[bool, list[Entry]]], Sequence[int], tuple[int, ...]]:
    """Return what a work flagged MORE tells.

    That is descriptions of arguments and dependencies, returned offsets, and the launches it comes after.
    """
    args, needs, returned, after = pickle.loads(memoryview(record)[WORK_HEAD.size :])
    return args, needs, returned, after


def dependency_in(need: tuple[bool, list[Entry]], reader: Reader) -> Dependency:
    """Rebuild the value of a handle among the arguments."""
    bare, payloads = need
    return Dependency(bare, tuple([payload_in(payload, reader) for payload in payloads]))


def outcome_out(outcome: Outcome, reach: Callable[[Buffer], Buffer], returned: Sequence[int]) -> bytes:
    """Return the record of an outcome, which has a payload."""
    payload = outcome.payload
    assert payload is not None
    flags, data = _in_one(payload)
    if data is None or returned:
        flags, data = MORE, pickle.dumps((payload_out(payload, reach), returned), 5)
    if outcome.failed:
        flags |= FAILED
    if outcome.costs is not None:
        flags |= COSTED
        data = _COSTS.pack(*[math.nan if one is None else one for one in outcome.costs]) + data
    return ENDED_HEAD.pack(ENDED, flags, outcome.begun, outcome.ended) + data


def duration(record: bytes) -> float:
    """Return for how many seconds a shard ran, given the record of its end."""
    _, _, begun, ended = ENDED_HEAD.unpack_from(record)
    return float(ended - begun)


def outcome_in(record: bytes, reader: Reader, unit: int) -> tuple[Outcome, Sequence[int]]:
    """Rebuild an outcome; return also the offsets that were returned with it."""
    _, flags, begun, ended = ENDED_HEAD.unpack_from(record)
    costs, place = None, ENDED_HEAD.size
    if flags & COSTED:
        told = [None if one != one else one for one in _COSTS.unpack_from(record, place)]
        costs, place = make(Costs, told), place + _COSTS.size
    rest, failed = record[place:], bool(flags & FAILED)
    if not flags & MORE:
        return make(
            Outcome, (rest if flags & PLAIN else Payload(rest), failed, None, begun, ended, costs)
        ), ()
    returned: Sequence[int] = ()
    try:
        described, returned = pickle.loads(rest)
        return Outcome(payload_in(described, reader), failed, None, begun, ended, costs), returned
    except (DeviceMemoryError, MemoryError) as error:
        lost = DeviceMemoryError(f"the value of core {unit}: {error}")
        return Outcome(error=lost, begun=begun, ended=ended), returned
