"""The data that a launch consists of on its way: what goes to a unit, and what comes back."""

# Without `from __future__ import annotations`: NamedTuple would compile each of them, half of the import.

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

make = tuple.__new__  # makes a named tuple in half the time: make(Kind, (first, second))


class Stored(Protocol):
    """Bytes in a device's own memory; they are freed with the last reference to this object.

    Where they last as long as anything refers to the view, it says so by `lasting = True`.
    """

    @property
    def view(self) -> memoryview: ...


Buffer = bytes | Stored
# Takes a snapshot of bytes into memory that the device's units can reach.
Place = Callable[[memoryview], Buffer]


class Payload(NamedTuple):
    """A value that is encoded as a pickle (protocol 5) and its out-of-band buffers, in order."""

    data: Buffer
    buffers: tuple[Buffer, ...] = ()


# An encoded value. One that is made of few immutable scalars is *plain*: just its pickle, and whoever loads
# it need take no care.
Encoded = bytes | Payload


def view_of(buffer: Buffer) -> memoryview:
    """Return the buffer's bytes as a flat, read-only or writable, memoryview."""
    return memoryview(buffer) if isinstance(buffer, bytes) else buffer.view


class ShardId(NamedTuple):
    """Name one attempt at one shard; outcomes of earlier attempts are told apart by it."""

    launch: int
    rank: int
    attempt: int = 0


class Image(NamedTuple):
    """A kernel as it travels: the function with the values it captures, as of one launch.

    A unit is sent an image once and then only its number.
    """

    number: int  # unique in the host process
    name: str  # for messages: module.qualname
    module: str  # whose resident names the kernel sees
    data: bytes  # loads to the function
    fresh: bool = False  # load anew for every launch: a run could change what was captured
    resident: frozenset[str] = frozenset()  # resident names the kernel uses
    sources: Mapping[str, list[str]] = {}  # for tracebacks: files cores cannot read
    pure: bool = False  # it has no effect but its value, so that it may be run again


class Blank(NamedTuple):
    """Stand for an array that only comes out: what it holds before does not travel."""

    shape: tuple[int, ...]
    dtype: str

    def made(self, byte: int = 0xFF) -> Any:
        """Return an array of which every byte is this one: ones show where a zero would not."""
        import numpy as np

        array = np.empty(self.shape, self.dtype)
        array.reshape(-1).view(np.uint8)[:] = byte
        return array


class Kept(NamedTuple):
    """Name a part of a buffer that the host keeps: that is what travels in the place of an array."""

    number: int
    start: int  # in bytes
    shape: tuple[int, ...]
    dtype: str


class Dependency(NamedTuple):
    """The value of a handle among the arguments: what its `result()` would give."""

    bare: bool  # one value, not the list of all shards' values
    payloads: tuple[Encoded, ...]


class Plan(NamedTuple):
    """What launches of one kernel on the same cores have in common; a unit is sent it once."""

    number: int  # unique in the host process
    image: Image
    cores: tuple[int, ...]  # the launch's cores, in rank order
    mapped: bool = False  # one call after another
    report_begin: bool = False
    log_level: int = 30


RECENT = 256  # works of which a unit knows whether they have ended well


class Work(NamedTuple):
    """Everything a unit needs to run one shard."""

    shard: ShardId
    plan: Plan
    # Loads to (args, kwargs); for a mapped launch to what all calls begin with, and then a list of
    # what they get for each argument that follows.
    args: Encoded
    dependencies: tuple[Dependency, ...] = ()
    # Launches among the last RECENT that the unit was sent: it runs this one only if they have ended well.
    after: tuple[int, ...] = ()


class PeerNotice(NamedTuple):
    """Tell a shard that waits for `core` that it will never send a message, nor take one."""

    shard: ShardId
    core: int
    why: str


Message = Work | PeerNotice


class Costs(NamedTuple):
    """What a shard has moved to and from a device's own memory, in bytes, and how long that and it ran.

    `loading` is how long it took to load the bitstream, for the first on a unit since then. The last two
    are how long a circuit would have run, and the transfers, where there is a timing model in their place.
    """

    to_device: int
    from_device: int
    transfer: float  # seconds
    compute: float
    loading: float
    predicted: float | None
    predicted_transfer: float | None


class Outcome(NamedTuple):
    """How a shard ended: a value, a kernel's exception (both encoded), or the runtime's own error.

    `begun` and `ended` are in seconds of `time.monotonic`; 0.0 where it never began.
    """

    payload: Encoded | None = None
    failed: bool = False  # the payload loads to an exception
    error: BaseException | None = None  # raised by the runtime; there is no payload then
    begun: float = 0.0
    ended: float = 0.0
    costs: Costs | None = None  # of a device with memory of its own


class Ended(NamedTuple):
    """A shard ended."""

    unit: int
    shard: ShardId
    outcome: Outcome


class Begun(NamedTuple):
    """A shard whose work asked for it begins to run, or would if its unit did not hang.

    It may come twice: as soon as nothing is before it on a unit that is there, and when the unit takes it up.
    """

    unit: int
    shard: ShardId
    at: float


class Lost(NamedTuple):
    """A unit is gone with all it held; the device is already restarting it.

    `begun` is the shard that user code was running, None if there was none.
    `own` is False where the unit was brought down with what it stands on: it
    is then not held against a unit that was idle. `served` is False where it
    could not have taken up a shard yet, which is not to blame then.
    """

    unit: int
    begun: ShardId | None
    why: str
    exit_code: int | None
    output: str
    own: bool = True
    served: bool = True


class Ready(NamedTuple):
    """A lost unit is back, without its resident data."""

    unit: int


class Gone(NamedTuple):
    """A unit will not come back."""

    unit: int
    why: str


class Unloaded(NamedTuple):
    """The device has left its card, as it was told."""


class Printed(NamedTuple):
    """Text that a unit wrote to "stdout" or "stderr"."""

    unit: int
    stream: str
    text: str


class Logged(NamedTuple):
    """A log record of a kernel, as the mapping that `logging.makeLogRecord` takes.

    What a payload in it stands for is put in its place when the record is shown.
    """

    unit: int
    record: Mapping[str, object]


class Waiting(NamedTuple):
    """A shard has been waiting for `core` for a while: for a message, or for room to send one."""

    unit: int
    shard: ShardId
    core: int


Event = Ended | Begun | Lost | Ready | Gone | Unloaded | Printed | Logged | Waiting
