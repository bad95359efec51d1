"""The pages for users: what they show runs, what they point to exists, and nothing is left out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Program

import offload
from device_runtime import errors

ROOT = Path(__file__).parents[1]
# How it is built, and how to write a device, have tests of their own.
PAGES = sorted({*ROOT.glob("docs/*.md"), ROOT / "README.md"} - {ROOT / "docs/architecture.md"})
TITLES = [page.stem for page in PAGES]


def shown(page: Path) -> str:
    """Return the Python of a page as one script, at the page's own lines."""
    lines, inside = [], False
    for line in page.read_text().splitlines():
        fence = line.startswith("```")
        inside = line == "```python" if fence else inside
        lines.append(line if inside and not fence else "")
    return "\n".join(lines)


RUN = [page for page in PAGES if shown(page).strip() and page.stem != "writing_a_device"]


@pytest.mark.parametrize("page", RUN, ids=[page.stem for page in RUN])
def test_what_a_page_shows_runs_and_gives_what_it_says(page: Path, program: Callable[..., Program]) -> None:
    text = shown(page)
    ended = program("page.py", files={"page.py": text}).end()
    assert (ended.code, ended.err) == (0, "")
    # `print(x)  # [1, 2]: in words` promises a line; a comment in words only promises none.
    for comment in re.findall(r"^ *print\(.*\)  # (.+)$", text, re.MULTILINE):
        value = comment.partition(": ")[0]
        if re.match(r"[\[({\d]|True$|False$", value):
            assert value in ended.out.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    for target in re.findall(r"]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_option_is_explained() -> None:
    text = ROOT.joinpath("docs/options.md").read_text()
    for field in dataclasses.fields(offload.Options):
        assert field.name == "single" or f"\n| `{field.name}` |" in text


def test_every_call_of_a_handle_is_explained() -> None:
    text = ROOT.joinpath("docs/handles.md").read_text()
    for name in dir(offload.Handle):
        assert name.startswith("_") or f"`{name}" in text or name == "submitted", name


def test_every_error_is_explained_and_the_tree_is_that_of_the_code() -> None:
    text = ROOT.joinpath("docs/errors.md").read_text()
    assert errors.__doc__ is not None
    tree = errors.__doc__[errors.__doc__.index("OffloadError\n") :].partition("\n\n")[0]
    assert f"```text\n{tree}\n```" in text


def test_every_call_inside_a_kernel_is_explained() -> None:
    from offload import core

    text = ROOT.joinpath("docs/kernels.md").read_text()
    for name, value in vars(core).items():
        if callable(value) and not name.startswith("_") and value.__module__ == core.__name__:
            assert re.search(rf"\b{name}\b", text), name


def test_every_test_that_promises_are_shown_by_is_there() -> None:
    named = re.findall(r"`(tests/[^`]+)`", ROOT.joinpath("docs/promises.md").read_text())
    assert len(named) > 30
    for file, _, test in (name.partition("::") for name in named):
        assert not test or f"\ndef {test}(" in ROOT.joinpath(file).read_text(), test
        assert ROOT.joinpath(file).exists(), file
