# SPDX-License-Identifier: MIT
"""A simulated tomogram as a folder, and the one file in it from which all of it can be made again.

`recipe.toml` holds the recipe and, in a table `strokes`, how the scripted annotator draws; `strokes = false` is none.
"""

from __future__ import annotations

import csv
import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import io
from .._checks import input_error
from .._progress import Progress, silent
from ..cuda.device import DeviceName
from ..volume import Volume
from ._ranges import check_fields, within
from .membranes2d import Membranes2DRecipe
from .recipe import StoredRecipe
from .specimen import Particle
from .strokes import draw_strokes
from .tomogram import KINDS, Simulation, simulate

RECIPE, PARTICLES, SLICES = "recipe.toml", "particles.csv", "slices.png"
TOMOGRAM, TRUTH, PARTS, INSTANCES, STROKES = (
    f"{name}.mrc" for name in ("tomogram", "truth", "parts", "instances", "strokes")
)
#: All that a simulated tomogram's folder holds; the slices are drawn by who can draw.
FILES = (TOMOGRAM, TRUTH, PARTS, INSTANCES, PARTICLES, STROKES, RECIPE, SLICES)
_IMAGES_A_STROKED_ONE = 20
_COLUMNS = ("instance", "part", "z_vox", "y_vox", "x_vox", "rot_deg", "tilt_deg", "psi_deg", "whole")


@dataclass(frozen=True, kw_only=True)
class StrokeSettings:
    """How strokes are drawn; see `draw_strokes`. The seed is the recipe's.

    slices: xy slices that are drawn on; a thinner tomogram has fewer. fraction: of all voxels to paint.
    error_rate: share of painted voxels with a neighbouring class's label. brush_vox: diameter of the brush.
    """

    slices: int = within(3, 1, 65536, whole=True)
    fraction: float = within(0.002, 1e-7, 0.5)
    error_rate: float = within(0.0, 0, 0.5)
    brush_vox: float = within(2.5, 1, 50)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One tomogram to make: what a folder's `recipe.toml` says. strokes: None where none are drawn."""

    recipe: StoredRecipe
    strokes: StrokeSettings | None = field(default_factory=StrokeSettings)

    def to_toml(self) -> str:
        """The recipe's fields, then the table `strokes`."""
        import tomli_w

        strokes = self.strokes is not None and dataclasses.asdict(self.strokes)
        return self.recipe.to_toml() + "\n" + tomli_w.dumps({"strokes": strokes})


def read_plan(text: str, *, folder: Path | None = None, kind: str | None = None) -> Plan:
    """A plan from TOML; what is missing takes its default.

    folder: from which the names of structure files are meant, the recipe's own; None: the working folder.
    kind: the one that is wanted; it may then be missing from the text.
    Errors: InputError for what is not TOML, another kind, unknown entries, values that make no sense.
    """
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise input_error("recipe", "text", expected="TOML", got=str(error)) from error
    return plan_from_entries(entries, folder=folder, kind=kind)


