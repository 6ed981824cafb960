# SPDX-License-Identifier: MIT
"""Do tiles show? The error against the network on the whole volume at once, by the distance from the tiles' borders.

`python benchmarks/seams.py` makes docs/pictures/seams.png and prints the largest errors. Networks: one of three layers,
which sees 3 voxels far, less than half the overlap; and `unet3d` small, trained for a minute or two on a simulated
tomogram of virions, which may see 51.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import cryoet_engine as ce
from cryoet_engine.models import ModelConfig, SegmentationModel, load_model, register
from cryoet_engine.simulate import VirionRecipe, simulate
from cryoet_engine.tiling import tile_starts
from cryoet_engine.training import TrainingSettings, train

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "seams.png"
SHAPE, TILE, OVERLAP = (64, 160, 160), 64, 16
BLENDS = {"plain": "plain ramps (the paper's)", "gaussian": "Gaussian", "trimmed": "trimmed ramps (default)"}
COLORS = {"plain": "#c2410c", "gaussian": "#64748b", "trimmed": "#1d4ed8"}


@register("benchmark_three_layers")
class _ThreeLayers(SegmentationModel):
    presets = ("full",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        layers = [nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv3d(8, config.out_channels, 3, padding=1))
        self.divisor, self.receptive_radius = (1, 1, 1), (3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


def virions() -> tuple[ce.Volume, ce.Volume]:
    """A tomogram and its truth as labels from 1 on."""
    made = simulate(VirionRecipe(shape=SHAPE, n_virions=4, diameter_nm=(50.0, 60.0), n_spikes=(10, 15), seed=3))
    return made.tomogram, made.truth.with_data(made.truth.numpy() + 1)


def networks(volume: ce.Volume, truth: ce.Volume, net: Path | None, steps: int) -> dict[str, SegmentationModel]:
    torch.manual_seed(0)
    small = ce.create_model("benchmark_three_layers", preset="full", out_channels=4, activation="softmax").eval()
    with torch.no_grad():
        small.layers[-1].weight.mul_(4)  # probabilities that differ
    if net is not None and net.exists():
        real, _ = load_model(net)
    else:
        real = ce.create_model("unet3d", preset="small", out_channels=4)
        settings = TrainingSettings(patch=32, batch=2, validation_share=0, patches_per_epoch=100, device="cpu")
        train(real, [(volume, truth)], steps=steps, settings=settings, out=net)
    return {"three layers, reach 3": small, "unet3d small, trained, reach 51": real}


def whole(model: SegmentationModel, volume: ce.Volume) -> np.ndarray:
    """One tile that is the volume."""
    return ce.segment(model, volume, tile=max(volume.shape), overlap=0, dtype="float32", device="cpu").data


def errors(model: SegmentationModel, volume: ce.Volume, expected: np.ndarray) -> dict[str, np.ndarray]:
    """By blend: the largest error over the classes, (z, y, x)."""
    how = {"tile": TILE, "overlap": OVERLAP, "dtype": "float32", "device": "cpu"}
    return {
        blend: np.abs(ce.segment(model, volume, blend=blend, **how).data - expected).max(axis=0) for blend in BLENDS
    }


def distance(shape: tuple[int, int, int]) -> np.ndarray:
    """Voxels to the nearest face of a tile that lies within the volume, (y, x); a layer is as deep as the volume."""
    axes = []
    for n in shape[1:]:
        starts = tile_starts(n, TILE, OVERLAP)
        faces = [s for s in starts if s > 0] + [s + TILE for s in starts if s + TILE < n]
        axes.append(np.abs(np.arange(n)[:, None] + 0.5 - np.array(faces)).min(axis=1))
    return np.minimum(axes[0][:, None], axes[1])


def draw(volume: ce.Volume, classes: np.ndarray, found: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """classes: most probable ones of the last network on the whole volume, (z, y, x)."""
    plt.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    figure = plt.figure(figsize=(10, 6.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    far = np.floor(distance(volume.shape)).astype(int)
    bins = np.arange(far.max() + 1)
    for axes, (name, by_blend) in zip(above.subplots(1, 2, sharey=True), found.items(), strict=True):
        for blend, error in by_blend.items():
            largest = [max(float(error[:, far == k].max()), 1e-8) for k in bins]
            mean = [max(float(error[:, far == k].mean()), 1e-8) for k in bins]
            axes.semilogy(bins + 0.5, largest, color=COLORS[blend], lw=1.6, label=BLENDS[blend])
            axes.semilogy(bins + 0.5, mean, color=COLORS[blend], lw=1, ls=":")
        axes.set_title(name)
        axes.set_xlabel("distance from the nearest tile face (voxels)")
        axes.set_ylim(5e-9, 2)
        axes.axhline(1 / 510, color="#9ca3af", lw=0.8)
        axes.text(bins[-1], 1 / 510, "half a step of uint8 ", ha="right", va="bottom", fontsize=7, color="#6b7280")
    above.axes[0].set_ylabel("error against untiled\nsolid: largest, dotted: mean")
    above.axes[1].legend(frameon=False, fontsize=8, loc="lower left")
    name, by_blend = list(found.items())[1]
    z = volume.shape[0] // 2
    panels = below.subplots(1, 4)
    panels[0].imshow(volume.data[z], cmap="gray", interpolation="nearest")
    panels[0].contour(classes[z] > 0, levels=[0.5], colors="#f59e0b", linewidths=0.7)
    panels[0].set_title("middle slice, objects outlined", fontsize=9)
    top = float(max(error[z].max() for error in by_blend.values()))
    for axes, (blend, error) in zip(panels[1:], by_blend.items(), strict=True):
        image = axes.imshow(error[z], cmap="magma", vmin=0, vmax=top, interpolation="nearest")
        axes.set_title(BLENDS[blend], fontsize=9)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
    below.colorbar(image, ax=panels[-1], shrink=0.8, label="error")
    below.suptitle(f"{name}: tiles of {TILE}, overlap {OVERLAP}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=PICTURE)
    parser.add_argument("--steps", type=int, default=200, help="of the training")
    parser.add_argument("--net", type=Path, help="where the trained network is kept, to be drawn again")
    args = parser.parse_args()
    volume, truth = virions()
    found = {}
    for name, model in networks(volume, truth, args.net, args.steps).items():
        untiled = whole(model, volume)
        found[name] = errors(model, volume, untiled)
        for blend, error in found[name].items():
            share = float((error > 0.1).mean())
            print(f"{name:<36}{blend:<10} largest {error.max():.1e}, mean {error.mean():.1e}, over 0.1 in {share:.2%}")
    draw(volume, untiled.argmax(axis=0), found, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
