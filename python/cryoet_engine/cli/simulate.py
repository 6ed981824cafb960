# SPDX-License-Identifier: MIT
"""Simulate tomograms whose every voxel is known: one of a kind, or a data set of many.

A tomogram is a folder: tomogram.mrc (protein dark), truth.mrc (0 background, ...), parts.mrc (finer labels),
instances.mrc (0, or a particle's number), particles.csv, strokes.mrc (0 unlabelled, truth + 1), slices.png, and
recipe.toml, from which the same bytes can be made again.

  cryoet simulate virions --shape 128,192,192 --seed 7 -o virions/
  cryoet simulate virions --recipe virions/recipe.toml --set defocus_um=3 -o again/
  cryoet simulate dataset RECIPE.toml -o set/        # an interrupted one goes on with the same command
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import file_error, input_error
from ._console import Bars, positive, say

if TYPE_CHECKING:
    from ..simulate.recipe import StoredRecipe
    from ..simulate.storage import Plan

#: Options that are short for a field of the recipe, where the kind has it: field -> (option, metavar, help).
_SHORTCUTS = {
    "shape": ("--shape", "Z,Y,X", "voxels of the tomogram"),
    "seed": ("--seed", "N", "seed of all that is random: the same one gives the same bytes"),
    "voxel_size_A": ("--voxel-size", "A", "edge of a voxel in Angstrom"),
    "structures": ("--structures", "FILES", "atomic models or density maps, one a class"),
    "protein_structures": ("--protein-structures", "FILES", "atomic models or density maps of membrane proteins"),
    "spike_structure": ("--spike-structure", "FILE", "atomic model or map of the spike"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each kind, and one for data sets."""
    from ..simulate import KINDS

    kinds = parser.add_subparsers(title="what to simulate", dest="kind", metavar="KIND", required=True)
    for kind, recipe in KINDS.items():
        summary = (recipe.__doc__ or kind).split("\n")[0]
        sub = kinds.add_parser(
            kind,
            help=summary.partition(" (see")[0].rstrip("."),
            description=summary,
            epilog=_fields_help(recipe),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_kind_arguments(sub, recipe)
    _add_dataset_arguments(kinds)


def _add_kind_arguments(parser: argparse.ArgumentParser, recipe: type[StoredRecipe]) -> None:
    fields = {field.name for field in dataclasses.fields(recipe)}
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the results")
    parser.add_argument("--recipe", metavar="FILE", help="a recipe.toml to start from; other options change it")
    for name, (option, metavar, what) in _SHORTCUTS.items():
        if name in fields:
            several = "+" if metavar == "FILES" else None
            parser.add_argument(option, dest=f"field_{name}", metavar=metavar, nargs=several, help=what)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any field of the recipe (below), or of its strokes as strokes.fraction; may be given several times",
    )
    if "fast" in fields:
        parser.add_argument("--fast", action="store_true", help="no tilt series: wedge and noise put on the spectrum")
        parser.add_argument(
            "--device",
            choices=("cpu", "cuda"),
            default="cpu",
            help="where to project; an NVIDIA card rounds otherwise (default cpu)",
        )
    if "background_mean" in fields:
        parser.add_argument("--like", metavar="TOMO", help="fit the grey values to this tomogram's (see --like-labels)")
        parser.add_argument("--like-labels", metavar="STROKES", help="strokes on it: 1 background, 2 membrane")
    strokes = parser.add_mutually_exclusive_group()
    strokes.add_argument("--strokes-error", metavar="RATE", help="share of the strokes that slip across a border")
    strokes.add_argument("--no-strokes", action="store_true", help="draw none")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in DIR")
    parser.add_argument("--print-recipe", action="store_true", help="print the recipe with all of its fields, and end")


def _add_dataset_arguments(kinds: Any) -> None:
    from ..simulate import dataset

    names = ", ".join(dataset.built_in_datasets())
    parser = kinds.add_parser(
        "dataset",
        help="many tomograms from one recipe and seed, split into training, validation and test",
        description=(dataset.__doc__ or "") + f"\nReady-made recipes: {names}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("source", nargs="?", metavar="RECIPE", help=f"TOML file, or a ready-made one: {names}")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the data set, new or interrupted")
    parser.add_argument("--seed", metavar="N", help="instead of the recipe's")
    parser.add_argument("--split", metavar="N,N,N", help="tomograms for training, validation, test (as 50,5,5)")
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="tomograms at a time (default: cores that memory feeds)"
    )
    parser.add_argument(
        "--print-recipe", action="store_true", help="print a recipe (default: the first ready-made one)"
    )


