"""The pi series: every script is run as a user runs it, on a small scale, and says what it should."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Program

SCRIPTS = Path(__file__).parents[2] / "examples" / "pi"
DEVICES = ("local:2", "inline:2", "local:1")
Start = Callable[..., Program]


def output(program: Start, script: str, *arguments: str, device: str = "local:2") -> str:
    """Run a script to its end, which must be a good one, and return what it prints."""
    ended = program(str(SCRIPTS / script), *arguments, device=device).end()
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def number(pattern: str, text: str) -> float:
    """Return the number that the group in a pattern stands for."""
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found.group(1).replace(",", ""))


@pytest.mark.parametrize("device", DEVICES)
def test_first_pi(program: Start, device: str) -> None:
    pytest.importorskip("rich")
    said = output(program, "01_first_pi.py", "100000", device=device)
    cores = int(device[-1])
    assert number(r"(\d+) cores? ready after", said) == cores
    assert "100%" in said, "the progress bar comes to its end"
    error = number(r"± ([\d.]+)", said)
    assert error == pytest.approx(1.642 / 100_000**0.5, rel=0.01)
    assert number(r"pi is ([\d.]+)", said) == pytest.approx(3.14159, abs=5 * error)
    assert number(r"from ([\d,]+) darts", said) == 100_000
    assert number(r"([\d.]+) times faster", said) > 0


def test_cores_throw_different_darts(program: Start) -> None:
    pytest.importorskip("rich")
    # With the same darts on both cores the mean would be that of one core alone.
    two = number(r"pi is ([\d.]+)", output(program, "01_first_pi.py", "10000", device="local:2"))
    one = number(r"pi is ([\d.]+)", output(program, "01_first_pi.py", "5000", device="local:1"))
    assert two != one


@pytest.mark.parametrize("device", DEVICES)
def test_stop_early(program: Start, device: str) -> None:
    # Launches that take some milliseconds: shorter ones may be sent to a core before it is free.
    said = output(program, "02_stop_early.py", "20000", "0.00285", device=device)
    used = number(r"from (\d+) of 300 launches", said)
    assert 15 <= used <= 20, "as many as the error needs, and no more"
    assert number(r"± ([\d.]+), from", said) <= 0.00285
    assert number(r"pi is ([\d.]+) ± [\d.]+, from", said) == pytest.approx(3.14159, abs=0.015)
    assert number(r"good enough: (\d+) launch", said) <= int(device[-1])


@pytest.mark.parametrize("device", ["local:4", "inline:4", "local:1"])
def test_choosing_cores(program: Start, device: str) -> None:
    cores = int(device[-1])
    said = output(program, "03_choosing_cores.py", "12000", device=device)
    lines = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    assert lines["all cores"].strip() == str(list(range(cores)))
    assert lines["the last core"].strip() == f"[{cores - 1}]"
    assert lines["first and last"].strip() == str(sorted({0, cores - 1}))
    assert re.fullmatch(r"\[\d]", lines["any one"].strip())
    for line in ("pi in equal parts", "most for core 0"):
        assert number(r"make ([\d.]+)", lines[line]) == pytest.approx(3.14159265, abs=1e-8)
        assert lines[line].count(",") == cores - 1
    streamed = re.findall(r"pi of +([\d,]+) strips is (3\.\d+)", said)
    assert [int(count.replace(",", "")) for count, _ in streamed] == [10**power for power in range(1, 7)]
    assert float(streamed[-1][1]) == pytest.approx(3.14159265359, abs=1e-11)
    assert said.count("Handle of __main__.area: done") == 3


def test_the_timeline_is_drawn(program: Start, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "timeline.png"
    # Matplotlib may have something to say on standard error where it has never run before.
    assert program(str(SCRIPTS / "03_choosing_cores.py"), "2000", str(picture)).end().code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("device", ["local:4", "inline:4", "local:1"])
def test_resident_data(program: Start, device: str) -> None:
    said = output(program, "04_resident_data.py", "50", device=device)
    assert "50 × 1 iterations" in said
    assert "1 × 50 iterations" in said
    assert number(r"([\d.]+) times faster", said) > 0
    assert "both give exactly what plain NumPy gives" in said


def test_when_things_go_wrong(program: Start) -> None:
    said = output(program, "05_when_things_go_wrong.py")
    assert "ZeroDivisionError: division by zero" in said
    assert "return 4 * round(darts * math.pi / 4) / darts" in said, "the line on the core is shown"
    assert "WorkerDied: kernel __main__.crash on core 1" in said
    assert "exit code 3" in said
    assert "LaunchTimeout: kernel __main__.hang on core 0 took longer than its timeout, 0.3 s" in said
    assert "ArgsNotSerializable: kernel __main__.find_pi: argument 1" in said
    assert "OptionError" in said
    assert "auto=5" in said
    assert said.splitlines()[-1] == "After all this, both cores are well: [3.14, 3.14]"


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_a_script_is_short_and_needs_no_guard(script: str) -> None:
    text = SCRIPTS.joinpath(script).read_text()
    assert len(text.splitlines()) < 60
    assert "__main__" not in text
