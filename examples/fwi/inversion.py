"""Which ground gave these pressures: conjugate gradients with a multiplicative regularisation.

The two products with the matrix are all that takes time, and are given as
functions: they may run anywhere.
"""

from __future__ import annotations

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


class InversionError(ArithmeticError):
    """Report that the iteration has left the numbers, and where."""


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


def reconstruct(
    asked: Configuration,
    data: Complex,
    dotprod: Callable[[Real], Complex],
    update: Callable[[Complex], Complex],
    watch: Callable[[int, Real, float], object] = lambda number, chi, misfit: None,
) -> Result:
    """Return the contrasts (N,) that explain the pressures `data` (M,).

    `dotprod(chi)` gives K·chi, (M,), and `update(r)` the sum of each row's
    conjugate times r, (N,). `watch` is called at every evaluation, with its
    number, the contrasts and the misfit.

    Raises InversionError where the numbers are finite no more.
    """
    # In double precision: squares of small ones would be lost, and those of large ones be no numbers.
    data = np.asarray(data, np.complex128)

    def product(values: Real) -> Complex:
        return np.asarray(dotprod(values), np.complex128)

    norm = float(np.vdot(data, data).real)
    if norm == 0:
        return Result(np.zeros(asked.cells), [0.0], True)
    if not np.isfinite(norm):
        raise InversionError(f"the data hold what is no number: their norm is {norm}")
    eta, slopes = 1 / norm, Slopes(asked)
    descent = eta * _real(update(data))
    direction = old_descent = descent
    answer = product(direction)
    chi = _ratio(np.vdot(answer, data).real, np.vdot(answer, answer).real) * direction
    result = Result(chi)
    misfit, steer, weight, energy = 1.0, 0.0, np.zeros((asked.ngrid.z, asked.ngrid.x)), 1.0
    for number in range(asked.max):
        rest = data - product(chi)
        before, misfit = misfit, eta * float(np.vdot(rest, rest).real)
        if not np.isfinite(misfit):
            raise InversionError(f"the misfit is {misfit} at evaluation {number}")
        result.chi = chi
        result.residuals.append(misfit)
        watch(number, chi, misfit)
        if abs(before - misfit) < asked.tolerance:
            result.converged = True
            return result
        q = slopes.gradient(chi)
        steep = (q**2).sum(0)
        old_weight, floor = weight, _floor(steep, steer)
        weight = 1 / (slopes.area * floor)
        new_steer = 0.5 * 100 / (number + 1) * float((weight * steep).sum() / weight.sum())
        descent = before * slopes.divergence(old_weight * q) + eta * energy * _real(update(rest))
        gamma = _ratio(descent @ (descent - old_descent), old_descent @ old_descent)
        direction = descent + gamma * direction
        answer, slope = product(direction), slopes.gradient(direction)
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
        chi = chi + _step(fit, smooth) * direction
        energy = float(((slopes.gradient(chi) ** 2).sum(0) + steer).ravel() @ (1 / floor).ravel())
        energy *= slopes.cell / slopes.area
        old_descent, steer = descent, new_steer
    return result


def _real(values: Complex) -> Real:
    return np.asarray(values).real.astype(np.float64)


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else 0.0


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
        return 0.0
    return float(min(real, key=lambda a: (a0 + a1 * a + a2 * a * a) * (b0 + b1 * a + b2 * a * a)))
