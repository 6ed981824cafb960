# SPDX-License-Identifier: MIT
"""Each network against what its publication tells: numbers of weights and layers, and what its design forbids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cryoet_engine.models import create_model

torch.set_num_threads(1)  # small tensors: threads would only wait for each other


def _weights(name: str, channels_in: int, channels_out: int) -> int:
    with torch.device("meta"):
        return create_model(name, in_channels=channels_in, out_channels=channels_out).n_weights()


def _count(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "channels", "published"),
    [
        ("ssn3d_v1", (1, 2), 2_042_158),  # paper 4, table 2
        ("ssn3d_v2", (1, 2), 2_042_342),
        ("ssn3d_ed", (1, 2), 895_746),
    ],
)
def test_published_number_of_weights(name: str, channels: tuple[int, int], published: int) -> None:
    assert _weights(name, *channels) == published


def test_densenet_has_the_published_layers_and_about_the_published_weights() -> None:
    """Bui et al. 2019: 47 layers, 1.55 million weights; two channels, four classes."""
    with torch.device("meta"):
        model = create_model("densenet3d", in_channels=2, out_channels=4)
    assert _count(model, nn.Conv3d, nn.ConvTranspose3d) == 47
    # By hand: stem, then of each block the way down, its bottlenecks and its 3x3x3, then up-convolutions, then the end.
    into, out = (32, 48, 56, 60), (96, 112, 120, 124)
    stem = 27 * (2 * 32 + 2 * 32 * 32)
    down = 8 * sum(c * c for c in into) + sum(a * b for a, b in zip(out, into[1:], strict=False))
    dense = sum((c + 16 * k) * 64 + 27 * 64 * 16 for c in into for k in range(4))
    up = sum(c * (2**k + 2) ** 3 for k, c in enumerate(out, start=1))
    assert model.n_weights() == stem + down + dense + up + 16 * 4 + 4 == 1_546_308
    norms = sum(p.numel() for p in model.parameters()) - model.n_weights()
    assert round(model.n_weights() / 1e6, 2) == round((model.n_weights() + norms) / 1e6, 2) == 1.55


def test_unet2d_weights_by_hand() -> None:
    """Channels of Ronneberger et al. 2015, every convolution with bias; one channel, two classes."""
    levels = [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    convolutions = [pair for a, b in levels for pair in ((a, b), (b, b))]
    convolutions += [pair for a, b in levels[1:] for pair in ((b, a), (a, a))]
    up = sum(4 * a * b + a for a, b in levels[1:])
    assert _weights("unet2d", 1, 2) == sum(9 * a * b + b for a, b in convolutions) + up + 64 * 2 + 2 == 31_030_658


def test_voxresnet_has_25_layers() -> None:
    """17 convolutions in the trunk, a 1x1x1 and an up-sampling for each of four side outputs; paper 5's last 1x1x1."""
    with torch.device("meta"):
        model: Any = create_model("voxresnet", out_channels=2)
    trunk = _count(model.stem, nn.Conv3d) + _count(model.stages, nn.Conv3d)
    sides = _count(model.sides, nn.Conv3d)
    assert (trunk, sides, trunk + 2 * sides) == (17, 4, 25)
    assert _count(model, nn.Conv3d) == trunk + sides + 1
    assert sum(module.stride == (2, 2, 2) for module in model.modules() if isinstance(module, nn.Conv3d)) == 3


def test_rsunet_never_samples_along_z() -> None:
    """The z extent is unchanged at every level, whatever it is; kernels are paper 1's, 7x7x5 in (x, y, z)."""
    model = create_model("rsunet3d", preset="small")
    extents = set()
    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(lambda module, given, made: extents.update((given[0].shape[2], made.shape[2])))
    with torch.inference_mode():
        assert model.eval()(torch.rand(1, 1, 7, 16, 16)).shape == (1, 1, 7, 16, 16)
    assert extents == {7}
    with torch.device("meta"):
        full = create_model("rsunet3d")
    kernels = {module.kernel_size for module in full.modules() if isinstance(module, nn.Conv3d)}
    assert kernels == {(5, 7, 7), (1, 3, 3), (1, 1, 1)}
    assert full.divisor == (1, 16, 16)


def test_unet2d_takes_slices_one_by_one() -> None:
    model = create_model("unet2d", preset="small", out_channels=3, activation="softmax").eval()
    x = torch.rand(1, 1, 5, 16, 16)
    with torch.inference_mode():
        whole = model.probabilities(x)
        single = torch.cat([model.probabilities(x[:, :, z : z + 1]) for z in range(5)], 2)
    torch.testing.assert_close(whole, single, atol=1e-6, rtol=0)
    torch.testing.assert_close(whole.sum(1), torch.ones(1, 5, 16, 16))


def test_ssn3d_v2_adds_finer_poolings() -> None:
    """With the wide layers silenced v1 has one answer for all voxels; v2 has its skips."""
    answers = {}
    for name in ("ssn3d_v1", "ssn3d_v2"):
        model: Any = create_model(name, preset="small").eval()
        with torch.inference_mode():
            model.score[-1].weight.zero_()
            answers[name] = float(model(torch.rand(1, 1, 16, 16, 16)).std())
    assert answers["ssn3d_v1"] == 0
    assert answers["ssn3d_v2"] > 1e-3
