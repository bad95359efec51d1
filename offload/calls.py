"""What type checkers know of calls of kernels: what they give, and which options they take.

A method whose `self` is a `Gives[T]` returns T, and each class of kernels says what that is. So
the options of a call are listed once, in `Kernel`, and not again for each class of kernels. The
properties are there for type checkers only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)
First_contra = TypeVar("First_contra", contravariant=True)

Target: TypeAlias = int | str | Sequence[int] | Sequence[str] | None


class Gives(Protocol[T_co]):
    """A kernel whose call gives a T."""

    @property
    def _gives(self) -> T_co: ...


class Placed(Protocol[T_co]):
    """A kernel whose call gives a T where the call says on which cores it runs."""

    @property
    def _gives_placed(self) -> T_co: ...


class Starts(Protocol[T_co]):
    """A kernel whose `launch` gives a T."""

    @property
    def _starts(self) -> T_co: ...


class Of(Protocol[First_contra, P, T_co]):
    """A kernel of a function with a first argument."""

    @property
    def fn(self) -> Callable[Concatenate[First_contra, P], T_co]: ...


class Binds(Protocol[First_contra, T_co]):
    """A kernel that is a T once it is bound to its first argument."""

    @property
    def _binds(self) -> Callable[[First_contra], T_co]: ...