def run(args: argparse.Namespace) -> None:
    """One tomogram, or a data set."""
    if args.kind == "dataset":
        _run_dataset(args)
    else:
        _run_kind(args)


def _run_kind(args: argparse.Namespace) -> None:
    from ..cuda.device import choose_device
    from ..simulate.storage import make_folder

    plan = _plan(args)
    if args.print_recipe:
        print(plan.to_toml(), end="")
        return
    out = _output(args)
    _check_replaceable(out, args.overwrite)
    device: Any = getattr(args, "device", "cpu")
    choose_device(device, where="--device")  # before the specimen is built
    with Bars() as bars:
        notes = make_folder(plan, out, device=device, finish=_picture, progress=bars)
    for note in notes:
        say(f"note: {note}")
    say(f"{out / 'tomogram.mrc'}\n{out / 'slices.png'}")


def _picture(folder: Path) -> None:
    from ._slices import draw_truth

    draw_truth(folder)


def _run_dataset(args: argparse.Namespace) -> None:
    from ..simulate import dataset

    if args.print_recipe and not args.source:
        args.source = next(iter(dataset.built_in_datasets()))
    if not args.source:
        raise input_error("dataset", "RECIPE", expected="a TOML file", got="none", fix="--print-recipe shows one")
    if args.print_recipe and not (args.seed or args.split) and args.source in dataset.built_in_datasets():
        print(dataset.built_in_datasets()[args.source], end="")  # with its comments
        return
    recipe = dataset.read_dataset_recipe(args.source)
    changes: dict[str, Any] = {}
    if args.seed:
        changes["seed"] = _whole("--seed", args.seed)
    if args.split:
        counts = [_whole("--split", part) for part in args.split.split(",")]
        if len(counts) != len(dataset.SPLITS):
            raise input_error("--split", "numbers", expected=f"one each of {', '.join(dataset.SPLITS)}", got=args.split)
        changes["split"] = dict(zip(dataset.SPLITS, counts, strict=True))
    recipe = dataclasses.replace(recipe, **changes)
    if args.print_recipe:
        print(recipe.to_toml(), end="")
        return
    out = _output(args)
    fitting = dataset.fitting_jobs(recipe)
    if args.jobs and args.jobs > fitting:
        say(f"{fitting} at a time, not {args.jobs}: as many as cores, memory and tomograms allow")
    with Bars() as bars:
        made = dataset.make_dataset(
            recipe, out, jobs=min(args.jobs or fitting, fitting), finish=_picture, progress=bars
        )
    if made:
        say(f"{len(made)} tomograms: {out / dataset.INDEX}")
    if recipe.subtomograms is not None:
        say(f"{out / 'subtomograms.zarr'}")


def _output(args: argparse.Namespace) -> Path:
    if not args.output:
        raise input_error("-o", "folder", expected="where the results go", got="none", fix="add -o DIR")
    return Path(args.output)


def _check_replaceable(out: Path, overwrite: bool) -> None:
    """Before the work: a folder that is there is replaced only where it is a result, and only when asked."""
    from ..simulate.storage import FILES, RECIPE

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    foreign = sorted({entry.name for entry in out.iterdir()} - set(FILES)) if out.is_dir() else [out.name]
    if foreign or not (out / RECIPE).is_file():
        raise file_error(
            out,
            "output folder",
            expected="a new one, or an earlier result",
            got=f"other data ({', '.join(foreign[:3]) or 'no ' + RECIPE})",
            fix="choose another -o",
        )
    if not overwrite:
        fix = "add --overwrite, or choose another -o"
        raise file_error(out, "output folder", expected="a new one", got="an earlier result", fix=fix)


def _plan(args: argparse.Namespace) -> Plan:
    """The recipe: defaults, then the file's entries, then --set, then the options."""
    import tomllib

    from ..simulate import KINDS
    from ..simulate.dataset import read_text
    from ..simulate.storage import StrokeSettings, plan_from_entries, with_whole_paths

    entries: dict[str, Any] = {}
    if args.recipe:
        path = Path(args.recipe)
        try:
            entries = with_whole_paths(tomllib.loads(read_text(path)), path.parent)
        except tomllib.TOMLDecodeError as error:
            raise file_error(path, "recipe", expected="TOML", got=str(error)) from error
    given = _given(args, KINDS[args.kind], StrokeSettings)
    if getattr(args, "like", None) or getattr(args, "like_labels", None):
        entries |= _fitted(args.like, args.like_labels)
    strokes = {name.removeprefix("strokes."): given.pop(name) for name in list(given) if name.startswith("strokes.")}
    if args.no_strokes:
        entries["strokes"] = False
    elif strokes:
        before = entries.get("strokes", {})
        entries["strokes"] = {**(before if isinstance(before, Mapping) else {}), **strokes}
    return plan_from_entries(entries | with_whole_paths(given, None), kind=args.kind)


