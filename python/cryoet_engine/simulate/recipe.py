# SPDX-License-Identifier: MIT
"""What to simulate: every number that decides a tomogram, in one frozen, checked, storable object."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Self

from .._checks import input_error
from ._ranges import number, numbers
from .microscope import Imaging

#: In the order of the labels: `truth` stores 1 for the first.
CLASSES = ("background", "membrane", "spikes", "lumen")


@dataclass(frozen=True, kw_only=True)
class VirionRecipe(Imaging):
    """SARS-CoV-2-like virions in ice, and how they are recorded (see `Imaging` for the rest of the fields).

    shape: of the tomogram, (z, y, x) in voxels. voxel_size_A: edge of a cubic voxel.
    seed: the same recipe, seed included, gives the same bytes.
    n_virions: to place; where not all fit, `Simulation.notes` says how many did.
    diameter_nm: least and largest diameter of the envelope, spikes not counted (Klein et al. 2020: about 90 nm).
    deformation: root mean square deviation from a sphere, as a share of the radius.
    n_spikes: least and largest number of spikes on a virion (Ke et al. 2020: 24 +- 9; Yao et al. 2020: 26 +- 15).
    spike_tilt_deg: standard deviation of a spike's lean from the membrane's normal, cut off at 60 degrees.
    n_ribonucleoproteins: beads of 14 nm wanted in a virion's lumen; small virions hold fewer.
    clutter_per_um3: free proteins in the ice, which belong to the background.
    n_gold: fiducials of 10 nm, which belong to the background.
    """

    shape: tuple[int, int, int] = (128, 192, 192)
    voxel_size_A: float = 12.0
    seed: int = 0
    n_virions: int = 5
    diameter_nm: tuple[float, float] = (80.0, 100.0)
    deformation: float = 0.04
    n_spikes: tuple[int, int] = (25, 40)
    spike_tilt_deg: float = 25.0
    n_ribonucleoproteins: int = 38
    clutter_per_um3: float = 8000.0
    n_gold: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        singles = {
            "voxel_size_A": (1.0, 40.0, False),
            "seed": (0, 2**63 - 1, True),
            "n_virions": (1, 10_000, True),
            "deformation": (0.0, 0.15, False),
            "spike_tilt_deg": (0.0, 60.0, False),
            "n_ribonucleoproteins": (0, 1000, True),
            "clutter_per_um3": (0.0, 1e6, False),
            "n_gold": (0, 1000, True),
        }
        for name, (low, high, whole) in singles.items():
            object.__setattr__(self, name, number(where, name, getattr(self, name), low, high, whole=whole))
        groups = {
            "shape": (8, 4096, 3, True),
            "diameter_nm": (40.0, 400.0, 2, False),
            "n_spikes": (0, 500, 2, True),
        }
        for name, (low, high, count, whole) in groups.items():
            values = numbers(where, name, getattr(self, name), low, high, count=count, whole=whole)
            object.__setattr__(self, name, values)
        for name in ("diameter_nm", "n_spikes"):
            least, largest = getattr(self, name)
            if least > largest:
                raise input_error(where, name, expected="the least first, then the largest", got=(least, largest))
        if self.thickness_nm < self.diameter_nm[1]:
            expected = f"at least the largest virion's {self.diameter_nm[1]:g}"
            raise input_error(where, "thickness_nm", expected=expected, got=self.thickness_nm, fix="use thicker ice")

    def to_json(self) -> str:
        """The recipe as a JSON object, one field a line."""
        return json.dumps({"kind": "virions", **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Missing fields take their defaults; unknown ones are an InputError."""
        where = f"{cls.__name__}.from_json"
        try:
            entries = json.loads(text)
        except ValueError as error:
            raise input_error(where, "text", expected="JSON", got=str(error)) from error
        if not isinstance(entries, dict):
            raise input_error(where, "text", expected="a JSON object", got=type(entries).__name__)
        if (kind := entries.pop("kind", "virions")) != "virions":
            raise input_error(where, "kind", expected="virions", got=repr(kind))
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(entries.keys() - known):
            expected = f"only {', '.join(sorted(known))}"
            raise input_error(where, "entries", expected=expected, got=", ".join(unknown), fix="remove or correct them")
        return cls(**entries)


def demo_recipes() -> tuple[VirionRecipe, VirionRecipe]:
    """The two tomograms of the demo; they differ as two real ones of one session or of two would.

    The second has other virions, less defocus, less dose, thicker ice and another grey scale.
    """
    first = VirionRecipe(seed=101, defocus_um=4.0, dose_e_per_A2=130.0, thickness_nm=150.0, gain=26.0, offset=0.0)
    second = VirionRecipe(
        seed=102, defocus_um=2.8, dose_e_per_A2=110.0, thickness_nm=180.0, gain=21.0, offset=9.0, n_spikes=(20, 35)
    )
    return first, second
