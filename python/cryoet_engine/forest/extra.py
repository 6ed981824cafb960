# SPDX-License-Identifier: MIT
"""The user's own feature channels, beside those of the specification: volumes of the tomogram's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import input_error
from ..features import as_volume
from ..volume import Volume

OneExtra = Volume | npt.NDArray[Any]
#: One volume a channel, or named ones.
Extra = Sequence[OneExtra] | Mapping[str, OneExtra]


def extra_volumes(extra: Extra, tomogram: Volume, where: str) -> dict[str, Volume]:
    """The channels by name ("extra 1", ... where none was given), checked against the tomogram's shape."""
    if isinstance(extra, Volume | np.ndarray | str):
        got = f"one {type(extra).__name__}"
        raise input_error(where, "extra", expected="a list of volumes, or named ones", got=got, fix="put it in a list")
    named = dict(extra) if isinstance(extra, Mapping) else {f"extra {i}": one for i, one in enumerate(extra, start=1)}
    volumes = {str(name): as_volume(one, where) for name, one in named.items()}
    for name, volume in volumes.items():
        if volume.shape != tomogram.shape:
            expected = f"the tomogram's shape {tomogram.shape} (z, y, x)"
            raise input_error(where, f"extra channel {name!r}", expected=expected, got=volume.shape)
    return volumes


def matching(extra: Extra, names: tuple[str, ...], tomogram: Volume, where: str) -> tuple[Volume, ...]:
    """The channels in the order in which a classifier was trained on them: by name where names were given."""
    volumes = extra_volumes(extra, tomogram, where)
    told = f"{len(names)} extra channels ({', '.join(names)})" if names else "no extra channels"
    if len(volumes) != len(names):
        fix = "give as many as it was trained with" if names else "it was trained with none"
        raise input_error(where, "extra", expected=told, got=len(volumes), fix=fix)
    if isinstance(extra, Mapping):
        if set(volumes) != set(names):
            raise input_error(where, "extra", expected=told, got=", ".join(volumes))
        return tuple(volumes[name] for name in names)
    return tuple(volumes.values())