def plan_from_entries(entries: Mapping[str, Any], *, folder: Path | None = None, kind: str | None = None) -> Plan:
    """The same from a table of TOML."""
    rest = dict(entries)
    strokes = rest.pop("strokes", {})
    told = str(rest.get("kind", kind))
    if told not in KINDS or (kind is not None and told != kind):
        expected = kind if kind is not None else "one of " + ", ".join(KINDS)
        raise input_error("recipe", "kind", expected=expected, got=repr(rest.get("kind")))
    recipe = KINDS[told].from_entries(with_whole_paths(rest, folder))
    if isinstance(recipe, Membranes2DRecipe) and isinstance(strokes, Mapping):
        # Images of a stack have nothing to do with each other: each that is drawn on gets its fair share of strokes.
        strokes = {"slices": max(StrokeSettings().slices, recipe.shape[0] // _IMAGES_A_STROKED_ONE), **strokes}
    return Plan(recipe=recipe, strokes=read_strokes(strokes))


def read_strokes(entries: Any) -> StrokeSettings | None:
    """From a table of TOML, or from `false`."""
    if entries is False:
        return None
    if not isinstance(entries, Mapping):
        raise input_error("recipe", "strokes", expected="a table, or false", got=repr(entries))
    known = [one.name for one in dataclasses.fields(StrokeSettings)]
    if unknown := sorted(entries.keys() - set(known)):
        raise input_error("strokes", "entries", expected=f"only {', '.join(known)}", got=", ".join(unknown))
    return StrokeSettings(**entries)


def with_whole_paths(entries: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """A recipe's entries with structure files by their whole paths, so that it can go anywhere on this machine.

    A name that is no file's stays what it is: who reads structures says what is wrong with it.
    """

    def whole(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: whole(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [whole(one) for one in value]
        path = (folder or Path()) / value if isinstance(value, str) and Path(value).suffix else None
        return str(path.resolve()) if path and path.exists() else value

    return {name: whole(value) if "structure" in name else value for name, value in entries.items()}


def make_folder(
    plan: Plan,
    folder: Path,
    *,
    device: DeviceName = "cpu",
    finish: Callable[[Path], None] | None = None,
    progress: Progress = silent,
) -> tuple[str, ...]:
    """Simulate a tomogram into a folder, which appears when it is whole, and replaces only a folder of its own kind.

    device: see `simulate`. finish: adds to the folder while it does not bear its name yet. Returns `Simulation.notes`.
    An exception from `progress` cancels and leaves nothing.
    """
    with io.partial_path(folder, replaces=(RECIPE,)) as partial:
        partial.mkdir()
        made = simulate(plan.recipe, device=device, progress=progress)
        write_simulation(partial, made, strokes=plan.strokes, progress=progress)
        if finish:
            finish(partial)
    return made.notes


def write_simulation(
    folder: Path, made: Simulation, *, strokes: StrokeSettings | None = None, progress: Progress = silent
) -> None:
    """Write a simulated tomogram's files (`FILES`) into a folder that is there, all but the slices.

    strokes: how to draw them; None leaves `strokes.mrc` out. Notes of the simulation go into the tomogram's header.
    """
    tomogram = dataclasses.replace(made.tomogram, notes=(*made.tomogram.notes, *made.notes))
    volumes = {TOMOGRAM: tomogram, TRUTH: made.truth, PARTS: made.parts, INSTANCES: made.instances}
    total = len(volumes) + (strokes is not None)
    for done, (name, volume) in enumerate(volumes.items()):
        progress("files", done, total)
        io.write(folder / name, volume)
    if strokes is not None:
        progress("files", total - 1, total)
        io.write(folder / STROKES, strokes_of(made, strokes))
    _write_particles(folder / PARTICLES, made.particles)
    (folder / RECIPE).write_text(Plan(recipe=made.recipe, strokes=strokes).to_toml(), encoding="utf-8")
    progress("files", total, total)


def strokes_of(made: Simulation, settings: StrokeSettings) -> Volume:
    """The strokes that the settings give on a simulated tomogram: 0 unlabelled, truth + 1."""
    chosen = dataclasses.asdict(settings)
    chosen["slices"] = min(settings.slices, made.truth.shape[0])
    marks = draw_strokes(
        made.truth, tomogram=made.tomogram, classes=made.recipe.classes, seed=made.recipe.seed, **chosen
    )
    kind, seed = made.recipe.kind, made.recipe.seed
    legend = ", ".join(f"{i} {name}" for i, name in enumerate(made.recipe.classes, start=1))
    notes = (f"strokes on simulated {kind}, seed {seed}", f"0 unlabelled, {legend}")
    return dataclasses.replace(marks, notes=notes)


def _write_particles(path: Path, particles: tuple[Particle, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for one in particles:
            angles = ["", "", ""] if one.euler_deg is None else [f"{angle:.3f}" for angle in one.euler_deg]
            place = [f"{value:.3f}" for value in one.centre_vox]
            table.writerow([one.instance, one.part, *place, *angles, "true" if one.whole else "false"])
