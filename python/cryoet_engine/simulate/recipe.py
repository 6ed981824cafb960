# SPDX-License-Identifier: MIT
"""What to simulate: every number that decides a tomogram, in one frozen, checked, storable object.

A recipe is a table of TOML: `kind`, and the fields that differ from their defaults. What is written names every field,
and what the labels mean.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from .._checks import input_error
from ._ranges import check_fields, span, text, triple, within
from .microscope import Imaging

#: In the order of the truth's numbers: 0 is the first. Strokes are one higher.
CLASSES = ("background", "membrane", "spikes", "lumen")

#: What every specimen holds beside its own: part -> class.
SURROUNDINGS = {
    "ice": "background",
    "free protein": "background",
    "gold": "background",
    "beyond the ice": "background",
    "film at the ice's border": "background",
}


@dataclass(frozen=True, kw_only=True)
class StoredRecipe:
    """What recipes of every kind have in common: a size, a seed, names of what is labelled, and a form as TOML.

    shape: of the tomogram, (z, y, x) in voxels. voxel_size_A: edge of a cubic voxel.
    seed: the same recipe, seed included, gives the same bytes.
    """

    kind: ClassVar[str]

    shape: tuple[int, int, int] = triple((128, 192, 192), 8, 4096, whole=True)
    voxel_size_A: float = within(12.0, 1, 40)
    seed: int = within(0, 0, 2**63 - 1, whole=True)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def parts(self) -> Mapping[str, str]:
        """Finer labels: part -> class; a part's number is its place, the first being what is there where nothing is."""
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the truth's classes, in the order of their numbers: 0 is the first, the background."""
        return tuple(dict.fromkeys(self.parts.values()))

    def to_toml(self) -> str:
        """The recipe as TOML: kind, classes, parts, then every field."""
        import tomli_w

        entries = {"kind": self.kind, "classes": list(self.classes), "parts": list(self.parts)}
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return tomli_w.dumps(entries | {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()})

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read what `to_toml` wrote. Missing fields take their defaults; unknown ones are an InputError."""
        where = f"{cls.__name__}.from_toml"
        try:
            entries = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise input_error(where, "text", expected="TOML", got=str(error)) from error
        return cls.from_entries(entries)

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> Self:
        """From a table of TOML; `classes` and `parts`, if there, have to be those that the recipe gives."""
        where = cls.__name__
        rest = dict(entries)
        told = {name: rest.pop(name, None) for name in ("kind", "classes", "parts")}
        if told["kind"] not in (None, cls.kind):
            raise input_error(where, "kind", expected=cls.kind, got=repr(told["kind"]))
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(rest.keys() - set(known)):
            expected = f"only {', '.join(known)}"
            raise input_error(where, "entries", expected=expected, got=", ".join(unknown), fix="remove or correct them")
        recipe = cls(**rest)
        for name in ("classes", "parts"):
            made = list(getattr(recipe, name))
            if told[name] not in (None, made):
                raise input_error(where, name, expected=repr(made), got=repr(told[name]), fix="leave it out")
        return recipe


@dataclass(frozen=True, kw_only=True)
class Recipe(StoredRecipe, Imaging):
    """What all specimens in ice have in common, and how they are recorded (see `StoredRecipe` and `Imaging`).

    clutter_per_um3: free proteins in the ice, which belong to the background.
    n_gold: fiducials of 10 nm, which belong to the background.
    film_nm: thickness of the denatured protein that covers both borders between ice and air; 0 is none.
    border_roughness_nm: standard deviation of the height of these borders.
    """

    clutter_per_um3: float = within(8000.0, 0, 1e6)
    n_gold: int = within(2, 0, 1000, whole=True)
    film_nm: float = within(2.0, 0, 20)
    border_roughness_nm: float = within(2.0, 0, 50)

    def __post_init__(self) -> None:
        StoredRecipe.__post_init__(self)
        Imaging.__post_init__(self)

    @property
    def parts(self) -> Mapping[str, str]:
        """Finer labels: part -> class; a part's number is its place, the first being plain ice."""
        return SURROUNDINGS


@dataclass(frozen=True, kw_only=True)
class VirionRecipe(Recipe):
    """SARS-CoV-2-like virions in ice, and how they are recorded (see `Recipe` and `Imaging` for the other fields).

    n_virions: to place; where not all fit, `Simulation.notes` says how many did.
    diameter_nm: least and largest diameter of the envelope, spikes not counted (Klein et al. 2020: about 90 nm).
    deformation: root mean square deviation from a sphere, as a share of the radius.
    n_spikes: least and largest number of spikes on a virion (Ke et al. 2020: 24 +- 9; Yao et al. 2020: 26 +- 15).
    spike_tilt_deg: standard deviation of a spike's lean from the membrane's normal, cut off at 60 degrees.
    spike_structure: file of an atomic model or map of the spike (PDB 6VXX); empty: a parametric trimer.
    n_ribonucleoproteins: beads of 14 nm wanted in a virion's lumen; small virions hold fewer.
    """

    kind: ClassVar[str] = "virions"

    n_virions: int = within(5, 1, 10_000, whole=True)
    diameter_nm: tuple[float, float] = span((80.0, 100.0), 40, 400)
    deformation: float = within(0.04, 0, 0.15)
    n_spikes: tuple[int, int] = span((25, 40), 0, 500, whole=True)
    spike_tilt_deg: float = within(25.0, 0, 60)
    spike_structure: str = text()
    n_ribonucleoproteins: int = within(38, 0, 1000, whole=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thickness_nm < self.diameter_nm[1]:
            expected = f"at least the largest virion's {self.diameter_nm[1]:g}"
            fix = "use thicker ice"
            raise input_error(type(self).__name__, "thickness_nm", expected=expected, got=self.thickness_nm, fix=fix)

    @property
    def parts(self) -> Mapping[str, str]:
        """Part -> class."""
        return SURROUNDINGS | {
            "outer leaflet": "membrane",
            "inner leaflet": "membrane",
            "M endodomains": "membrane",
            "spike": "spikes",
            "lumen": "lumen",
            "ribonucleoprotein": "lumen",
        }


def demo_recipes() -> tuple[VirionRecipe, VirionRecipe]:
    """The two tomograms of the demo; they differ as two real ones of one session or of two would.

    The second has other virions, less defocus, less dose, thicker ice and another grey scale.
    """
    first = VirionRecipe(seed=101, defocus_um=4.0, dose_e_per_A2=130.0, thickness_nm=150.0, gain=26.0, offset=0.0)
    second = VirionRecipe(
        seed=102, defocus_um=2.8, dose_e_per_A2=110.0, thickness_nm=180.0, gain=21.0, offset=9.0, n_spikes=(20, 35)
    )
    return first, second
