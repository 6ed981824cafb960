# SPDX-License-Identifier: MIT
"""A picture's recipe: which files, which part, which ramps, which settings. The same recipe gives the same picture.

Stored as JSON, alone or inside the PNG that it made.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .._checks import file_error, input_error
from ..io import partial_path
from ..transfer import TransferFunction
from .packing import Bits
from .settings import Box, Cut, RenderSettings

KEYWORD = "cryoet-engine session"  # of the text in a PNG
_VERSION = 1
_LARGEST = 2**24  # characters: far above any session, far below what would hurt


@dataclass(frozen=True, kw_only=True)
class Session:
    """All that a picture is made of.

    tomogram, segmentation: the files; no segmentation where the raw volume is drawn alone.
    region: ((first, stop), ...) in voxels, (z, y, x), or None.
    hide_dust_nm: particles of a smaller diameter are left out; None: none.
    size: (width, height) in pixels. bits: of a value on the card.
    voxel_size_A: edge of a voxel in Å, where the file is wrong; fill: number for voxels that are not finite, or "mean".
    strokes: a file of strokes that the viewer opens with it; not in the picture.
    """

    tomogram: str
    segmentation: tuple[str, ...]
    transfer: TransferFunction
    settings: RenderSettings
    size: tuple[int, int]
    region: tuple[tuple[int, int], ...] | None = None
    hide_dust_nm: float | None = None
    bits: Bits = 8
    voxel_size_A: float | None = None
    fill: str | None = None
    strokes: str | None = None

    def __post_init__(self) -> None:
        def refuse(name: str, expected: str) -> None:
            raise input_error("Session", name, expected=expected, got=as_written(getattr(self, name)))

        if not isinstance(self.tomogram, str) or not self.tomogram:
            refuse("tomogram", "a file's name")
        files: object = self.segmentation  # a name alone would pass as the files of its letters
        if not isinstance(files, list | tuple) or not all(isinstance(name, str) and name for name in files):
            refuse("segmentation", "a list of file names")
        if not files and not draws_raw_alone(self.settings):
            refuse("segmentation", "one file name or more, unless the raw volume is drawn alone")
        if len(self.size) != 2 or not all(_whole(n) and n > 0 for n in self.size):
            refuse("size", "two whole numbers above 0")
        if self.region is not None and (
            len(self.region) != 3
            or not all(len(pair) == 2 and all(map(_whole, pair)) and 0 <= pair[0] < pair[1] for pair in self.region)
        ):
            refuse("region", "three pairs of whole numbers, first < stop")
        dust = self.hide_dust_nm
        if dust is not None and (isinstance(dust, bool) or not isinstance(dust, int | float) or not 0 < dust < 1e9):
            refuse("hide_dust_nm", "a diameter above 0")
        edge = self.voxel_size_A
        if edge is not None and (isinstance(edge, bool) or not isinstance(edge, int | float) or not 0 < edge < 1e9):
            refuse("voxel_size_A", "a length above 0")
        fill: object = self.fill
        if fill is not None and not isinstance(fill, str):
            refuse("fill", "a number as text, or mean")
        strokes: object = self.strokes
        if strokes is not None and not (isinstance(strokes, str) and strokes):
            refuse("strokes", "a file's name, or null")
        if self.bits not in (8, 16) or isinstance(self.bits, bool):
            refuse("bits", "8 or 16")

    def to_json(self, folder: Path) -> dict[str, Any]:
        """As JSON has it. Files below `folder`, where it is to lie, are named from there, others in full."""
        return {
            "kind": KEYWORD,
            "version": _VERSION,
            "tomogram": _named_from(folder, self.tomogram),
            "segmentation": [_named_from(folder, name) for name in self.segmentation],
            "region": self.region,
            "hide_dust_nm": self.hide_dust_nm,
            "size": list(self.size),
            "bits": self.bits,
            "voxel_size_A": self.voxel_size_A,
            "fill": self.fill,
            "strokes": None if self.strokes is None else _named_from(folder, self.strokes),
            "settings": dataclasses.asdict(self.settings),
            "transfer": self.transfer.to_json(),
        }

    def text(self, path: str | os.PathLike[str]) -> str:
        """JSON for a file, or a PNG, at `path`."""
        return json.dumps(self.to_json(Path(path).resolve().parent), indent=1, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, whole or not at all."""
        text = self.text(path)
        with partial_path(path) as partial:
            Path(partial).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Session:
        """Read JSON that `save` wrote or a person edited, or the session inside a PNG; every field is checked.

        Raises FileFormatError for another kind of file, another version, missing or unknown fields, wrong values.
        """
        fix = "write one with `cryoet render --save-session`"
        try:
            content = parsed(_text_of(path))
        except ValueError as error:  # undecodable text included
            raise file_error(path, "content", expected="a session", got=str(error)[:200], fix=fix) from None
        if not isinstance(content, dict) or content.get("kind") != KEYWORD:
            raise file_error(path, "kind", expected=f"a {KEYWORD}", got="another file", fix=fix)
        version = content.get("version")
        if not _whole(version) or version != _VERSION:
            raise file_error(path, "version", expected=_VERSION, got=as_written(version), fix=fix)
        content.setdefault("strokes", None)  # sessions of before there was a viewer
        try:
            check_fields("the session", set(content) - {"kind", "version"}, cls)
        except TypeError as error:
            raise file_error(path, "fields", expected=f"those of version {_VERSION}", got=error, fix=fix) from None
        folder = Path(path).resolve().parent
        strokes = content["strokes"]
        transfer = TransferFunction.from_json(content["transfer"], path)
        try:
            region = content["region"]
            return cls(
                tomogram=str(folder / _text("tomogram", content["tomogram"])),
                segmentation=tuple(
                    str(folder / _text("segmentation", name))
                    for name in listed("segmentation", content["segmentation"])
                ),
                transfer=transfer,
                settings=_settings(content["settings"]),
                size=listed("size", content["size"]),  # its length is checked when made
                region=None if region is None else tuple(listed("region", pair) for pair in listed("region", region)),
                hide_dust_nm=content["hide_dust_nm"],
                bits=content["bits"],
                voxel_size_A=content["voxel_size_A"],
                fill=content["fill"],
                strokes=None if strokes is None else str(folder / _text("strokes", strokes)),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise file_error(path, "content", expected="complete, valid fields", got=str(error), fix=fix) from None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _named_from(folder: Path, name: str) -> str:
    path = Path(name).resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _text_of(path: str | os.PathLike[str]) -> str:
    """A file's text, or the session's text in a PNG."""
    try:
        with open(path, "rb") as file:
            if file.read(8) == b"\x89PNG\r\n\x1a\n":
                return _text_in_picture(path)
            file.seek(0)
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise file_error(path, "file", expected="a readable file", got=error.strerror or error) from None
    if len(data) > _LARGEST:
        raise file_error(path, "size", expected=f"a session, below {_LARGEST // 2**20} MiB", got="a larger file")
    return data.decode("utf-8")


def _text_in_picture(path: str | os.PathLike[str]) -> str:
    try:
        with Image.open(path) as image:  # Pillow itself refuses text that unpacks to more than a MiB
            text = getattr(image, "text", {}).get(KEYWORD)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise file_error(path, "content", expected="a PNG", got=str(error)[:200]) from None
    if text is None:
        fix = "pictures of `cryoet render` carry one"
        raise file_error(path, "session", expected="a picture with a session inside", got="a PNG without", fix=fix)
    return str(text)


def draws_raw_alone(settings: RenderSettings) -> bool:
    """Whether these settings show something of the raw volume where there is no class: itself, or its slices."""
    lit = settings.mode in ("cached", "reference")
    return (settings.source == "raw" and not lit) or any(n is not None for n in settings.slices)


def parsed(text: str) -> Any:
    """What JSON says. ValueError, in a user's words, for anything else and for numbers that are not finite."""

    def refused(name: str) -> Any:
        raise ValueError(f"{name}, which is no finite number")

    def number(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refused(text[:40])

    try:
        return json.loads(text, parse_constant=refused, parse_float=number)
    except RecursionError:
        raise ValueError("lists or objects nested too deeply") from None


def as_written(value: object) -> str:
    """A value as JSON writes it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def check_fields(where: str, given: Iterable[str], kind: Any) -> None:
    """Raise TypeError where names are not those of a dataclass's fields, or where one that is needed is missing."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    required = {
        name
        for name, field in fields.items()
        if (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING) or kind in _WHOLE
    }
    names = set(given)
    if unknown := sorted(names - set(fields)):
        raise TypeError(f"{where} has unknown fields: {', '.join(unknown)[:200]}")
    if missing := sorted(required - names):
        raise TypeError(f"{where} lacks {', '.join(missing)}")


def listed(name: str, value: object) -> tuple[Any, ...]:
    """The items of a JSON list; TypeError for anything else."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name}: expected a list, got {as_written(value)}")
    return tuple(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name}: expected a file's name, got {as_written(value)}")
    return value


def _settings(content: object) -> RenderSettings:
    if not isinstance(content, dict):
        raise TypeError(f"settings: expected an object, got {as_written(content)}")
    check_fields("settings", content, RenderSettings)
    return RenderSettings(**{name: setting(name, value) for name, value in content.items()})


def setting(name: str, value: Any) -> Any:
    """A field of RenderSettings from what JSON has in its place. TypeError or ValueError where it is something else."""
    if name == "cuts":
        return tuple(_made(Cut, "cut", cut) for cut in listed("cuts", value))
    if name == "box" and value is not None:
        return _made(Box, "box", value)
    return tuple(value) if isinstance(value, list) else value


def _made(kind: Any, name: str, content: object) -> Any:
    if not isinstance(content, dict):
        raise TypeError(f"{name}: expected an object, got {as_written(content)}")
    check_fields(name, content, kind)
    return kind(**content)


#: What a session has all fields of: a later version's new ones must not be guessed.
_WHOLE = (Session, RenderSettings)
