"""Run a benchmark: its subjects' stands, a warm-up, then rounds in which each has its turn."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.declare import Benchmark, Reading, Setting, Subject
from benchmarks.results import Result, Series

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0  # seconds for one answer
FAREWELL = 10.0  # seconds for a stand to end by itself


class StandFailed(Exception):
    """Say that a subject cannot be measured, and why."""


class Stand:
    """The process of one subject, from outside."""

    def __init__(self, benchmark: Benchmark, subject: Subject, setting: Setting) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        answers, given = os.pipe()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        quick = "quick" if setting.quick else "full"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.stand", benchmark.name, subject.name, quick, str(given)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", **subject.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=[given],
            start_new_session=True,  # Ctrl-C is for the runner alone
            text=True,
        )
        os.close(given)
        self._answers = os.fdopen(answers)
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def round(self) -> Reading:
        """Measure one round. Raises StandFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        answer = self._answer()
        curve = tuple((x, y) for x, y in answer["curve"])
        return Reading(answer["value"], curve, answer["note"])

    def close(self) -> None:
        """Let it end; end it by force if it does not."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(FAREWELL)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._answers.close()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        if not select.select([self._answers], [], [], PATIENCE)[0]:
            raise StandFailed(f"no answer within {PATIENCE:.0f} s")
        line = self._answers.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": self._last_words()}
        if "failed" in answer:
            raise StandFailed(answer["failed"])
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return "ended early: " + next((line for line in reversed(lines) if line.strip()), "without a word")


def run(
    benchmark: Benchmark,
    peers: Collection[str],
    setting: Setting,
    rounds: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Result:
    """Measure a benchmark with these peers; what fails is noted in the result."""
    result = Result(benchmark)
    present = []
    for subject in benchmark.subjects:
        series = result.series[subject.name] = Series()
        if subject.peer is not None and subject.peer not in peers:
            del result.series[subject.name]
        elif lacking := [name for name in subject.needs if not _is_there(name)]:
            series.absent = f"{lacking[0]} is not installed"
        else:
            present.append(subject)
    wanted = rounds or benchmark.rounds
    full = min(wanted, setting.pick(wanted, 2))
    # Even an idle one of the heavy subjects uses the processor, so they come last, with ours beside them.
    heavy = [subject for subject in present if subject.heavy]
    light = [subject for subject in present if not subject.heavy]
    _rounds(result, light, range(full), setting, say)
    done = full
    for subject in heavy:
        beside = [one for one in light if one.role != "peer"]
        more = range(done, done + min(full, benchmark.heavy_rounds))
        _rounds(result, [*beside, subject], more, setting, say)
        done = more.stop
    return result


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None or shutil.which(name) is not None


def _rounds(
    result: Result, subjects: list[Subject], numbers: range, setting: Setting, say: Callable[[str], None]
) -> None:
    """Measure rounds of these subjects; one that fails is left out from there on."""
    benchmark = result.benchmark
    heavy = next((subject for subject in subjects if subject.heavy), None)
    order = random.Random(0)
    with ExitStack() as stack:
        stands: dict[str, Stand] = {}

        def attempt(subject: Subject, number: int | None) -> None:
            """Measure one round; the warm-up has no number."""
            series = result.series[subject.name]
            if series.failed:
                return
            try:
                if subject.name not in stands:
                    stands[subject.name] = Stand(benchmark, subject, setting)
                    if not benchmark.fresh:
                        stack.callback(stands[subject.name].close)
                elif number is None:
                    return
                reading = stands[subject.name].round()
                if number is not None:
                    series.add(number, reading, beside=subject is not heavy and heavy is not None)
            except StandFailed as error:
                series.failed = str(error)
            finally:
                if benchmark.fresh and subject.name in stands:
                    stands.pop(subject.name).close()

        if not benchmark.fresh:
            for subject in subjects:
                say(f"{benchmark.name}: {subject.name}")
                attempt(subject, None)
            time.sleep(setting.pick(0.3, 0))  # what starting them set off comes to rest
        for number in numbers:
            say(f"{benchmark.name}: round {number - numbers[0] + 1} of {len(numbers)}")
            for subject in order.sample(subjects, len(subjects)):
                attempt(subject, number)
