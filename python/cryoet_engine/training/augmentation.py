# SPDX-License-Identifier: MIT
"""Variations of patches, computed in batches on the device.

Every strength is drawn from the numpy generator that is handed in, so that a step is a function of its number alone.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import Augmentation

_Z, _Y, _X = -3, -2, -1


def augment(x: Tensor, target: Tensor, options: Augmentation, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Vary normalised patches x (batch, 1, z, y, x) and, where they are moved, their targets (batch, ..., z, y, x)."""
    moved = [_move(*pair, options, rng) for pair in zip(x, target, strict=True)]
    x, target = torch.stack([pair[0] for pair in moved]), torch.stack([pair[1] for pair in moved])
    noise = torch.Generator(device=x.device).manual_seed(int(rng.integers(2**63)))
    return torch.stack([_grey(patch, options, rng, noise) for patch in x]), target


def _move(x: Tensor, target: Tensor, options: Augmentation, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mirror and turn about z. A turn needs a patch as long in y as in x."""
    flipped = [axis for axis in (_Z, _Y, _X) if rng.random() < 0.5 and options.flips]
    turned = rng.random() < 0.5 and options.turns and x.shape[_Y] == x.shape[_X]
    if turned:
        # With both mirrors a transposition gives all eight orientations; without them, a true turn is needed.
        x, target = (t.transpose(_Y, _X) if options.flips else t.rot90(1, (_Y, _X)) for t in (x, target))
    return x.flip(flipped), target.flip(flipped)


def _grey(x: Tensor, options: Augmentation, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Change the grey values of one patch (1, z, y, x)."""
    before = x.std(correction=0)
    sigma, amount = rng.uniform(0.5, max(options.blur, 0.5)), rng.uniform(-1, 0.5)
    if options.blur > 0 and rng.random() < 0.5:
        smooth = _gaussian(x, sigma)
        x = smooth + (1 + amount) * (x - smooth)  # amount -1: smoothed; above 0: sharpened
    strength = rng.uniform(0, options.noise)
    if options.noise > 0 and rng.random() < 0.5:
        x = x + strength * torch.randn(x.shape, generator=generator, device=x.device)
    # A tomogram with more noise or less detail is normalised to the same deviation: so is the patch.
    x = x * (before / x.std(correction=0).clamp_min(1e-6))
    exponent = float(np.exp(rng.uniform(-1, 1) * np.log1p(options.gamma)))
    if options.gamma > 0 and rng.random() < 0.5:
        low, span = x.min(), (x.max() - x.min()).clamp_min(1e-6)
        x = ((x - low) / span).clamp(0, 1) ** exponent * span + low
    factor = np.exp(rng.uniform(-1, 1) * np.log1p(options.contrast))
    return x * float(factor) + rng.uniform(-1, 1) * options.brightness


def _gaussian(x: Tensor, sigma: float) -> Tensor:
    """Smooth (1, z, y, x): three passes of shifted sums, quicker than convolutions of one channel."""
    radius = int(3 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    x = F.pad(x[None], (radius,) * 6, mode="replicate")[0]
    for axis in (_Z, _Y, _X):
        length = x.shape[axis] - 2 * radius
        out = x.narrow(axis, 0, length) * float(taps[0])
        for k in range(1, len(taps)):
            out.add_(x.narrow(axis, k, length), alpha=float(taps[k]))
        x = out
    return x
