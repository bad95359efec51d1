"""Made-up devices behind made-up wires, with a clock of their own, that drive the real state machine.

Nothing here takes time: what is to happen stands in an agenda, and the clock
jumps from one entry to the next.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from random import Random

from device_runtime.launch import ShardId
from scheduler import events
from scheduler.cards import FAIR
from scheduler.events import Advance, Event, Kill, Placed, Send, Settle, Unload
from scheduler.state import State

from .model import Model, in_a_row

MAX_DEPTH = 2  # of launches nested in kernels


@dataclass(frozen=True)
class Weather:
    """How a world treats what is under way in it."""

    delay: float = 0.0  # seconds on the wire, on average
    lost: float = 0.0  # the share of messages that must be sent again
    doubled: float = 0.0  # the share of reports that come a second time, whenever
    overtaken: float = 0.0  # the share of reports that later ones may overtake
    resend: float = 0.05  # seconds until what was lost is sent again
    restart: float = 0.01  # seconds until a dead core is back
    grace: float = 0.05  # seconds that a core may go on which is to be killed
    early: float = 0.0  # the share of shards that are the death of their core before they begin
    unfit: float = 0.0  # the share of restarts that fail, so that the core is gone
    idle: float = 0.0  # the share of restarts after which a core that idles dies again
    cut: float = 0.0  # the share of deaths that are heard of before the value that came last
    stuck: float = 0.0  # the share of ends after which a core takes up nothing more
    gather: float = 0.0  # seconds until the host takes in the ends that have come, if nothing else comes


CALM = Weather()


@dataclass(frozen=True)
class Kind:
    """What the kernel of a launch does."""

    gang: bool = False  # a shard ends only when all the others have begun, or ended
    hangs: bool = False
    deadly: bool = False  # it kills its core
    ok: bool = True
    seconds: float = 1.0
    nested: int = 0  # launches that it makes itself, one after another, on its core's place


@dataclass(eq=False)
class Core:
    """A unit of a made-up device, from its start to its death."""

    pool: int
    unit: int
    held: deque[ShardId] = field(default_factory=deque)
    begun: bool = False  # it runs the first shard that it holds
    alive: bool = True
    stuck: bool = False  # it begins nothing more
    gone: bool = False
    down: float = 0.0  # when the last message to it arrives
    up: float = 0.0  # when the last one from it does
    unheard: list[ShardId] = field(default_factory=list)  # shards whose ends are on the wire


class World:
    """A host, its devices, the wires between, and the model that watches the state machine.

    `runs` counts how often kernels really began, and `ends` how often they
    were said to have ended: what is promised of both is checked here, whatever
    the model thinks.
    """

    def __init__(
        self,
        random: Random | None = None,
        weather: Weather = CALM,
        trace: Callable[[str], object] | None = None,
        depth: int = 0,
        fair: int = FAIR,
    ) -> None:
        self.random = random or Random(0)
        self.weather = weather
        self.trace = trace
        self.depth = depth
        self.state = State(fair)
        self.model = Model(self.state, fair)
        self.cores: dict[int, list[Core]] = {}
        self.kinds: dict[int, Kind] = {}
        self.units: dict[int, tuple[int, ...] | None] = {}
        self.now = 0.0
        self.launches = 0
        self.events = 0  # told, those of nested worlds included
        self.runs: Counter[tuple[int, int]] = Counter()
        self.ends: Counter[tuple[int, int]] = Counter()
        self._asked: dict[int, tuple[int, int]] = {}  # of every launch: shards, and retries
        self._heard: list[events.ShardEnded] = []  # come, and not taken in
        self._counted: set[ShardId] = set()  # whose time counts, though it may not have begun
        self._gangs: dict[int, set[int]] = {}  # by launch: ranks that wait for the others
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._entries = 0
        self._alarm: float | None = None  # when the next tick is due

    # ---- the clock ---------------------------------------------------------------------

    def at(self, time: float, act: Callable[[], object]) -> None:
        """Let something happen at a time; what is due at the same time happens in the order noted."""
        self._entries += 1
        heappush(self._agenda, (max(time, self.now), self._entries, act))

    def advance(self) -> bool:
        """Let the next thing happen; return False if nothing stands in the agenda."""
        if not self._agenda:
            return False
        self.now, _, act = heappop(self._agenda)
        act()
        return True

    # ---- what the host does ------------------------------------------------------------

    def open(self, units: int, depth: int, card: str = "", loaded: bool = True) -> None:
        pool = len(self.cores)
        self.cores[pool] = [Core(pool, unit) for unit in range(units)]
        self.tell(events.PoolOpened(pool, units, depth, card, loaded))

    def submit(
        self,
        pool: int,
        units: tuple[int, ...] | None,
        count: int = 0,
        kind: Kind | None = None,
        **options: object,
    ) -> int:
        """Make a launch and return its number."""
        self.launches += 1
        kind = kind or Kind()
        if self.model.card(pool) is not None:
            kind = replace(kind, gang=False)  # shards would wait for others that the card is taken from
        self.kinds[self.launches] = kind
        self.units[self.launches] = units
        asked = events.Submit(self.launches, pool, units, count or len(units or ()), **options)  # type: ignore[arg-type]
        self._asked[self.launches] = asked.shards, asked.retries
        self.tell(asked)
        return self.launches

    def submit_together(self, pool: int, most: int, kernel: int, kinds: Sequence[Kind]) -> None:
        """Make launches of one kernel, `most` at once; or as many as had best come now."""
        while kinds:
            size = most or max(1, self.state.room_for(pool, kernel, len(kinds)))
            now, kinds = kinds[:size], kinds[size:]
            for kind in now:
                self.launches += 1
                self.kinds[self.launches] = kind
                self.units[self.launches] = None
                self._asked[self.launches] = 1, 0
            self.tell(events.Submit(self.launches, pool, None, 1, kernel, launches=len(now)))

    def cancel(self, launch: int, kill: bool) -> None:
        self.tell(events.Cancel(launch, kill))

    def close(self, pool: int) -> None:
        """Close a pool, and those that share its card."""
        self._take_in()
        card = self.model.card(pool)
        for each in [pool] if card is None else list(card.pools):
            for core in self.cores.pop(each):
                core.alive = False
            self.tell(events.PoolClosed(each))

    def tell(self, event: Event) -> None:
        """Hand an event to the state machine, after all ends that have come, and carry out what it says."""
        self._take_in()
        self._tell(event)

    def _hear(self, event: Event) -> None:
        """Take in a report; ends may wait for others, to be taken in together."""
        if not isinstance(event, events.ShardEnded):
            self.tell(event)
            return
        if not self._heard:
            self.at(self.now + self.weather.gather, self._take_in)
        self._heard.append(event)

    def _take_in(self) -> None:
        """Tell of the ends that have come, those in a row of one bundle together."""
        heard, self._heard = self._heard, []
        while heard:
            first = heard.pop(0)
            pool, unit, (launch, _, attempt), _, _ = first
            bundled, seconds = self.state.bundled(launch), [first.seconds]
            while heard and len(seconds) < bundled:
                following = heard[0]
                if following[:2] != (pool, unit) or following.shard != (launch + len(seconds), 0, attempt):
                    break
                seconds.append(heard.pop(0).seconds)
            if bundled:
                self._tell(events.BundleAdvanced(pool, unit, launch, seconds))
            else:
                self._tell(first)

    def _tell(self, event: Event) -> None:
        self.events += 1
        if self.trace is not None:
            self.trace(f"{self.now:9.4f}  {'  ' * self.depth}{event}")
        for action in self.model.step(event):
            if self.trace is not None:
                self.trace(f"{'':9}  {'  ' * self.depth}  -> {action}")
            if isinstance(action, Placed):
                for number in in_a_row(action.launch, action.launches):
                    self.units[number] = action.units
            elif isinstance(action, Send):
                core = self.cores[action.pool][action.unit]
                for number in in_a_row(action.shard.launch, action.launches):
                    self._send_down(core, partial(self._arrive, core, action.shard._replace(launch=number)))
            elif isinstance(action, Kill):
                core = self.cores[action.pool][action.unit]
                self._send_down(core, partial(self._order_death, core, action.shard))
            elif isinstance(action, Unload):
                self._unload(action.pool)
            elif isinstance(action, Settle):
                self._note_end(action)
            elif isinstance(action, Advance):
                for number in range(action.launch, action.launch + action.launches):
                    self._note_end(Settle(number, 0, "ended"))
        self._count_first()
        due = self.state.next_deadline()
        if due is not None and (self._alarm is None or due < self._alarm):
            self._alarm = due
            self.at(due, self._tick)

    def _count_first(self) -> None:
        """Say of what comes first on a core that is there that it has begun: the core may be stuck."""
        for cores in self.cores.values():
            for core in cores:
                held = self.model.pools[core.pool][core.unit].held
                asked = self.model.launches[held[0].launch].asked if held and core.alive else None
                if asked is not None and asked.timeout is not None and held[0] not in self._counted:
                    self._counted.add(held[0])
                    self._tell(events.ShardBegun(core.pool, core.unit, held[0], self.now))

    def _note_end(self, action: Settle) -> None:
        shard = action.launch, action.rank
        self.ends[shard] += 1
        assert self.ends[shard] == 1, f"shard {shard} ended twice"
        if action.how == "ended":
            assert self.runs[shard], f"shard {shard} has a value and never ran"
        if action.launch in self._gangs:  # the others wait for it no longer
            self.at(self.now, partial(self._look_at_gang, action.launch))

    def _tick(self) -> None:
        if self._alarm is not None and self.now >= self._alarm:
            self._alarm = None
            self.tell(events.Tick(self.now))

    def _unload(self, pool: int) -> None:
        """Let all cores of a pool go; those that are there when it is loaded again are others."""
        for core in self.cores[pool]:
            if not core.gone:
                core.alive = False
                self.cores[pool][core.unit] = Core(pool, core.unit)
        self.at(self.now + self._delay(), partial(self.tell, events.PoolUnloaded(pool)))

    # ---- wires -------------------------------------------------------------------------

    def _send_down(self, core: Core, act: Callable[[], object]) -> None:
        core.down = max(core.down, self.now + self._delay())
        self.at(core.down, act)

    def _report(self, core: Core, event: Event) -> None:
        """Let the host hear from a core: once at least, in order as far as the weather allows."""
        arrival = self.now + self._delay()
        if self.random.random() >= self.weather.overtaken:
            arrival = max(core.up, arrival)
        core.up = max(core.up, arrival)
        self.at(arrival, partial(self._hear, event))
        if self.random.random() < self.weather.doubled:
            self.at(arrival + self.random.expovariate(1.0), partial(self._hear, event))

    def _delay(self) -> float:
        weather = self.weather
        if not weather.delay:
            return 0.0
        delay = self.random.expovariate(1 / weather.delay)
        while self.random.random() < weather.lost:
            delay += weather.resend
        return delay

    # ---- what cores do -----------------------------------------------------------------

    def _arrive(self, core: Core, shard: ShardId) -> None:
        """Let a core have a shard; what was on its way to one that died is lost with it."""
        if core.alive and self.random.random() < self.weather.early:
            self.lose(core)
        elif core.alive:
            core.held.append(shard)
            self._start(core)

    def _start(self, core: Core) -> None:
        if core.begun or core.stuck or not core.held:
            return
        core.begun = True
        shard = core.held[0]
        run = shard[:2]
        self.runs[run] += 1
        assert self.runs[run] <= 1 + self._asked[shard.launch][1], f"shard {run} ran again, unasked"
        kind, asked = self.kinds[shard.launch], self.model.launches.get(shard.launch)
        if asked is not None and asked.asked.timeout is not None:
            self._report(core, events.ShardBegun(core.pool, core.unit, shard, self.now))
        if kind.nested and self.depth < MAX_DEPTH:
            self._nest(kind)
        if kind.deadly:
            self.at(self.now + kind.seconds, partial(self.lose, core))
        elif kind.gang:
            self._gangs.setdefault(shard.launch, set()).add(shard.rank)
            self._look_at_gang(shard.launch)
        elif not kind.hangs:
            self.at(self.now + kind.seconds, partial(self._end, core, shard))

    def _look_at_gang(self, number: int) -> None:
        """Let the shards of a gang go on once each of them has begun, or ended."""
        waiting, units = self._gangs.get(number), self.units[number]
        count, kind = self._asked[number][0], self.kinds[number]
        if waiting is None or any(r not in waiting and not self.ends[number, r] for r in range(count)):
            return
        del self._gangs[number]
        assert units is not None
        for cores in self.cores.values():
            for core in cores:
                if core.begun and core.held[0].launch == number and not kind.hangs:
                    self.at(self.now + kind.seconds, partial(self._end, core, core.held[0]))

    def _end(self, core: Core, shard: ShardId) -> None:
        if not (core.alive and core.begun and core.held[0] == shard):
            return
        core.held.popleft()
        core.begun = False
        kind = self.kinds[shard.launch]
        core.unheard.append(shard)
        self._report(core, events.ShardEnded(core.pool, core.unit, shard, kind.ok, kind.seconds))
        self.at(core.up, partial(core.unheard.remove, shard))
        core.stuck = bool(self.weather.stuck) and self.random.random() < self.weather.stuck
        self._start(core)

    def _nest(self, kind: Kind) -> None:
        """Run the launches that a kernel makes, in the session that its core has for them."""
        inner = World(self.random, trace=self.trace, depth=self.depth + 1)
        inner.open(1, 1)
        for _ in range(kind.nested):
            inner.submit(0, None, 1, Kind(ok=kind.ok, nested=kind.nested - 1))
            inner.drain()
        inner.finish()
        self.events += inner.events

    # ---- accidents ---------------------------------------------------------------------

    def lose(self, core: Core, own: bool = True) -> None:
        """Let a core die with all it holds; the host hears of it, and of its return, in time."""
        card = self.model.card(core.pool)
        if not core.alive or (card is not None and (card.loaded != core.pool or card.leaving)):
            return
        core.alive = False
        begun = core.held[0] if core.begun else None
        if begun is not None and begun.launch in self._gangs:
            self._gangs[begun.launch].discard(begun.rank)
        core.up = max(core.up, self.now + self._delay())
        heard = core.up
        if begun is None and len(core.unheard) == 1 and self.random.random() < self.weather.cut:
            begun, heard = core.unheard[0], self.now  # its value comes late, and must not count
        served = bool(begun or core.held or core.unheard) or self.random.random() < 0.5
        self.at(heard, partial(self._tell_lost, core, begun, own, served))

    def _tell_lost(self, core: Core, begun: ShardId | None, own: bool, served: bool) -> None:
        self._take_in()  # what follows from that is meant for the one that is dead
        pool, unit = core.pool, core.unit
        if pool in self.cores:
            if self.cores[pool][unit] is not core:
                return  # it was unloaded meanwhile
            fresh = self.cores[pool][unit] = Core(pool, unit)
            come = self.remove if self.random.random() < self.weather.unfit else self._tell_ready
            self.at(self.now + self.random.random() * self.weather.restart, partial(come, fresh))
        self.tell(events.UnitLost(pool, unit, begun, self.now, own, served))

    def _tell_ready(self, core: Core) -> None:
        if core.alive:
            self.tell(events.UnitReady(core.pool, core.unit))
            if self.random.random() < self.weather.idle:
                self.at(self.now + self.random.random(), partial(self._lose_idle, core))

    def _lose_idle(self, core: Core) -> None:
        if not core.held:
            self.lose(core)

    def _order_death(self, core: Core, shard: ShardId) -> None:
        """Let a core go on for a while that is to die because of a shard."""
        self.at(self.now + self.random.random() * self.weather.grace, partial(self._strike, core, shard))

    def _strike(self, core: Core, shard: ShardId) -> None:
        if not core.alive:
            return
        if shard in core.held:
            self.lose(core)
        else:
            self._report_spared(core)

    def _report_spared(self, core: Core) -> None:
        core.up = max(core.up, self.now + self._delay())
        self.at(core.up, partial(self._tell_ready, core))

    def remove(self, core: Core) -> None:
        """Let a core go for good, after all that it has said."""
        if core.alive:
            core.alive = False
            core.gone = True
            self.at(core.up, partial(self.tell, events.UnitGone(core.pool, core.unit)))

    # ---- the end -----------------------------------------------------------------------

    def drain(self) -> None:
        """Let the cores work until all launches have ended; fail if that never comes."""
        while self.model.launches:
            if self.advance():
                continue
            cores = [core for cores in self.cores.values() for core in cores if core.held and core.alive]
            first = sorted({(core.held[0].launch, core.stuck) for core in cores})
            hanging = [number for number, stuck in first if self._hangs(number, stuck)]
            assert hanging, f"launches wait for each other for ever: {sorted(self.model.launches)}"
            self.cancel(hanging[0], kill=True)
            assert self._agenda, f"launch {hanging[0]} hangs, and cannot be ended"

    def _hangs(self, number: int, stuck: bool) -> bool:
        """Tell whether only the user can end a launch that comes first on a core, that may be stuck."""
        return self.kinds[number].hangs or (stuck and self.model.launches[number].asked.timeout is None)

    def finish(self) -> None:
        """Let all launches end, close the pools, and check that nothing is left or was forgotten."""
        self.drain()
        while self.advance():  # what comes late, launches among it
            self.drain()
        while self.cores:
            self.close(next(iter(self.cores)))
        self.model.check_empty()
        for number, (count, _) in self._asked.items():
            assert all(self.ends[number, rank] == 1 for rank in range(count)), f"launch {number} has no end"
