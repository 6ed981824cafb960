# SPDX-License-Identifier: MIT
"""Many tomograms from one seed: a recipe in which fields may vary, split into training, validation and test.

    seed = 7
    split = { train = 50, validation = 5, test = 5 }
    [recipe]
    kind = "virions"
    shape = [160, 192, 192]
    defocus_um = { from = 2.5, to = 5.0 }       # uniform; whole numbers stay whole, pairs and triples vary as one
    dtype = { one_of = ["int8", "int16"] }
    [strokes]                                   # or `strokes = false` above the first table
    error_rate = 0.05
    [subtomograms]                              # of complexes: one store of boxes, by papers 4 and 5
    per_class = 1000                            # or n_tomograms; snrs, box, resize, shares: see `subtomogram_set`

Every tomogram's every field is drawn from a stream of its own: neither the number of tomograms nor the other fields
that vary change what it gets.
"""

from __future__ import annotations

import csv
import dataclasses
import shutil
import tomllib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, io
from .._checks import InputError, file_error, input_error
from .._memory import available_bytes
from .._progress import Progress, silent
from ..io._files import claimed
from ._ranges import checked, number
from .complexes import ComplexRecipe
from .memory import memory_bytes
from .storage import (
    FILES,
    PARTICLES,
    RECIPE,
    SLICES,
    STROKES,
    TOMOGRAM,
    Plan,
    StrokeSettings,
    make_folder,
    plan_from_entries,
    with_whole_paths,
)
from .subtomograms import subtomogram_set
from .tomogram import KINDS
from .workers import Task, cores, run_tasks

SPLITS = ("train", "validation", "test")
DATASET, INDEX = "dataset.toml", "index.csv"
_MOST_TOMOGRAMS = 10_000
_DIGITS = 4  # of a number that was drawn: legible, and no coarser than anything that is measured
_SUBTOMOGRAMS = ("per_class", "n_tomograms", "snrs", "box", "resize", "shares")
_MADE_WITH = f"cryoet-engine {__version__}"


