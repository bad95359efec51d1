from __future__ import annotations

import sys

import pytest

from offload.migrate import MigrationError, migrate


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"@offload(async=True, target=[0, 1])\n", b"@offload(async_=True, target=[0, 1])\n"),
        (b"h = kernel(1, async = True)\n", b"h = kernel(1, async_ = True)\n"),
        (b'copy_to_device("a", data, async=True)\n', b'copy_to_device("a", data, async_=True)\n'),
        (b"f(async\t=1)\n", b"f(async_\t=1)\n"),
        (b"f(\n  1, # note\n  async # why\n  = True)\n", b"f(\n  1, # note\n  async_ # why\n  = True)\n"),
        (b"f(async=g(async=True))\n", b"f(async_=g(async_=True))\n"),
        (b"d = {1: f(async=True)}\n", b"d = {1: f(async_=True)}\n"),
        (b"def wrapper(x, async=False): pass\n", b"def wrapper(x, async_=False): pass\n"),
    ],
)
def test_the_argument_gets_its_new_name(old: bytes, new: bytes) -> None:
    assert migrate(old) == (new, [])


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"async def main():\n    async with a, b:\n        pass\n    async for c in d:\n        pass\n",
        b"f([x async for x in y])\n",
        b"f(async_=True)\n",
        b's = "f(async=True)"  # f(async=True)\n',
        b"'''\nf(async=True)\n'''\n",
        b'f(**{"async": True})\n',
        b"f(x.not_async, is_async=True)\n",
    ],
)
def test_all_else_is_left_alone(source: bytes) -> None:
    assert migrate(source) == (source, [])


@pytest.mark.parametrize(
    "frame",
    [
        b"%s",  # no line end
        b"%s\r\n\r\nx = 1  \r\n",
        b"\xef\xbb\xbf%s\n",
        b"# -*- coding: latin-1 -*-\ns = '\xe9'; %s\n",
        b"s = '\xe9\xff'; %s\n",  # no declaration, and not UTF-8
        "größe = '✓'; %s\n".encode(),
        b"\x0c\n%s\n",
        b"if x:\n\ty\n\t%s\n",
    ],
)
def test_every_other_byte_is_kept(frame: bytes) -> None:
    assert migrate(frame % b"f(async=1)") == (frame % b"f(async_=1)", [])


def test_python_2_is_read_and_kept() -> None:
    old = (
        b"print 'running', `x`, 0777, 10L, ur'a'\nif a <> b: exec 'f' in d\n"
        b"try: pass\nexcept E, e: print >>out, k(1, async=True)\n"
    )
    assert migrate(old) == (old.replace(b"async=", b"async_="), [])


def test_a_variable_of_that_name_is_pointed_out_and_kept() -> None:
    old = b"async = True\nk(1, async=async)\nx.async = 1\na, async = 1, 2\ny = async\ndef f(): pass\n"
    new = old.replace(b"k(1, async=async)", b"k(1, async_=async)")
    assert migrate(old) == (new, [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (b'x = f"{g(async=1)}"\n', b'x = f"{g(async_=1)}"\n', [1]),
        (b"x = 1\ny = Rf'{g(a, async = 1)!r:>{w}}' 'async='\n", None, [2]),
        (b'x = f"""{a}{{\n{g(async=1)}\n{async}"""\n', None, [2, 3]),
        (b"x = f'{{{g(async=1)}}}'\n", None, [1]),
        (b"x = f'{[y async for y in z]} async={1} {{async=}} {d[\"async\"]}'\n", None, []),
    ],
)
def test_f_strings_are_rewritten_or_pointed_out(old: bytes, new: bytes | None, lines: list[int]) -> None:
    """Up to Python 3.11 an f-string is one token."""
    migrated = migrate(old)
    if sys.version_info < (3, 12):
        assert migrated == (old, lines)
    elif new is not None:
        assert migrated == (new, [])


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (b"x = 1\ny = 'never closed\nf(async=True)\n", 2),
        (b"x = 1\nif x:\n        y\n    z\n", 4),
        (b"x = '''\nnever closed\n", None),
        (b"f(1,\n", None),
    ],
)
def test_what_cannot_be_read_is_reported_with_its_line(source: bytes, line: int | None) -> None:
    with pytest.raises(MigrationError) as caught:
        migrate(source)
    # Where something never ends, Python versions differ in the line that they name.
    assert caught.value.line == line if line else 1 <= caught.value.line <= 3
    assert str(caught.value.line) in str(caught.value)
    assert caught.value.why


def test_a_second_migration_changes_nothing() -> None:
    once = migrate(b"@offload(async=True)\ndef f(): pass\n").source
    assert migrate(once) == (once, [])
