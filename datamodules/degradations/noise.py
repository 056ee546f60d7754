"""Noise: `gaussian_noise`, `salt_pepper_noise` and `poisson_noise`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import numpy as np

from datamodules.degradations.base import draw_seed, rounded

SPOILT = 0.05  # share of pixels that salt and pepper take
PEAK = 100  # photons at white
DRAWS = 4096  # quantiles of a Poisson distribution that are told apart


@dataclass(frozen=True, slots=True)
class GaussianNoise:
    """Adds independent noise of standard deviation `sigma` to every value (255 is white)."""

    sigma: float
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        grain = np.random.default_rng(self.seed).standard_normal(image.shape, np.float32)
        grain *= self.sigma
        grain += image
        return rounded(grain)


@dataclass(frozen=True, slots=True)
class SaltPepperNoise:
    """Replaces SPOILT of all pixels, half of them by white, half by black; at least one pixel each."""

    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        chance = np.random.default_rng(self.seed).random(image.shape[1:], np.float32)
        noisy = image.copy()
        noisy[:, chance <= max(SPOILT / 2, chance.min())] = 255
        noisy[:, chance >= min(1 - SPOILT / 2, chance.max())] = 0
        return noisy


@dataclass(frozen=True, slots=True)
class PoissonNoise:
    """Replaces every value by a photon count of its own, with PEAK photons expected at white."""

    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        chance = np.random.default_rng(self.seed).integers(0, DRAWS, image.shape, np.uint16)
        return _photons()[image, chance]


@cache
def _photons() -> np.ndarray:
    """A table of noisy values, uint8 (256 values, DRAWS): quantiles of Poisson laws, the outermost at 1 / 8192.

    Looking them up takes a fifth of the time of numpy's own sampler.
    """
    counts = np.arange(3 * PEAK)
    rate = np.arange(256)[:, None] * (PEAK / 255)
    factorial = np.concatenate(([0.0], np.cumsum(np.log(counts[1:]))))
    law = np.exp(counts * np.log(np.maximum(rate, 1e-300)) - rate - factorial)
    below, quantiles = np.cumsum(law, axis=1), (np.arange(DRAWS) + 0.5) / DRAWS
    drawn = np.stack([np.searchsorted(row, quantiles) for row in below])
    return rounded(drawn * (255 / PEAK))


def gaussian_noise(rng: random.Random) -> GaussianNoise:
    """Draw a standard deviation of 10 to 50 grey levels."""
    return GaussianNoise(rng.uniform(10, 50), draw_seed(rng))


def salt_pepper_noise(rng: random.Random) -> SaltPepperNoise:
    """Draw the seed; the strength is fixed."""
    return SaltPepperNoise(draw_seed(rng))


def poisson_noise(rng: random.Random) -> PoissonNoise:
    """Draw the seed; the strength is fixed."""
    return PoissonNoise(draw_seed(rng))