def _fitted(like: str | None, labels: str | None) -> dict[str, float]:
    """Grey values as a tomogram's, in the four digits that a fit is good for."""
    from .. import io
    from ..simulate.membranes2d import fit_intensities

    if not like or not labels:
        missing = "--like" if not like else "--like-labels"
        fix = f"add {missing}"
        raise input_error(missing, "option", expected="a tomogram and strokes on it", got="one of the two", fix=fix)
    found = fit_intensities(io.read_volume(like), io.read_volume(labels))
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _given(args: argparse.Namespace, recipe: type[StoredRecipe], strokes: type) -> dict[str, Any]:
    """Fields from --set and from the options that are short for one."""
    fields: dict[str, Any] = {field.name: field for field in dataclasses.fields(recipe)}
    fields |= {f"strokes.{field.name}": field for field in dataclasses.fields(strokes)}
    found: dict[str, Any] = {}
    for word in args.set:
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals:
            raise input_error("--set", "option", expected="FIELD=VALUE, as defocus_um=3", got=repr(word))
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=3)
            fix = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(fields)}"
            raise input_error("--set", "field", expected=f"one of the {args.kind} recipe", got=repr(name), fix=fix)
        found[name] = parsed(name, fields[name], text.strip())
    short = {name: getattr(args, f"field_{name}", None) for name in _SHORTCUTS}
    short |= {"strokes.error_rate": args.strokes_error, "fast": "true" if getattr(args, "fast", False) else None}
    for name, given in short.items():
        if given is not None:
            value = given if isinstance(given, list) else parsed(name, fields[name], given)
            if name in found and found[name] != value:
                raise input_error("--set", name, expected="it once", got=f"{found[name]}, and {value} by an option")
            found[name] = value
    return found


def parsed(name: str, field: dataclasses.Field[Any], text: str) -> Any:
    """A field's value from the words of a command line; the recipe checks what it may be.

    Numbers as they are, several with commas between them, true or false, words and file names without quotes.
    """
    form = field.metadata.get("form")
    if form in ("text", "choice"):
        return text
    if form == "switch":
        if text.lower() not in ("true", "false"):
            raise input_error("--set", name, expected="true or false", got=repr(text))
        return text.lower() == "true"
    parts = [part.strip() for part in text.split(",")] if text else []
    if form == "texts":
        return parts
    try:
        values = [float(part) for part in parts]
    except ValueError:
        expected = "a number" if form == "number" else "numbers with commas between them, as 80,100"
        raise input_error("--set", name, expected=expected, got=repr(text)) from None
    if field.metadata.get("whole"):
        values = [int(value) if value.is_integer() else value for value in values]
    return values[0] if form == "number" and len(values) == 1 else values


def _whole(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise input_error(option, "value", expected="whole numbers", got=repr(text)) from None


def _fields_help(recipe: type[StoredRecipe]) -> str:
    """The recipe's fields with their defaults and limits, and what the classes say of them."""
    lines = ["fields of the recipe, for --set and --recipe:"]
    own = [set(one.__annotations__) for one in recipe.__mro__ if "__annotations__" in vars(one)]
    for field in sorted(
        dataclasses.fields(recipe), key=lambda f: next(i for i, names in enumerate(own) if f.name in names)
    ):
        told, default = field.metadata, field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        if isinstance(default, bool):
            shown = str(default).lower()
        shown = "none" if shown == "" else shown
        limits = ""
        if told.get("form") == "choice":
            limits = f"({', '.join(told['options'])})"
        elif "low" in told:
            limits = f"({told['low']:g} to {told['high']:g})"
        lines.append(f"  {field.name} = {shown} {limits}".rstrip())
    for one in recipe.__mro__:
        if one is not object and one.__doc__ and dataclasses.is_dataclass(one):
            lines += ["", *(line.removeprefix("    ") for line in one.__doc__.strip().splitlines())]
    return "\n".join(lines).replace("%", "%%")
