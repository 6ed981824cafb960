# SPDX-License-Identifier: MIT
"""The 3D U-Net against its paper, and against what it says of itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoet_engine import CryoETError
from cryoet_engine.models import create_model
from cryoet_engine.models.reach import u_shaped_radius

torch.set_num_threads(1)  # small tensors: threads would only wait for each other


def test_published_number_of_weights() -> None:
    """Cicek et al. 2016: 19 069 955, three channels in and out, batch normalisation left out."""
    model = create_model("unet3d", in_channels=3, out_channels=3)
    assert model.n_weights() == 19_069_955
    # By hand, so that the counting itself is no oracle of its own: convolutions with bias, up-convolutions without.
    conv = [(3, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    conv += [(512 + 256, 256), (256, 256), (256 + 128, 128), (128, 128), (128 + 64, 64), (64, 64)]
    by_hand = sum(27 * a * b + b for a, b in conv) + 8 * (512**2 + 256**2 + 128**2) + 64 * 3 + 3
    assert by_hand == 19_069_955
    norms = sum(p.numel() for p in model.parameters()) - model.n_weights()
    assert norms == 2 * sum(b for _, b in conv)


def test_channels_double_before_each_pooling() -> None:
    model = create_model("unet3d")
    shapes = [(block[0].out_channels, block[3].out_channels) for block in model.analysis]  # type: ignore[union-attr]
    assert shapes == [(32, 64), (64, 128), (128, 256), (256, 512)]


def test_receptive_radius_is_exact() -> None:
    """Disturb one voxel after the other: the outputs that change lie within the radius, and one lies on it."""
    model = create_model("unet3d", preset="small").double().eval()
    radius = model.receptive_radius[0]
    assert model.receptive_radius == (radius,) * 3
    with torch.no_grad():
        for parameter in model.parameters():  # all positive: nothing cancels, ReLU passes all
            parameter.copy_(parameter.abs() + 0.1 / parameter[0].numel())
    length = 2 * (radius + 1 + 8) // 8 * 8 + 8
    with torch.inference_mode():
        flat = torch.ones(1, 1, length, 8, 8, dtype=torch.float64)
        before = model(flat)
        reach = []
        for position in range(length // 2, length // 2 + 8):  # every place on the pooling grid
            changed = flat.clone()
            changed[0, 0, position] = 1e3  # larger, so that max pooling takes it
            moved = torch.nonzero((model(changed) != before)[0, 0, :, 0, 0])[:, 0] - position
            reach += [int(-moved.min()), int(moved.max())]
    assert max(reach) == radius


@pytest.mark.parametrize(("depth", "radius"), [(0, 2), (1, 9), (2, 23), (3, 51)])
def test_receptive_radius_by_depth(depth: int, radius: int) -> None:
    assert u_shaped_radius(depth, block=2) == radius


def test_commutes_with_shifts_on_its_grid() -> None:
    model = create_model("unet3d", preset="small", seed=3).eval()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 8, 8, 144)).astype(np.float32))
    with torch.inference_mode():
        a, b = model(x), model(x.roll(8, -1))
    middle = slice(64, 80)  # out of reach of both ends
    torch.testing.assert_close(b[..., middle], a.roll(8, -1)[..., middle], atol=1e-6, rtol=0)  # measured: 2e-7


@pytest.mark.parametrize("shape", [(1, 1, 12, 16, 16), (1, 2, 16, 16, 16), (1, 16, 16, 16), (1, 1, 0, 16, 16)])
def test_refuses_other_inputs(shape: tuple[int, ...]) -> None:
    with pytest.raises(CryoETError, match="unet3d: input"):
        create_model("unet3d", preset="small")(torch.zeros(shape))
