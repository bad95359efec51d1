"""Bring scripts written for the keyword `async=` to Python 3.7 and later, where it is `async_=`.

The old code does not parse any more, so it is read token by token, and nothing
but the keyword is changed.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

# After these, `async` is the keyword that Python has today.
_TODAY = {"def", "with", "for"}
# Up to Python 3.11, a string with expressions in it is one token.
_F_STRING = re.compile(r"[rR]?[fF][rR]?['\"]")
_IN_F_STRING = re.compile(r"\{\{|[{}]|(?<!['\"])\basync\b(?!['\"]|\s+for\b)")
_OPENING = {"(", "[", "{"}
_CLOSING = {")", "]", "}"}


class MigrationError(Exception):
    """Say at which line a source cannot be read, and why."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line = line
        self.why = why


class Migrated(NamedTuple):
    """The new source, and the lines that use `async` as a name in a way that only their author can change.

    Up to Python 3.11 these are also the lines where an f-string calls something with `async=`.
    """

    source: bytes
    left: list[int]


def migrate(source: bytes) -> Migrated:
    """Rewrite the argument `async=` to `async_=` wherever a call or a signature has it; keep all else.

    Every other byte stays as it is: line ends, encoding, comments, strings,
    and what belongs to Python 2. Raises MigrationError where the source cannot
    be split into tokens.
    """
    encoding = _encoding(source)
    # With newline="", lines are split at any line end and keep their own.
    lines = list(io.StringIO(source.decode(encoding), newline=""))
    left = []
    edits = []
    depth = 0
    for before, name, after in _in_threes(_tokens(lines)):
        depth += (name.string in _OPENING) - (name.string in _CLOSING)
        if name.type == tokenize.STRING and _F_STRING.match(name.string):
            left += [name.start[0] + row for row in _rows_of_names(name.string)]
        if name.type != tokenize.NAME or name.string != "async" or after.string in _TODAY:
            continue
        if depth and after.string == "=" and before.string in {"(", ","}:
            edits.append(name.end)
        else:
            left.append(name.start[0])
    for row, column in reversed(edits):
        line = lines[row - 1]
        lines[row - 1] = f"{line[:column]}_{line[column:]}"
    return Migrated("".join(lines).encode(encoding), sorted(set(left)))


def _rows_of_names(text: str) -> Iterator[int]:
    """Yield the rows, from 0, in which an expression of an f-string uses `async` as a name."""
    depth = 0
    for piece in _IN_F_STRING.finditer(text):
        if piece[0] == "async":
            if depth:
                yield text.count("\n", 0, piece.start())
        elif piece[0] == "}":
            depth = max(0, depth - 1)
        elif depth or piece[0] == "{":
            depth += len(piece[0])


def _encoding(source: bytes) -> str:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        source.decode(encoding)
    except (SyntaxError, UnicodeDecodeError):
        # Python 2 did not ask for a declaration. Latin-1 gives every byte back unchanged.
        return "latin-1"
    return encoding


def _tokens(lines: list[str]) -> Iterator[tokenize.TokenInfo]:
    """Yield the tokens that carry meaning; raise MigrationError where there are none to be had."""
    source = iter(lines)
    try:
        for token in tokenize.generate_tokens(lambda: next(source, "")):
            if token.type == tokenize.ERRORTOKEN and token.string[0] in "\"'":
                # What follows the quote would be taken for code.
                raise MigrationError(token.start[0], "unterminated string")
            # The pure-Python tokenizer, up to 3.11, may report a blank as an error.
            blank = token.type == tokenize.ERRORTOKEN and token.string.isspace()
            if not blank and token.type not in (tokenize.NL, tokenize.COMMENT):
                yield token
    except tokenize.TokenError as error:
        raise MigrationError(error.args[1][0], error.args[0]) from error
    except SyntaxError as error:  # IndentationError and TabError, too
        raise MigrationError(error.lineno or 1, error.msg) from error


def _in_threes(
    tokens: Iterator[tokenize.TokenInfo],
) -> Iterator[tuple[tokenize.TokenInfo, tokenize.TokenInfo, tokenize.TokenInfo]]:
    """Yield each token between its neighbours; the first and the last are only ever neighbours."""
    start = tokenize.TokenInfo(tokenize.ENCODING, "", (0, 0), (0, 0), "")
    before, name = start, start
    for after in tokens:
        yield before, name, after
        before, name = name, after
