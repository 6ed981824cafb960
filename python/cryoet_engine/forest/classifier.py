# SPDX-License-Identifier: MIT
"""Pixel classification: a few pen strokes and a tomogram in, a dense soft segmentation out.

Paper 1 makes its pseudo labels so, with ilastik: 37 features, a random forest of 100 trees. Training is
scikit-learn's; prediction is native (csrc/ops/forest.h), equal to scikit-learn's probabilities cast to float32 bit
for bit, and streamed with the features in blocks: the 61 channels of a whole volume never exist. Saved classifiers
are safetensors files, no pickle.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._checks import file_error, input_error
from .._progress import Progress, silent
from ..cuda import arrays
from ..cuda.device import Device, DeviceName, choose_device
from ..cuda.forest import CardTables
from ..cuda.stream import card_block, classified
from ..features import FeatureSource, FeatureSpec, as_volume, block_shape, core_of
from ..tiling import Block, blocks_by_chunk
from ..volume import Float32Array, Grid, SoftSegmentation, Statistics, Volume, one_voxel_size, statistics
from .extra import Extra, extra_volumes, matching
from .ilastik import read_project
from .importance import FeatureImportance, importance_of
from .memory import BLOCKS, CHUNK, BlockCost, bytes_of, resident_bytes
from .outputs import Chunks, Outputs, SegmentationOutput, VolumeOutput, as_segmentation, outputs_for, probability_type
from .packing import LEAF, Tables, out_of_bag_error, pack
from .storage import FORMAT, TrainingRecord, checksum, importance_from, read_file, spec_from, training_from
from .strokes import MAX_CLASSES, class_names, features_at, labelled_voxels
from .suggest import Suggestion, suggest


class PixelClassifier:
    """Random forest on the features of single voxels.

    n_trees, max_features: of the forest (ilastik: 100 trees, 8 = sqrt(61) features tried at a node, grown to purity).
    spec: which features. seed: equal seeds give equal forests. n_threads: 0 uses every core; it changes no result.

    After `fit` or `load`: `classes` (names, background first), `training` (a `TrainingRecord`), `oob_error` (share of
    strokes that the trees which have not seen them get wrong; nan when loaded from elsewhere), `importance` (a
    `FeatureImportance`), `extra` (names of the user's own channels, () without).
    """

    def __init__(
        self,
        n_trees: int = 100,
        *,
        max_features: int = 8,
        spec: FeatureSpec | None = None,
        seed: int = 0,
        n_threads: int = 0,
    ) -> None:
        for name, value, least, most in (
            ("n_trees", n_trees, 1, 10_000),
            ("max_features", max_features, 1, LEAF),
            ("seed", seed, 0, 2**32 - 1),
            ("n_threads", n_threads, 0, 4096),
        ):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
                raise input_error("PixelClassifier", name, expected=f"a whole number, {least} to {most}", got=value)
        spec = FeatureSpec() if spec is None else spec
        if not isinstance(spec, FeatureSpec):
            raise input_error("PixelClassifier", "spec", expected="a FeatureSpec", got=type(spec).__name__)
        if spec.n_channels > LEAF:
            raise input_error("PixelClassifier", "spec", expected=f"at most {LEAF} channels", got=spec.n_channels)
        self.n_trees = int(n_trees)
        self.max_features = int(max_features)
        self.spec = spec
        self.seed = int(seed)
        self.n_threads = int(n_threads)
        self.classes: tuple[str, ...] = ()
        self.training: TrainingRecord | None = None
        self.oob_error = math.nan
        self.importance: FeatureImportance | None = None
        self.extra: tuple[str, ...] = ()
        self._tables: Tables = {}
        self._forest: _core.Forest | None = None

    # ---- training

    def fit(
        self,
        tomogram: Volume | npt.NDArray[Any],
        marks: Volume | npt.NDArray[Any],
        *,
        classes: Sequence[str] | None = None,
        extra: Extra = (),
        memory: float | str | None = None,
        progress: Progress = silent,
    ) -> PixelClassifier:
        """Train on the labelled voxels; returns self.

        tomogram: (z, y, x), any real dtype. marks: whole numbers of the same shape, 0 unlabelled, 1..K classes.
        classes: K names, background first; by default class_1, class_2, ...
        extra: feature channels of your own, beside those of the spec: volumes of the tomogram's shape, or named ones.
        memory: bytes or "4G" that the process keeps to while features are computed; the samples (4 bytes a channel
        and labelled voxel) and the trees come on top of what it can choose.
        Features are computed around the strokes only.

        Errors: InputError for marks of another shape, with no labelled voxel, of one class only, with fractions or
        values beyond `classes`, for a class without strokes, for NaN or infinite voxels near the strokes, for extra
        channels of another shape, and for too little memory.
        """
        from sklearn.ensemble import RandomForestClassifier  # before memory is counted: it takes 90 MB

        tomogram, marks = as_volume(tomogram, "fit"), as_volume(marks, "fit")
        if marks.shape != tomogram.shape:
            raise input_error(
                "fit", "marks", expected=f"the tomogram's shape {tomogram.shape} (z, y, x)", got=marks.shape,
                fix="draw the strokes on this tomogram, or give the one they were drawn on",
            )  # fmt: skip
        channels = extra_volumes(extra, tomogram, "fit")
        if self.spec.n_channels + len(channels) > LEAF:
            most = LEAF - self.spec.n_channels
            raise input_error("fit", "extra", expected=f"at most {most} channels beside the spec's", got=len(channels))
        where, labels = labelled_voxels(marks)
        names = class_names(labels, classes)
        stats = statistics(tomogram)
        offset = float(np.float32(stats.mean)) if math.isfinite(stats.mean) else 0.0
        source = FeatureSource(tomogram, self.spec, offset, n_threads=self.n_threads, extra=tuple(channels.values()))
        block = BLOCKS[0]
        if memory is not None:
            cost = BlockCost(source=source, output_bytes=0, keeps_channels=True)
            block = cost.largest_within(memory, 4 * source.n_channels * len(labels), where="fit")
        samples = features_at(source, where, block, progress)
        if not np.isfinite(samples).all():
            raise input_error(
                "fit", "tomogram", expected="voxels whose features fit float32", got="features that overflow",
                fix="scale the tomogram down, for example with cryoet filter --normalise min-max",
            )  # fmt: skip

        progress("growing trees", 0, 1)
        trained = RandomForestClassifier(
            n_estimators=self.n_trees,
            max_features=min(self.max_features, source.n_channels),
            bootstrap=True,
            random_state=self.seed,
            n_jobs=self.n_threads or -1,
        ).fit(samples, labels)
        self._adopt(trained, names)
        self.extra = tuple(channels)
        self.oob_error = out_of_bag_error(trained, samples, labels)
        self.importance = importance_of(trained, samples, labels, self.spec, self.extra)
        progress("growing trees", 1, 1)
        self.training = TrainingRecord(
            mean=stats.mean,
            std=stats.std,
            voxel_size_A=tomogram.voxel_size_A,
            voxel_size_status=tomogram.voxel_size_status,
            offset=offset,
            samples=tuple(int(n) for n in np.bincount(labels, minlength=len(names) + 1)[1:]),
            package=version("cryoet-engine"),
        )
        return self

    @classmethod
    def from_sklearn(
        cls,
        forest: Any,
        *,
        spec: FeatureSpec | None = None,
        classes: Sequence[str] | None = None,
        extra: Sequence[str] = (),
        n_threads: int = 0,
    ) -> PixelClassifier:
        """Take over a fitted RandomForestClassifier (or ExtraTreesClassifier).

        `predict_rows` works for any number of features up to 255; the volume methods need a forest trained on the
        channels of `spec`, in their order, and behind them those that `extra` names.
        """
        trees = getattr(forest, "estimators_", None)
        if not trees or not hasattr(forest, "classes_") or getattr(forest, "n_outputs_", 1) != 1:
            raise input_error(
                "from_sklearn", "forest", expected="a fitted RandomForestClassifier with one output", got=forest
            )
        names = tuple(str(c) for c in forest.classes_) if classes is None else tuple(classes)
        if len(names) != len(forest.classes_):
            raise input_error("from_sklearn", "classes", expected=f"{len(forest.classes_)} names", got=names)
        if not 2 <= len(names) <= MAX_CLASSES:
            raise input_error("from_sklearn", "forest", expected=f"2 to {MAX_CLASSES} classes", got=len(names))
        made = cls(len(trees), spec=spec, n_threads=n_threads)
        made.extra = tuple(str(name) for name in extra)
        made._adopt(forest, names)
        return made

    @classmethod
    def from_ilastik(cls, path: str | os.PathLike[str], *, n_threads: int = 0) -> PixelClassifier:
        """Read a trained pixel classifier out of an ilastik project (.ilp): trees, features and class names.

        Probabilities are vigra's; features agree with ilastik's up to rounding. Works for vigra random forests
        (ilastik's default) on the features of one image channel, in 3D or 2D. Nothing in the file is unpickled.

        Errors: FileFormatError for anything else, and for damaged files.
        """
        found = read_project(path)
        made = cls(found.n_trees, spec=found.spec, n_threads=n_threads)
        try:
            made._set_tables(found.tables)
        except ValueError as error:
            raise file_error(path, "classifier", expected="sound trees", got=str(error)) from error
        made.classes = found.classes
        return made

    def _adopt(self, trained: Any, names: tuple[str, ...]) -> None:
        self._set_tables(pack(trained))
        self.classes = names

    def _set_tables(self, tables: Tables) -> None:
        """Hand the packed forest to the native module, which refuses (ValueError) a broken one."""
        self._forest = _core.Forest(
            thresholds=tables["thresholds"],
            links=tables["links"],
            tree_start=tables["tree_start"],
            leaves=tables["leaves"],
            n_features=int(tables["n_features"][0]),
        )
        self._tables = tables

    # ---- prediction

    @property
    def n_features(self) -> int:
        """Features a sample must have."""
        return int(self._tables["n_features"][0]) if self._tables else self.spec.n_channels

    def _ready(self, where: str) -> _core.Forest:
        if self._forest is None:
            raise input_error(
                where, "classifier", expected="a trained one", got="an untrained one", fix="call fit first"
            )
        return self._forest

    def predict_rows(self, x: npt.ArrayLike) -> Float32Array:
        """Probabilities (n, classes) of plain samples (n, features); both float32. On a card if they lie there."""
        forest = self._ready("predict_rows")
        if arrays.card_array(x) is not None:
            found: Float32Array = arrays.predict_rows(self._tables, x)
            return found
        given = np.asarray(x)
        if given.dtype.kind not in "fiub":
            raise input_error("predict_rows", "x", expected="real numbers", got=given.dtype)
        with np.errstate(over="ignore"):  # too large for float32 is refused below
            rows = np.ascontiguousarray(given, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.n_features:
            raise input_error("predict_rows", "x", expected=f"shape (n, {self.n_features})", got=f"shape {rows.shape}")
        if not np.isfinite(rows).all():
            raise input_error("predict_rows", "x", expected="finite float32 values", got="NaN or infinite ones")
        return forest.predict_rows(rows, self.n_threads)

    def predict_channels(self, channels: npt.ArrayLike, *, dtype: npt.DTypeLike = "float32") -> npt.NDArray[Any]:
        """Probabilities (classes, z, y, x) of features given as channels (C, z, y, x), of any source.

        dtype: of the result, float32, or uint8 or uint16 as `volume.quantise` stores them.
        Neighbouring voxels go through the forest together: several times faster than `predict_rows`.
        Channels on an NVIDIA card are classified there, and the answer is a CuPy array. Those of `feature_stack` give
        the bits of `predict_proba` if made with the same offset (`training.offset`).

        Errors: InputError for another number of channels or axes, and for NaN, infinite or complex values.
        """
        forest = self._ready("predict_channels")
        kind = probability_type(dtype, "predict_channels")
        if arrays.card_array(channels) is not None:
            found: npt.NDArray[Any] = arrays.predict_channels(self._tables, channels, kind)
            return found
        given = np.asarray(channels)
        if given.dtype.kind not in "fiub":
            raise input_error("predict_channels", "channels", expected="real numbers", got=given.dtype)
        if given.ndim != 4 or given.shape[0] != self.n_features or not given.size:
            raise input_error(
                "predict_channels", "channels", expected=f"shape ({self.n_features}, z, y, x)",
                got=f"shape {given.shape}",
            )  # fmt: skip
        with np.errstate(over="ignore"):  # too large for float32 is refused below
            values = np.asarray(given, dtype=np.float32)
        if not np.isfinite(values).all():
            raise input_error("predict_channels", "channels", expected="finite float32 values", got="NaN or infinite")
        if values.strides[3] != values.itemsize or not values.flags.aligned:
            values = np.ascontiguousarray(values)
        out = np.empty((len(self.classes), *values.shape[1:]), kind)
        forest.predict_channels(values, self.n_threads, out)
        return out

    def predict_proba(
        self,
        volume: Volume | npt.NDArray[Any],
        *,
        dtype: npt.DTypeLike = "uint8",
        out: SegmentationOutput | None = None,
        maps: Mapping[str, VolumeOutput] | None = None,
        extra: Extra = (),
        block: int | Sequence[int] | None = None,
        memory: float | str | None = None,
        match_intensity: bool = False,
        device: DeviceName = "auto",
        progress: Progress = silent,
    ) -> SoftSegmentation:
        """Class probabilities of every voxel, block by block.

        dtype: of the result, uint8, uint16 or float32. out: where to stream it to instead (its dtype counts then).
        maps: what else is wanted of the same pass and where it goes: arrays (z, y, x), or what `io.create_volume`
        gives, by name. "entropy" (over log K: 0 sure, 1 unsure) and "margin" (first minus second class: 1 sure) are
        stored like probabilities; "labels" is the most probable class, 1..K. Made of probabilities not yet rounded.
        extra: the channels of one's own that the classifier was trained with, as in `fit`; match_intensity leaves them
        as they are.
        block: voxels a side, one number or (z, y, x). memory: bytes or "4G" that the process keeps to, whatever the
        volume's size, by its choice of blocks. Neither changes a bit of the result, not even blocks smaller than
        the halo; small ones cost time.
        match_intensity: shift and stretch the volume to the mean and standard deviation of the training tomogram
        first, for another tomogram on another grey scale.
        device: "cuda" is an NVIDIA card, "auto" that where there is one (and CuPy), else the CPU. The forest answers
        the same on both; features differ by float32 rounding, so that a voxel may fall on the other side of a node.

        Errors: InputError for outputs and channels that do not fit, NaN or infinite voxels, for too little memory
        (it names the least that works), and for "cuda" without a card; MissingDependencyError for it without CuPy.
        """
        forest = self._ready("predict_proba")
        tomogram = as_volume(volume, "predict_proba")
        if self.spec.n_channels + len(self.extra) != self.n_features:
            raise input_error(
                "predict_proba", "classifier", expected=f"one trained on its spec's {self.spec.n_channels} channels"
                + (f" and {len(self.extra)} extra ones" if self.extra else ""),
                got=f"one trained on {self.n_features} features",
            )  # fmt: skip
        channels = matching(extra, self.extra, tomogram, "predict_proba")
        outputs = outputs_for(tomogram.shape, len(self.classes), dtype=dtype, out=out, maps=maps)
        if memory is not None and block is not None:
            raise input_error("predict_proba", "block, memory", expected="one of them", got="both")
        card = choose_device(device, where="predict_proba")
        source = self._source(tomogram, match_intensity, channels)
        if block is None:
            block = self._block(source, outputs, memory, card)
        size = block_shape(block, self.spec, "predict_proba")
        chunks = list(blocks_by_chunk(tomogram.shape, size, CHUNK, self.spec.halo))
        parts = [part for _, inner in chunks for part in inner]
        results = Chunks(outputs, chunks)
        progress("classifying voxels", 0, len(parts))
        with closing(self._classified(forest, source, parts, outputs.block_type, card)) as classified_parts:
            for done, (part, proba) in enumerate(classified_parts, start=1):
                results.add(part, proba)
                progress("classifying voxels", done, len(parts))
        return as_segmentation(outputs.probabilities, self.classes, tomogram)

    def suggest(
        self,
        tomogram: Volume | npt.NDArray[Any],
        marks: Volume | npt.NDArray[Any] | None = None,
        *,
        n: int = 5,
        size: int = 32,
        extra: Extra = (),
        match_intensity: bool = False,
        progress: Progress = silent,
    ) -> list[Suggestion]:
        """Where strokes would help most: up to `n` boxes of a slice, `size` voxels wide, best first.

        marks: the strokes so far (as in `fit`): no box lies on them, and what has strokes already counts less.
        Looks at some slices only, so that it takes seconds; see forest/suggest.py for how, and what it was measured
        to be worth. extra, match_intensity: as in `predict_proba`.

        Errors: InputError for marks of another shape, n or size out of range, and extra channels that do not fit.
        """
        forest = self._ready("suggest")
        volume = as_volume(tomogram, "suggest")
        source = self._source(volume, match_intensity, matching(extra, self.extra, volume, "suggest"))
        if source.n_channels != self.n_features:
            expected = f"one trained on its spec's {self.spec.n_channels} channels"
            raise input_error("suggest", "classifier", expected=expected, got=f"{self.n_features} features")
        drawn = np.empty((0, 3), np.intp)
        if marks is not None:
            strokes = as_volume(marks, "suggest")
            if strokes.shape != volume.shape:
                raise input_error(
                    "suggest", "marks", expected=f"the tomogram's shape {volume.shape}", got=strokes.shape
                )
            drawn, _ = labelled_voxels(strokes)
        weights = np.ones(self.n_features) if self.importance is None else np.array(self.importance.impurity)

        def predict(channels: Float32Array) -> npt.NDArray[Any]:
            out = np.empty((len(self.classes), *channels.shape[1:]), np.float32)
            forest.predict_channels(channels, self.n_threads, out)
            return out

        return suggest(
            source,
            predict,
            self.classes,
            drawn,
            weights=np.sqrt(weights).astype(np.float32),
            n=n,
            size=size,
            progress=progress,
        )

    def _output_bytes(self, outputs: Outputs) -> int:
        """Bytes a voxel of a block's results: as computed, and on their way to the outputs."""
        n = len(self.classes)
        stored = np.dtype(outputs.probabilities.dtype).itemsize
        computed = outputs.block_type.itemsize
        return n * (computed + stored) + (16 + 8 * len(outputs.maps) if outputs.maps else 0)

    def _block(
        self, source: FeatureSource, outputs: Outputs, memory: float | str | None, card: Device | None
    ) -> tuple[int, int, int] | None:
        """The largest block that fits; None: the default of the specification."""
        output_bytes = self._output_bytes(outputs)
        if card is not None:
            room = None if memory is None else bytes_of(memory) - resident_bytes() - outputs.in_memory
            return card_block(
                card, source, CardTables.of(self._tables), outputs.block_type, source.volume.shape,
                host_memory=room, output_bytes=output_bytes, chunk=CHUNK,
            )  # fmt: skip
        if memory is not None:
            return BlockCost(source=source, output_bytes=output_bytes).largest_within(memory, outputs.in_memory)
        return BLOCKS[0] if self.spec.compat == "ilastik" else None

    def _classified(
        self,
        forest: _core.Forest,
        source: FeatureSource,
        parts: Sequence[Block],
        kind: np.dtype[Any],
        card: Device | None,
    ) -> Generator[tuple[Block, npt.NDArray[Any]], None, None]:
        """Each block with its probabilities (class, z, y, x), stored as `kind`."""
        if card is not None:
            yield from classified(card, source, CardTables.of(self._tables), parts, kind)
            return
        try:
            for part in parts:
                start, core = core_of(part)
                proba = np.empty((len(self.classes), *core), kind)
                extra = source.read_extra(part.core) if source.extra else None
                forest.predict_block(source.plan, source.read(part.padded), start, core, self.n_threads, proba, extra)
                yield part, proba
        finally:
            _core.release_memory()  # which the blocks handed on to each other

    def _source(self, tomogram: Volume, match_intensity: bool = False, extra: tuple[Volume, ...] = ()) -> FeatureSource:
        scale, shift = 1.0, 0.0
        if match_intensity:
            if self.training is None:
                raise input_error(
                    "predict_proba", "match_intensity", expected="a classifier that knows its training tomogram",
                    got="one made from a plain forest",
                )  # fmt: skip
            stats = statistics(tomogram)
            scale, shift = _intensity_map(stats, self.training)
        if self.training is not None:
            offset = self.training.offset
        else:
            mean = statistics(tomogram).mean
            offset = float(np.float32(mean)) if math.isfinite(mean) else 0.0
        return FeatureSource(
            tomogram, self.spec, offset, scale=scale, shift=shift, n_threads=self.n_threads, extra=extra
        )

    def voxel_size_mismatch(self, volume: Grid) -> str | None:
        """A sentence for the user if `volume` is sampled over 10 % finer or coarser than the training tomogram."""
        if self.training is None or "unknown" in (self.training.voxel_size_status, volume.voxel_size_status):
            return None
        if one_voxel_size(volume.voxel_size_A, self.training.voxel_size_A):
            return None
        sizes = ["{:.4g} x {:.4g} x {:.4g} Å".format(*grid.voxel_size_A) for grid in (volume, self.training)]
        return (
            f"voxels of {sizes[0]} (z, y, x), but the forest was trained on {sizes[1]}: its features have "
            "another scale here; bin or resample the tomogram to match"
        )

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: packed trees, and everything needed to use them as JSON in its header."""
        from safetensors.numpy import save

        from ..io import partial_path  # a machine that only computes needs no file libraries

        self._ready("save")
        header = {
            "format": FORMAT,
            "classes": self.classes,
            "spec": dataclasses.asdict(self.spec),
            "extra": self.extra,
            "n_trees": self.n_trees,
            "max_features": self.max_features,
            "seed": self.seed,
            "oob_error": None if math.isnan(self.oob_error) else self.oob_error,
            "training": None if self.training is None else dataclasses.asdict(self.training),
            "importance": None if self.importance is None else dataclasses.asdict(self.importance),
        }
        text = json.dumps(header)
        metadata = {"cryoet-engine forest": text, "sha256": checksum(text, self._tables)}
        with partial_path(path) as partial:
            Path(partial).write_bytes(save(self._tables, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, n_threads: int = 0) -> PixelClassifier:
        """Read a saved classifier; FileFormatError if the file is damaged, tampered with or of another version."""
        header, tables = read_file(path)
        try:
            made = cls(
                header["n_trees"],
                max_features=header["max_features"],
                spec=spec_from(header["spec"]),
                seed=header["seed"],
                n_threads=n_threads,
            )
            made.classes = tuple(str(name) for name in header["classes"])
            if header["oob_error"] is not None:
                made.oob_error = float(header["oob_error"])
            if header["training"] is not None:
                made.training = training_from(header["training"])
            made.extra = tuple(str(name) for name in header["extra"])
            if header["importance"] is not None:
                made.importance = importance_from(header["importance"], made.spec, made.extra)
            if tables["leaves"].shape[1] != len(made.classes) or len(tables["tree_start"]) != made.n_trees + 1:
                raise ValueError("its classes or trees do not fit its tables")
            made._set_tables(tables)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise file_error(
                path, "forest", expected="the tables of a saved forest", got=str(error) or repr(error),
                fix="the file is damaged: train and save the forest again",
            ) from error  # fmt: skip
        return made


def _intensity_map(new: Statistics, training: TrainingRecord) -> tuple[float, float]:
    """scale, shift that give `new` the training tomogram's mean and standard deviation."""
    if not (new.std > 0 and math.isfinite(new.std)):
        raise input_error("predict_proba", "volume", expected="voxels that differ", got=f"standard deviation {new.std}")
    scale = training.std / new.std
    return scale, training.mean - scale * new.mean
