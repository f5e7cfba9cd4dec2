"""Channels as functions of correlated normal variables: what is known of a tensor when only the weights are.

The values of channel c are f_c(z_c), where the z are standard normal with correlations rho. A function is known by its
values at the nodes of a quadrature (equal steps: exact to rounding for smooth functions, and kinks do little harm), so an
elementwise operator is simply run on them. In normalised Hermite polynomials, f_c = sum_k a_ck h_k, the covariance of any
two channels follows:

    Cov(f_c(z_c), f_d(z_d)) = sum over k > 0 of a_ck a_dk rho_cd^k

Source: Mehler 1866, the kernel that bears his name; Daniely et al. 2016, "Toward Deeper Understanding of Neural Networks",
section 4, for activations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import factorial
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermeval
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_POINTS = 129  # of the quadrature
_REACH = 8.0  # the normal variable lies within, but for 1e-15
_DEGREE = 10  # of the last polynomial: a ReLU is known to 0.1 % of its variance
_TINY = 1e-30

NODES: Floats = np.linspace(-_REACH, _REACH, _POINTS)
SHARES: Floats = np.exp(-np.square(NODES) / 2) / np.exp(-np.square(NODES) / 2).sum()
_POLYNOMIALS = np.stack([hermeval(NODES, np.eye(_DEGREE + 1)[k]) / np.sqrt(factorial(k)) for k in range(_DEGREE + 1)])


@dataclass(frozen=True, eq=False)
class Channels:
    """What is expected of the channels of one tensor.

    Attributes:
        axis: their axis.
        values: `(C, points)`, each channel at the nodes of its normal variable.
        correlation: of those variables `(C, C)`; tensors that hold the same array are functions of the same variables.
    """

    axis: int
    values: Floats
    correlation: Floats

    @classmethod
    def normal(cls, axis: int, mean: Floats, covariance: Floats) -> Channels:
        """Jointly normal channels, of their means `(C,)` and their covariance `(C, C)`."""
        deviation = np.sqrt(np.maximum(np.diagonal(covariance), _TINY))
        correlation = np.clip(covariance / np.outer(deviation, deviation), -1, 1)
        return cls(axis, mean[:, None] + deviation[:, None] * NODES, correlation)

    @classmethod
    def independent(cls, axis: int, mean: Floats, deviation: Floats) -> Channels:
        """Normal channels that have nothing to do with each other."""
        return cls.normal(axis, mean, np.diag(np.square(deviation)))

    @property
    def count(self) -> int:
        """C."""
        return len(self.values)

    @cached_property
    def mean(self) -> Floats:
        """`(C,)`."""
        return np.asarray(self.values @ SHARES)

    @cached_property
    def variance(self) -> Floats:
        """`(C,)`."""
        return np.asarray(np.maximum(np.square(self.values - self.mean[:, None]) @ SHARES, 0.0))

    @cached_property
    def covariance(self) -> Floats:
        """`(C, C)`."""
        coefficients = (self.values * SHARES) @ _POLYNOMIALS.T
        total, power = np.zeros_like(self.correlation), np.ones_like(self.correlation)
        for column in coefficients.T[1:]:
            power *= self.correlation
            total += power * column[:, None] * column
        np.fill_diagonal(total, self.variance)
        return total

    @property
    def zeros(self) -> Floats:
        """Share of values that are 0 or less `(C,)`."""
        return np.asarray((self.values <= 0) @ SHARES)

    def take(self, axis: int, places: NDArray[np.intp], alike: float) -> Channels:
        """Channels picked, more than once where a tensor unfolds positions.

        Args:
            axis: where they are now.
            places: which `(n,)`; the k-th time a channel comes, it is at the k-th position.
            alike: factor of correlations between different positions.
        """
        correlation = self.correlation[np.ix_(places, places)]
        order = np.argsort(places, kind="stable")
        _, first, counts = np.unique(places[order], return_index=True, return_counts=True)
        position = np.empty(places.size, np.intp)
        position[order] = np.arange(places.size) - np.repeat(first, counts)
        if position.any():
            correlation = correlation * np.where(position[:, None] == position, 1.0, alike)
        return Channels(axis, self.values[places], correlation)

    def mapped(self, values: NDArray[Any]) -> Channels:
        """Other functions of the same variables."""
        return replace(self, values=np.array(np.broadcast_to(values, (self.count, _POINTS)), np.float64))

    def standard(self) -> Floats:
        """Values with mean 0 and variance 1."""
        return np.asarray((self.values - self.mean[:, None]) / np.sqrt(np.maximum(self.variance, _TINY))[:, None])


def plus(a: Channels, b: Channels) -> Channels:
    """Normal channels with the moments of a sum of independent summands."""
    return Channels.normal(a.axis, a.mean + b.mean, a.covariance + b.covariance)


def minus(a: Channels, b: Channels) -> Channels:
    """The same of a difference."""
    return Channels.normal(a.axis, a.mean - b.mean, a.covariance + b.covariance)


def times(a: Channels, b: Channels) -> Channels:
    """The same of a product of independent factors."""
    mean_a, mean_b = np.outer(a.mean, a.mean), np.outer(b.mean, b.mean)
    return Channels.normal(a.axis, a.mean * b.mean, a.covariance * (b.covariance + mean_b) + mean_a * b.covariance)
