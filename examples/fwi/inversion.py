"""Which ground gave these pressures: conjugate gradients with a multiplicative regularisation.

The two products with the matrix are all that takes time, and are given as
functions: they may run anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .configuration import Configuration
from .forward import Real, spacing

Complex = NDArray[Any]  # complex64 or complex128
# Of the steepest slope squared: a flat place has at least so much, or its weight would be infinite.
_FLAT = 1e-12
_NO_NUMBER = "multiplying with the matrix gives what is no number (NaN)"


class InversionError(ArithmeticError):
    """Report that the numbers end where the inversion would go on, and where."""


@dataclass
class Result:
    """What was found: the contrasts (N,), the misfit at every evaluation, and whether it settled."""

    chi: Real
    residuals: list[float] = field(default_factory=list)
    converged: bool = False


class Slopes:
    """The regularisation's side: gradients on the grid, (2, nz, nx), by central differences."""

    def __init__(self, asked: Configuration) -> None:
        self._shape = asked.ngrid.z, asked.ngrid.x
        self._dx, self._dz = spacing(asked)
        self.cell = self._dx * self._dz
        self.area = self.cell * asked.cells

    def gradient(self, chi: Real) -> Real:
        """Return the slopes in x and in z of what is given by cell, one-sided at the edges."""
        z, x = np.gradient(chi.reshape(self._shape), self._dz, self._dx, edge_order=2)
        return np.stack([x, z])

    def divergence(self, field: Real) -> Real:
        """Return ∂x of the first and ∂z of the second component, by cell."""
        x = np.gradient(field[0], self._dx, axis=1, edge_order=2)
        z = np.gradient(field[1], self._dz, axis=0, edge_order=2)
        return (x + z).ravel()


class Inversion:
    """One inversion on its way: `step` makes an evaluation and the step that follows from it.

    `dotprod(chi)` gives K·chi, (M,), and `update(r)` the sum of each row's
    conjugate times r, (N,). Raises InversionError for data that hold what is no number.
    """

    def __init__(
        self,
        asked: Configuration,
        data: Complex,
        dotprod: Callable[[Real], Complex],
        update: Callable[[Complex], Complex],
    ) -> None:
        largest = float(np.abs(data).max())
        if not np.isfinite(largest):
            raise InversionError(f"the data hold what is no number: the largest is {largest}")
        self.result = Result(np.zeros(asked.cells), [0.0], True)
        self.ended = largest == 0
        if self.ended:
            return
        # Data and matrix are brought near 1, and the contrasts back at the end: products of small numbers
        # would be lost, and those of large ones be no numbers. Powers of two round nothing.
        loudness = _power(largest)
        self._data = np.asarray(data, np.complex128) / loudness
        echo = np.asarray(update(self._data)).real
        heard, loudest = echo.astype(np.float64), float(np.abs(echo).max())
        if math.isnan(loudest):
            raise InversionError(_NO_NUMBER)
        if not loudest >= np.finfo(echo.dtype).tiny:
            raise InversionError(f"no contrast can be heard in the data: the largest product is {loudest}")
        self._strength = _power(loudest)
        self._unit = loudness / self._strength
        self._dotprod, self._update = dotprod, update
        self._asked, self._slopes = asked, Slopes(asked)
        self._eta = 1 / float(np.vdot(self._data, self._data).real)
        self._descent = self._eta * heard / self._strength
        self._direction = self._descent
        answer = self._product(self._direction)
        length = _ratio(np.vdot(answer, self._data).real, np.vdot(answer, answer).real)
        self._chi = length * self._direction
        self.result = Result(self._unit * self._chi)
        self._misfit, self._steer, self._energy = 1.0, 0.0, 1.0
        self._weight = np.zeros((asked.ngrid.z, asked.ngrid.x))

    def step(self) -> bool:
        """Evaluate the misfit, and go on from there; return whether there is more to be done.

        Raises InversionError where the numbers are finite no more.
        """
        if self.ended:
            return False
        eta, slopes, chi, number = self._eta, self._slopes, self._chi, len(self.result.residuals)
        rest = self._data - self._product(chi)
        before, self._misfit = self._misfit, eta * float(np.vdot(rest, rest).real)
        if not np.isfinite(self._misfit):
            raise InversionError(f"the misfit is {self._misfit} at evaluation {number}")
        self.result.residuals.append(self._misfit)
        self.result.converged = abs(before - self._misfit) < self._asked.tolerance
        self.ended = self.result.converged or number + 1 >= self._asked.max
        if self.ended:
            return False
        q = slopes.gradient(chi)
        steep = (q**2).sum(0)
        steer, old_weight, floor = self._steer, self._weight, _floor(steep, self._steer)
        self._weight = weight = 1 / (slopes.area * floor)
        self._steer = 0.5 * 100 / (number + 1) * float((weight * steep).sum() / weight.sum())
        heard = _real(self._update(rest)) / self._strength
        descent = before * slopes.divergence(old_weight * q) + eta * self._energy * heard
        old = self._descent
        gamma = _ratio(descent @ (descent - old), old @ old)
        self._direction = direction = descent + gamma * self._direction
        answer, slope = self._product(direction), slopes.gradient(direction)
        fit = (
            before,
            -2 * eta * float(np.vdot(answer, rest).real),
            eta * float(np.vdot(answer, answer).real),
        )
        smooth = (
            slopes.cell * float((weight * steep).sum() + steer * weight.sum()),
            2 * slopes.cell * float((weight * (q * slope).sum(0)).sum()),
            slopes.cell * float((weight * (slope**2).sum(0)).sum()),
        )
        self._chi = chi + _step(fit, smooth) * direction
        self.result.chi = self._unit * self._chi
        gradient = (slopes.gradient(self._chi) ** 2).sum(0)
        energy = float((gradient + steer).ravel() @ (1 / floor).ravel())
        self._energy = energy * slopes.cell / slopes.area
        self._descent = descent
        return True

    def _product(self, values: Real) -> Complex:
        return np.asarray(self._dotprod(values), np.complex128) / self._strength


