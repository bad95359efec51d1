"""What the scheduler's state machine is told, and what it decides.

A pool is the set of units of one open device; `unit` counts within its pool,
`rank` within its launch. Times are seconds of one monotonic clock.
"""

# Without `from __future__ import annotations`: NamedTuple would compile each of them, half of the import.

from collections.abc import Sequence
from typing import NamedTuple

from device_runtime.launch import ShardId

# ---- told -------------------------------------------------------------------


class PoolOpened(NamedTuple):
    """A device is open; each of its units holds up to `depth` shards at once.

    Devices that share a `card` have it in turn; one of them at most is `loaded`.
    """

    pool: int
    units: int
    depth: int = 1
    card: str = ""
    loaded: bool = True


class PoolClosed(NamedTuple):
    """A device is closed; whatever it still held ends as "closed"."""

    pool: int


class Submit(NamedTuple):
    """A launch is made: on the named units, or on as many of the scheduler's choice as it has shards.

    Or several at once, numbered in a row, `launch` the last of them: of one
    kernel, for one unit each of the scheduler's choice, and nothing else asked.
    """

    launch: int  # grows from launch to launch
    pool: int
    units: tuple[int, ...] | None  # ascending; None: choose
    shards: int  # how many
    kernel: int = 0  # launches of one kernel share an estimate of its run time
    priority: int = 0
    depends: tuple[int, ...] = ()  # unfinished launches whose values it needs
    retries: int = 0
    timeout: float | None = None  # seconds a shard may run
    launches: int = 1
    behind: tuple[int, ...] = ()  # unfinished launches that must have ended before, however they do
    any_unit: bool = False  # where units are named: others would do as well
    ahead: bool = False  # a unit may have it while it runs what this depends on: no values are needed of that


class ShardBegun(NamedTuple):
    """A unit begins to run a shard, or is to (told only for launches with a timeout); the last one counts."""

    pool: int
    unit: int
    shard: ShardId
    now: float


class ShardEnded(NamedTuple):
    """A unit delivered a shard's outcome."""

    pool: int
    unit: int
    shard: ShardId
    ok: bool
    seconds: float  # its run time


class BundleAdvanced(NamedTuple):
    """A unit delivered the outcomes of launches of one bundle, the first of them `launch`."""

    pool: int
    unit: int
    launch: int
    seconds: Sequence[float]  # the run time of each


class UnitLost(NamedTuple):
    """A unit died; `begun` is the shard it was running, if any.

    It died of its `own` accord, or not; it had `served`, or could not have taken up a shard yet.
    """

    pool: int
    unit: int
    begun: ShardId | None
    now: float
    own: bool = True
    served: bool = True


class UnitReady(NamedTuple):
    """A lost unit is back, or one that we wanted killed lives on."""

    pool: int
    unit: int


class UnitGone(NamedTuple):
    """A unit will not come back."""

    pool: int
    unit: int


class PoolUnloaded(NamedTuple):
    """A device has left its card, as it was told."""

    pool: int


class Cancel(NamedTuple):
    """The caller no longer wants a launch; `kill` also ends what runs already."""

    launch: int
    kill: bool = False


class Tick(NamedTuple):
    """The time `next_deadline` named has come."""

    now: float


Event = (
    PoolOpened
    | PoolClosed
    | Submit
    | ShardBegun
    | ShardEnded
    | BundleAdvanced
    | UnitLost
    | UnitReady
    | UnitGone
    | PoolUnloaded
    | Cancel
    | Tick
)

# ---- decided ----------------------------------------------------------------


class Placed(NamedTuple):
    """A launch that left the choice to the scheduler has its units, ascending, by rank.

    With several `launches`, these are numbered in a row and it is the last of them; so in `Send`.
    """

    launch: int
    units: tuple[int, ...]
    launches: int = 1


class Send(NamedTuple):
    """Hand a shard to a unit now."""

    pool: int
    unit: int
    shard: ShardId
    launches: int = 1


class Kill(NamedTuple):
    """End by force the first shard that a unit holds; `UnitLost` follows, or `UnitReady` if it had ended."""

    pool: int
    unit: int
    shard: ShardId


class Settle(NamedTuple):
    """A shard's end is final.

    `how` is "ended" (the outcome that was delivered counts), "died" (its unit
    was lost under it), "poisoned" (it lost too many units), "timeout",
    "cancelled", "dependency" (the launch `cause` failed), "no units" or
    "closed".
    """

    launch: int
    rank: int
    how: str
    cause: int = -1
    deaths: int = 0  # of units while they ran the shard


class Advance(NamedTuple):
    """The outcomes of a bundle's launches, from `launch` on, that were just delivered are final."""

    launch: int
    launches: int


class Unload(NamedTuple):
    """Let a device, whose units hold nothing, leave its card; `PoolUnloaded` follows."""

    pool: int


class Load(NamedTuple):
    """Let a device have its card, which is free; its units may be sent shards at once."""

    pool: int


Action = Placed | Send | Kill | Settle | Advance | Unload | Load
