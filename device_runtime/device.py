"""What a device is to the floors above: six verbs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from device_runtime.errors import DeviceMemoryError
from device_runtime.launch import Buffer, Encoded, Ended, Event, Message, Outcome, Plan, ShardId

if TYPE_CHECKING:
    from device_runtime.claims import Claim
    from device_runtime.fpga.bitstream import Bitstream


class MemoryFull(DeviceMemoryError):
    """Say that a device's memory is taken by launches under way, and will be free when they have ended."""


class Device(ABC):
    """Own compute units and memory, and run shards on them.

    The dispatcher calls every method but `place`, one at a time; `place` is
    called by whichever thread makes a launch. `send` never waits. Units run
    what they are sent one shard at a time, in the order sent. Every shard that
    was sent ends in one `Ended`, or in the `Lost` of its unit.

    `depth` is how many shards a unit may hold at once; `memory` is how many
    bytes of their own the units have, None where they share the host's.
    `losses` counts how often that memory, and what was in it, was lost.
    `names` are other names of the units, `batches` each one's share of a data
    set where somebody has said it, and `bitstream` is what is loaded on an FPGA.
    """

    address: str
    depth: int = 1
    memory: int | None = None
    losses: int = 0
    names: Mapping[str, int] = MappingProxyType({})
    batches: tuple[int, ...] | None = None
    bitstream: Bitstream | None = None

    @abstractmethod
    def open(self) -> int:
        """Start the device and return its number of units; they are numbered from 0.

        Raises DeviceUnavailable, saying what to do.
        """

    @abstractmethod
    def send(self, unit: int, messages: Sequence[Message]) -> Sequence[Ended] | None:
        """Hand messages to a unit, in order; return the ends of shards that cannot be sent, if any."""

    @abstractmethod
    def fileno(self) -> int:
        """Return a file descriptor that is readable while events may be waiting."""

    @abstractmethod
    def receive(self) -> list[Event]:
        """Return the events that are there now, oldest first; do not wait for one."""

    def ends(self) -> list[Event]:
        """Return what of `receive` can be had at once, while another thread waits at `fileno`."""
        return []

    @abstractmethod
    def kill(self, unit: int, shard: ShardId) -> None:
        """End a shard by force, and its unit with it; the unit's `Lost` follows.

        The shard is the first of those sent to the unit whose `Ended` was not
        handled yet. Should it have ended, the unit lives on, so that a shard
        behind it is not hit, and `Ready` follows; as where nothing can be ended.
        """

    def changed(self) -> bool:
        """Tell whether its address stands for something else now than when it was opened.

        Raises what `open` raises for an address that cannot be meant any more.
        """
        return False

    @abstractmethod
    def close(self) -> Sequence[Event] | None:
        """Stop the units and give back everything; nothing is left behind.

        Return what the units have said before and nobody has received, if anything: what they have printed
        and logged is then shown.
        """

    def place(self, view: memoryview) -> Buffer:
        """Copy bytes to where the units can read them; the copy is read-only to all.

        Raises DeviceMemoryError; MemoryFull if there will be room later.
        """
        return bytes(view)


class SharedDevice(Device):
    """A device that may share a card with others, of which one at a time is loaded.

    `card` is the card's name, empty where it shares none. Before `open`,
    `claim` may be set to what holds the card, else `open` claims it, and
    `loaded` to False if another device may have it; then it has to be told to
    `load`. The dispatcher calls these two, and `send` and `kill` in between only.
    """

    card: str = ""
    claim: Claim | None = None
    loaded: bool = True

    @property
    @abstractmethod
    def patience(self) -> float:
        """Seconds to wait for the card, if another program has it."""

    @abstractmethod
    def load(self) -> None:
        """Have the card; the units can be sent shards at once."""

    @abstractmethod
    def unload(self) -> None:
        """Leave the card to another device; `Unloaded` follows. The units hold nothing."""


class DirectDevice(Device):
    """A device that a thread can hand a launch to, and take the outcomes from, all by itself.

    The dispatcher calls `post` while no unit holds anything, then `look`, and
    `collect` if that has paid; if not, it sleeps until the device has something to
    report, as long as `rest` says so, and looks again. Where `collect` gives nothing, or is not called,
    the launch is an ordinary one from then on: its ends come as events.
    """

    @abstractmethod
    def post(self, plan: Plan, launch: int, args: Encoded) -> bool:
        """Send the first attempts at all shards of a launch; return False if that cannot be done."""

    @abstractmethod
    def look(self, plan: Plan) -> bool:
        """Look for a short while whether all shards have ended; called with no lock held."""

    @abstractmethod
    def rest(self, plan: Plan) -> bool:
        """Tell whether to sleep until the device has something to report.

        False where all shards have ended, or something else has happened.
        """

    @abstractmethod
    def collect(self, plan: Plan) -> Sequence[bytes | Outcome] | None:
        """Return the outcomes, by rank; None, with nothing done, if anything else has happened, too.

        A value that is plain is returned as its pickle.
        """


class ImmediateDevice(Device):
    """Run kernels in the thread that makes the launch, before the call that makes it returns.

    `running` is kept by the dispatcher: it lets one thread run at a time.
    """

    running: bool = False

    @abstractmethod
    def pending(self, launch: int) -> int:
        """Return how many shards of a launch were sent and neither run nor dropped."""

    @abstractmethod
    def run(self, launch: int) -> None:
        """Run the shards of a launch, all of which were sent, in this thread; called with no lock held.

        Raises the KeyboardInterrupt that struck in one of them, when all have ended.
        """

    @abstractmethod
    def drop(self, launch: int) -> None:
        """End the shards of a launch that nobody will run, as cancelled."""