def reconstruct(
    asked: Configuration,
    data: Complex,
    dotprod: Callable[[Real], Complex],
    update: Callable[[Complex], Complex],
) -> Result:
    """Return the contrasts (N,) that explain the pressures `data` (M,): an `Inversion` to its end.

    Raises InversionError.
    """
    inversion = Inversion(asked, data, dotprod, update)
    while inversion.step():
        pass
    return inversion.result


def recover(
    asked: Configuration,
    model: Real,
    dotprod: Callable[[Real], Complex],
    update: Callable[[Complex], Complex],
) -> Result:
    """Make the pressures of a model, (N,), and return what is found from them.

    Raises InversionError, also where the model or its pressures are too small or
    too large for numbers as wide as the pressures are.
    """
    data = dotprod(model)
    kept = np.finfo(data.dtype)
    sizes = float(np.abs(model).max()), float(np.abs(data).max())
    if np.isnan(data).any() and not np.isinf(data).any() and sizes[0] <= kept.max:  # else it is an overflow
        raise InversionError(_NO_NUMBER)
    if model.any() and not all(kept.tiny <= size <= kept.max for size in sizes):
        raise InversionError(
            f"the data {'vanish' if min(sizes) < kept.tiny else 'overflow'} in "
            f"{'single' if kept.bits == 32 else 'double'} precision, {kept.tiny:.3g} to {kept.max:.3g}: "
            f"the model is up to {sizes[0]:.3g}, and its pressures are up to {sizes[1]:.3g}"
        )
    return reconstruct(asked, data, dotprod, update)


def _real(values: Complex) -> Real:
    return np.asarray(values).real.astype(np.float64)


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else 0.0


def _power(size: float) -> float:
    """Return the power of two that is next below a size, of those whose inverse is a number, too."""
    return math.ldexp(1.0, max(math.frexp(size)[1] - 1, -1022))


def _floor(steep: Real, steer: float) -> Real:
    """Return |q|² + δ², kept from 0 where the ground is flat."""
    least = _FLAT * float(steep.max()) or 1.0
    return np.maximum(steep + steer, least)


def _step(fit: tuple[float, float, float], smooth: tuple[float, float, float]) -> float:
    """Return the α for which (a0 + a1α + a2α²)(B0 + B1α + B2α²) is smallest."""
    a0, a1, a2 = fit
    b0, b1, b2 = smooth
    slope = [4 * a2 * b2, 3 * (a2 * b1 + a1 * b2), 2 * (a2 * b0 + a1 * b1 + a0 * b2), a1 * b0 + a0 * b1]
    if not np.all(np.isfinite(slope)):
        raise InversionError(f"no step can be found: the slopes are {slope}")
    roots = np.roots(slope)
    real = roots[np.abs(roots.imag) <= 1e-9 * np.abs(roots)].real
    if not len(real):
        if any(slope):  # squares that are lost would make this the end
            raise InversionError(f"no step can be found: the slopes {slope} have no root")
        return 0.0  # the direction leads nowhere
    return float(min(real, key=lambda a: (a0 + a1 * a + a2 * a * a) * (b0 + b1 * a + b2 * a * a)))