@dataclass(frozen=True, kw_only=True)
class DatasetRecipe:
    """What a data set consists of.

    seed: decides all of it, whatever the machine and the number of processes.
    split: number of tomograms for training, validation and test.
    recipe: `kind`, and fields of its recipe: values, {"from": a, "to": b} or {"one_of": [...]}. All but the seed.
    strokes: fields of `StrokeSettings`, likewise; False: none are drawn.
    subtomograms: of complexes, what `subtomogram_set` is asked for: `per_class` or `n_tomograms`, and `snrs`, `box`,
        `resize` and `shares` where they are to differ. It simulates tomograms of its own, of which boxes alone are
        kept; `split` may then be nothing, and is by default. The recipe may not vary.

    Errors: InputError for what is unknown, contradictory or out of range, in any of the tomograms.
    """

    seed: int = 0
    split: Mapping[str, int] | None = None
    recipe: Mapping[str, Any]
    strokes: Any = field(default_factory=dict)
    subtomograms: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        where = "data set"
        number(where, "seed", self.seed, 0, 2**63 - 1, whole=True)
        given: Any = self.split
        if given is None:
            given = dict(zip(SPLITS, (50, 5, 5) if self.subtomograms is None else (0, 0, 0), strict=True))
        if not isinstance(given, Mapping) or not given or given.keys() - set(SPLITS):
            raise input_error(where, "split", expected=f"numbers of {', '.join(SPLITS)}", got=repr(given))
        split = {name: given.get(name, 0) for name in SPLITS}
        for name, count in split.items():
            number(where, f"split.{name}", count, 0, _MOST_TOMOGRAMS, whole=True)
        least = 1 if self.subtomograms is None else 0
        if not least <= sum(split.values()) <= _MOST_TOMOGRAMS:
            expected = f"{least} to {_MOST_TOMOGRAMS} tomograms in all"
            raise input_error(where, "split", expected=expected, got=sum(split.values()))
        object.__setattr__(self, "split", split)
        if not isinstance(self.recipe, Mapping) or self.recipe.get("kind") not in KINDS:
            got = repr(self.recipe.get("kind") if isinstance(self.recipe, Mapping) else self.recipe)
            raise input_error(where, "recipe.kind", expected=f"one of {', '.join(KINDS)}", got=got)
        if "seed" in self.recipe:
            fix = "leave it out: the data set's seed gives every tomogram one of its own"
            raise input_error(where, "recipe.seed", expected="none", got=self.recipe["seed"], fix=fix)
        _check_varied(self.recipe, KINDS[self.recipe["kind"]], "recipe")
        if isinstance(self.strokes, Mapping):
            _check_varied(self.strokes, StrokeSettings, "strokes")
        for name in self.names:
            try:
                self.plan(name)
            except InputError as error:
                raise InputError(f"{where}: {name}: {error}") from error
        if self.subtomograms is not None:
            self._check_subtomograms(where)

    def _check_subtomograms(self, where: str) -> None:
        given, place = self.subtomograms, "subtomograms"
        if not isinstance(given, Mapping):
            raise input_error(where, place, expected="a table", got=repr(given))
        if unknown := sorted(given.keys() - set(_SUBTOMOGRAMS)):
            expected = f"only {', '.join(_SUBTOMOGRAMS)}"
            raise input_error(where, place, expected=expected, got=", ".join(unknown))
        kind = self.recipe["kind"]
        if kind != ComplexRecipe.kind:
            raise input_error(where, place, expected=f"a recipe of {ComplexRecipe.kind}", got=kind)
        if self.varied:
            got = f"{', '.join(self.varied)} vary"
            raise input_error(where, place, expected="a recipe that does not vary", got=got, fix="fix them")
        for name in ("per_class", "n_tomograms"):
            number(where, f"{place}.{name}", given.get(name, 0), 0, 10**7, whole=True)
        if bool(given.get("per_class")) == bool(given.get("n_tomograms")):
            raise input_error(
                where, place, expected="per_class or n_tomograms", got="both" if given.get("per_class") else "neither"
            )
        for name in ("box", "resize"):
            number(where, f"{place}.{name}", given.get(name, 40), 2, 1024, whole=True)
        for name in ("snrs", "shares"):
            if not isinstance(given.get(name, []), list | tuple):
                raise input_error(where, f"{place}.{name}", expected="a list of numbers", got=repr(given[name]))
            for value in given.get(name, []):
                number(where, f"{place}.{name}", value, 0, 1000)
        self.subtomogram_recipe()

    def subtomogram_recipe(self) -> ComplexRecipe:
        """The recipe of the subtomograms' tomograms, with the seed of the first."""
        # Seeds follow each other from there: few enough bits that they stay whole numbers of 53.
        seed = int(self._uniform("train", "0", "subtomograms") * 2**52)
        found = plan_from_entries({**self.recipe, "seed": seed}).recipe
        if not isinstance(found, ComplexRecipe):
            raise input_error("data set", "recipe.kind", expected=ComplexRecipe.kind, got=found.kind)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tomograms, such as train/000, which are their folders' too."""
        return tuple(f"{split}/{i:03d}" for split, count in (self.split or {}).items() for i in range(count))

    @property
    def varied(self) -> tuple[str, ...]:
        """The recipe's fields that differ from tomogram to tomogram."""
        return tuple(name for name in _fields(KINDS[self.recipe["kind"]]) if isinstance(self.recipe.get(name), Mapping))

    def plan(self, name: str) -> Plan:
        """What the tomogram of this name is made from."""
        split, index = name.split("/")

        def drawn(entries: Mapping[str, Any], kind: type, prefix: str) -> dict[str, Any]:
            return {
                key: _draw(value, _fields(kind)[key], self._uniform(split, index, prefix + key))
                if isinstance(value, Mapping)
                else value
                for key, value in entries.items()
            }

        entries = drawn(self.recipe, KINDS[self.recipe["kind"]], "")
        # 53 bits: a float64 holds them, and so does whatever reads a recipe.
        entries["seed"] = int(self._uniform(split, index, "seed") * 2**53)
        strokes = drawn(self.strokes, StrokeSettings, "strokes.") if isinstance(self.strokes, Mapping) else self.strokes
        return plan_from_entries(entries | {"strokes": strokes})

    def _uniform(self, split: str, index: str, name: str) -> float:
        """From 0 up to 1, for one field of one tomogram."""
        stream = [self.seed, SPLITS.index(split), int(index), zlib.crc32(name.encode())]
        return float(np.random.default_rng(stream).random())

    def to_toml(self) -> str:
        """The data set's recipe with every field, what varies included, and the version that makes it."""
        import tomli_w

        kind = KINDS[self.recipe["kind"]]
        plain = {name: getattr(kind(), name) for name in _fields(kind) if name != "seed"}
        told = {"kind": self.recipe["kind"]} | _listed(plain) | _listed(self.recipe)
        strokes = self.strokes is not False and dataclasses.asdict(StrokeSettings()) | _listed(self.strokes)
        head: dict[str, Any] = {"made_with": _MADE_WITH, "seed": self.seed, "split": dict(self.split or {})}
        tail = {} if self.subtomograms is None else {"subtomograms": _listed(self.subtomograms)}
        return tomli_w.dumps(head | {"strokes": strokes, "recipe": told} | tail)

    @classmethod
    def from_toml(cls, text: str, *, folder: Path | None = None) -> DatasetRecipe:
        """Read a data set's recipe; structure files are meant from `folder`. InputError: what is wrong with it."""
        where = "data set"
        try:
            entries = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise input_error(where, "text", expected="TOML", got=str(error)) from error
        entries.pop("made_with", None)
        known = [one.name for one in dataclasses.fields(cls)]
        if unknown := sorted(entries.keys() - set(known)):
            fix = "fields of a tomogram belong into the table [recipe]"
            got = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise input_error(where, "entries", expected=f"only {', '.join(known)}", got=got, fix=fix)
        if not isinstance(entries.get("recipe"), Mapping):
            raise input_error(where, "recipe", expected="a table [recipe] with a kind", got=repr(entries.get("recipe")))
        entries["recipe"] = with_whole_paths(entries["recipe"], folder)
        return cls(**entries)


def built_in_datasets() -> dict[str, str]:
    """Ready-made recipes of data sets: name -> TOML."""
    files = resources.files(__package__).joinpath("recipes").iterdir()
    return {file.name.removesuffix(".toml"): file.read_text("utf-8") for file in files if file.name.endswith(".toml")}


def read_dataset_recipe(source: str | Path) -> DatasetRecipe:
    """From a file, or a ready-made one by its name. Structure files are meant from the recipe's folder.

    Errors: FileFormatError for a file that cannot be read, InputError for what is wrong with it.
    """
    ready = built_in_datasets()
    if str(source) in ready and not Path(source).exists():
        return DatasetRecipe.from_toml(ready[str(source)])
    text = read_text(Path(source), hint=f"or a ready-made one: {', '.join(ready)}")
    try:
        return DatasetRecipe.from_toml(text, folder=Path(source).parent)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def read_text(path: Path, *, hint: str = "") -> str:
    """A recipe's text. FileFormatError: it is not there, or is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "something that is no text"
        raise file_error(path, "recipe", expected="a file of TOML", got=reason.lower(), fix=hint) from error


def fitting_jobs(recipe: DatasetRecipe) -> int:
    """How many tomograms may be made at a time: as many as there are cores, if memory holds them; 1 at least."""
    largest = max((memory_bytes(recipe.plan(name).recipe) for name in recipe.names), default=1)
    return max(1, min(cores(), len(recipe.names), available_bytes() // largest))


def make_dataset(
    recipe: DatasetRecipe,
    folder: Path,
    *,
    jobs: int | None = None,
    finish: Callable[[Path], None] | None = None,
    progress: Progress = silent,
) -> tuple[Path, ...]:
    """Make a data set, or go on with one that was interrupted. Returns the tomograms' folders.

    Leaves `dataset.toml`, a folder a tomogram (`train/000`, ...: see `storage.FILES`), `index.csv`, and
    `subtomograms.zarr` where that is asked for. A tomogram's
    folder is there when it is whole; what an interrupted run left whole stays, and the bytes are those of a run that
    nobody interrupted, whatever `jobs`.

    jobs: processes; None: as `fitting_jobs` says. finish: adds to a tomogram's folder before it gets its name; it has
    to be picklable, as a function of a module is.
    Errors: FileFormatError for a folder with other data or another data set's recipe, InputError for what does not fit
    into memory, CryoETError that names the tomogram which failed. An exception from `progress` cancels.
    """
    begun_before = _begin(recipe, folder)
    with claimed(folder):
        return _go_on(recipe, folder, begun_before, jobs=jobs, finish=finish, progress=progress)


def _go_on(
    recipe: DatasetRecipe,
    folder: Path,
    begun_before: bool,
    *,
    jobs: int | None,
    finish: Callable[[Path], None] | None,
    progress: Progress,
) -> tuple[Path, ...]:
    folders = {name: folder / name for name in recipe.names}
    try:
        missing = [name for name, place in folders.items() if not _is_made(place, recipe.plan(name))]
        tasks = [Task(name, _make, (recipe.plan(name), folders[name], finish)) for name in missing]
        if tasks:
            at_a_time = min(jobs or fitting_jobs(recipe), len(tasks))
            run_tasks(tasks, jobs=at_a_time, stage="tomograms", progress=progress)
        _write_index(recipe, folder)
        if recipe.subtomograms is not None:
            subtomogram_set(recipe.subtomogram_recipe(), folder, **recipe.subtomograms, progress=progress)
    except BaseException:
        for place in folders.values():  # a process that had to be killed could not clean up behind itself
            shutil.rmtree(place.with_name(place.name + ".partial"), ignore_errors=True)
        if not begun_before and not any(place.exists() for place in folders.values()):
            _undo(folder)
        raise
    return tuple(folders.values())


def _make(plan: Plan, folder: Path, finish: Callable[[Path], None] | None, *, progress: Progress) -> None:
    make_folder(plan, folder, finish=finish, progress=progress)


def _begin(recipe: DatasetRecipe, folder: Path) -> bool:
    """Make the folder with its recipe, or find the same recipe there; True where it was there already."""
    text = recipe.to_toml()
    path = folder / DATASET
    if path.is_file():
        _check_same(path, tomllib.loads(text))
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        got = "other data" if folder.is_dir() else "a file"
        raise file_error(folder, "output folder", expected="a new or empty folder", got=got, fix="choose another -o")
    with io.partial_path(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return False


def _check_same(path: Path, wanted: Mapping[str, Any]) -> None:
    try:
        there = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise file_error(path, "content", expected="the recipe of a data set", got=str(error)) from error
    old, new = dict(_flat(there)), dict(_flat(wanted))
    if other := [name for name in {**old, **new} if old.get(name) != new.get(name)]:
        told = [f"{name} = {old.get(name, 'none')}, now {new.get(name, 'none')}" for name in other[:4]]
        more = f" and {len(other) - 4} more" if len(other) > 4 else ""
        raise file_error(
            path.parent,
            "data set begun there",
            expected="the same recipe",
            got=f"another: {'; '.join(told)}{more}",
            fix="choose another -o, or remove the folder",
        )


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_made(folder: Path, plan: Plan) -> bool:
    if not folder.exists():
        return False
    path = folder / RECIPE
    if not path.is_file() or path.read_text(encoding="utf-8") != plan.to_toml():
        raise file_error(
            folder,
            "tomogram made before",
            expected=f"its {RECIPE} as this data set's recipe gives it",
            got="another" if path.is_file() else "none",
            fix="remove this folder; the same command makes it again",
        )
    # What was lost or cut short since is made again, the folder as a whole.
    wanted = [name for name in FILES if name not in (SLICES, STROKES)] + ([STROKES] if plan.strokes else [])
    return all((folder / name).is_file() and (folder / name).stat().st_size for name in wanted)


def _write_index(recipe: DatasetRecipe, folder: Path) -> None:
    """One line a tomogram: what sets it apart, how many particles are in it, and what did not go as asked."""
    if not recipe.names:
        return
    with io.partial_path(folder / INDEX) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["tomogram", "split", "seed", *recipe.varied, "particles", "notes"])
        for name in recipe.names:
            made = recipe.plan(name).recipe
            values = [_cell(getattr(made, field)) for field in recipe.varied]
            particles = len((folder / name / PARTICLES).read_text(encoding="utf-8").splitlines()) - 1
            notes = io.read_volume(folder / name / TOMOGRAM).notes
            said = "; ".join(note for note in notes if not note.startswith(("simulated ", "Written by ")))
            table.writerow([name, name.split("/")[0], made.seed, *values, particles, said])


def _cell(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _undo(folder: Path) -> None:
    (folder / DATASET).unlink(missing_ok=True)
    for split in SPLITS:
        if (folder / split).is_dir() and not any((folder / split).iterdir()):
            (folder / split).rmdir()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _fields(kind: type) -> dict[str, dataclasses.Field[Any]]:
    return {one.name: one for one in dataclasses.fields(kind)}


def _listed(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as TOML's lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in entries.items()}


def _check_varied(entries: Mapping[str, Any], kind: type, table: str) -> None:
    """What varies has to be a field that may, between ends or among values that each would do."""
    fields = _fields(kind)
    for name, value in entries.items():
        if not isinstance(value, Mapping):
            continue
        where = f"data set: {table}"
        if name not in fields:
            raise input_error(where, name, expected=f"one of {', '.join(fields)}", got="an unknown field")
        if value.keys() == {"one_of"}:
            options = value["one_of"]
            if not isinstance(options, Sequence) or isinstance(options, str) or not options:
                raise input_error(where, f"{name}.one_of", expected="a list of values", got=repr(options))
            for option in options if "form" in fields[name].metadata else ():
                checked(where, fields[name], option)
        elif value.keys() == {"from", "to"}:
            if fields[name].metadata.get("form") not in ("number", "triple", "span"):
                fix = "name them: { one_of = [...] }"
                raise input_error(where, name, expected="a field of numbers", got="from and to", fix=fix)
            low, high = (np.atleast_1d(checked(where, fields[name], value[end])) for end in ("from", "to"))
            if np.any(low > high):
                raise input_error(where, name, expected="from at most to", got=f"{value['from']} and {value['to']}")
        else:
            expected = "a value, { from = ..., to = ... } or { one_of = [...] }"
            raise input_error(where, name, expected=expected, got=f"a table of {', '.join(value) or 'nothing'}")


def _draw(value: Mapping[str, Any], into: dataclasses.Field[Any], uniform: float) -> Any:
    """A field's value at a place 0..1 of what it may be."""
    if "one_of" in value:
        return value["one_of"][int(uniform * len(value["one_of"]))]
    whole = into.metadata["whole"]
    low, high = (value[end] if isinstance(value[end], Sequence) else [value[end]] for end in ("from", "to"))
    # One place for all of a pair or triple: the least stays below the largest.
    if whole:
        found: list[Any] = [int(a) + int(uniform * (int(b) - int(a) + 1)) for a, b in zip(low, high, strict=True)]
    else:
        exact = [a + uniform * (b - a) for a, b in zip(low, high, strict=True)]
        found = [min(max(float(f"{v:.{_DIGITS}g}"), a), b) for v, a, b in zip(exact, low, high, strict=True)]
    return found if isinstance(value["from"], Sequence) else found[0]
