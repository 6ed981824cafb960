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
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import _core
from ._checks import FileFormatError, file_error, input_error
from ._progress import Progress, silent
from .features import FeatureSource, FeatureSpec, as_volume, block_shape, core_of
from .io import partial_path
from .tiling import block_around, blocks
from .volume import Float32Array, Grid, SoftSegmentation, Statistics, Triple, Volume, quantise, statistics

_FORMAT = 1
_LEAF = 255
_MAX_NODES = 1 << 24  # of a tree: children are stored in 24 bits
_MAX_CLASSES = 255
_STROKE_BLOCK = (64, 128, 128)


class SegmentationOutput(Protocol):
    """Where probabilities may be streamed to: an array (class, z, y, x), or what io.create_segmentation gives."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(class, z, y, x)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, uint16 or float32."""

    def __setitem__(self, region: Any, part: Any) -> None:
        """Store a part, in `dtype`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What a classifier knows of the tomogram it was trained on.

    mean, std: of its voxels. voxel_size_A: (z, y, x), Å. offset: the constant that the features subtract first (see
    `FeatureSource`). samples: labelled voxels of each class. package: version that trained it.
    """

    mean: float
    std: float
    voxel_size_A: Triple
    voxel_size_status: str
    offset: float
    samples: tuple[int, ...]
    package: str


class PixelClassifier:
    """Random forest on the features of single voxels.

    n_trees, max_features: of the forest (ilastik: 100 trees, 8 = sqrt(61) features tried at a node, grown to purity).
    spec: which features. seed: equal seeds give equal forests. n_threads: 0 uses every core; it changes no result.

    After `fit` or `load`: `classes` (names, background first), `training` (a `TrainingRecord`), `oob_error` (share of
    strokes that the trees which have not seen them get wrong; nan when loaded from elsewhere).
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
            ("max_features", max_features, 1, _LEAF),
            ("seed", seed, 0, 2**32 - 1),
            ("n_threads", n_threads, 0, 4096),
        ):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
                raise input_error("PixelClassifier", name, expected=f"a whole number, {least} to {most}", got=value)
        spec = FeatureSpec() if spec is None else spec
        if not isinstance(spec, FeatureSpec):
            raise input_error("PixelClassifier", "spec", expected="a FeatureSpec", got=type(spec).__name__)
        if spec.n_channels > _LEAF:
            raise input_error("PixelClassifier", "spec", expected=f"at most {_LEAF} channels", got=spec.n_channels)
        self.n_trees = int(n_trees)
        self.max_features = int(max_features)
        self.spec = spec
        self.seed = int(seed)
        self.n_threads = int(n_threads)
        self.classes: tuple[str, ...] = ()
        self.training: TrainingRecord | None = None
        self.oob_error = math.nan
        self._tables: dict[str, npt.NDArray[Any]] = {}
        self._forest: _core.Forest | None = None

    # ---- training

    def fit(
        self,
        tomogram: Volume | npt.NDArray[Any],
        marks: Volume | npt.NDArray[Any],
        *,
        classes: Sequence[str] | None = None,
        progress: Progress = silent,
    ) -> PixelClassifier:
        """Train on the labelled voxels; returns self.

        tomogram: (z, y, x), any real dtype. marks: whole numbers of the same shape, 0 unlabelled, 1..K classes.
        classes: K names, background first; by default class_1, class_2, ...
        Features are computed around the strokes only.

        Errors: InputError for marks of another shape, with no labelled voxel, of one class only, with fractions or
        values beyond `classes`, for a class without strokes, and for NaN or infinite voxels near the strokes.
        """
        tomogram, marks = as_volume(tomogram, "fit"), as_volume(marks, "fit")
        if marks.shape != tomogram.shape:
            raise input_error(
                "fit", "marks", expected=f"the tomogram's shape {tomogram.shape} (z, y, x)", got=marks.shape,
                fix="draw the strokes on this tomogram, or give the one they were drawn on",
            )  # fmt: skip
        where, labels = _labelled_voxels(marks)
        names = _class_names(labels, classes)
        stats = statistics(tomogram)
        offset = float(np.float32(stats.mean)) if math.isfinite(stats.mean) else 0.0
        source = FeatureSource(tomogram, self.spec, offset, n_threads=self.n_threads)
        samples = _features_at(source, where, progress)

        from sklearn.ensemble import RandomForestClassifier

        progress("growing trees", 0, 1)
        trained = RandomForestClassifier(
            n_estimators=self.n_trees,
            max_features=min(self.max_features, self.spec.n_channels),
            bootstrap=True,
            random_state=self.seed,
            n_jobs=self.n_threads or -1,
        ).fit(samples, labels)
        self._adopt(trained, names)
        self.oob_error = _out_of_bag_error(trained, samples, labels)
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
        n_threads: int = 0,
    ) -> PixelClassifier:
        """Take over a fitted RandomForestClassifier (or ExtraTreesClassifier).

        `predict_rows` works for any number of features up to 255; the volume methods need a forest trained on the
        channels of `spec`, in their order.
        """
        trees = getattr(forest, "estimators_", None)
        if not trees or not hasattr(forest, "classes_") or getattr(forest, "n_outputs_", 1) != 1:
            raise input_error(
                "from_sklearn", "forest", expected="a fitted RandomForestClassifier with one output", got=forest
            )
        names = tuple(str(c) for c in forest.classes_) if classes is None else tuple(classes)
        if len(names) != len(forest.classes_):
            raise input_error("from_sklearn", "classes", expected=f"{len(forest.classes_)} names", got=names)
        made = cls(len(trees), spec=spec, n_threads=n_threads)
        made._adopt(forest, names)
        return made

    def _adopt(self, trained: Any, names: tuple[str, ...]) -> None:
        self._set_tables(_pack(trained))
        self.classes = names

    def _set_tables(self, tables: dict[str, npt.NDArray[Any]]) -> None:
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
        """Probabilities (n, classes) of plain samples (n, features); both float32."""
        forest = self._ready("predict_rows")
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

    def predict_proba(
        self,
        volume: Volume | npt.NDArray[Any],
        *,
        dtype: npt.DTypeLike = "uint8",
        out: SegmentationOutput | None = None,
        block: int | Sequence[int] | None = None,
        match_intensity: bool = False,
        progress: Progress = silent,
    ) -> SoftSegmentation:
        """Class probabilities of every voxel, block by block.

        dtype: of the result, uint8, uint16 or float32. out: where to stream it to instead (its dtype counts then).
        block: voxels a side, one number or (z, y, x); memory grows with it, results do not depend on it.
        match_intensity: shift and stretch the volume to the mean and standard deviation of the training tomogram
        first, for another tomogram on another grey scale.
        """
        forest = self._ready("predict_proba")
        tomogram = as_volume(volume, "predict_proba")
        if self.spec.n_channels != self.n_features:
            raise input_error(
                "predict_proba", "classifier", expected=f"one trained on its spec's {self.spec.n_channels} channels",
                got=f"one trained on {self.n_features} features",
            )  # fmt: skip
        shape = (len(self.classes), *tomogram.shape)
        kind = np.dtype(dtype) if out is None else np.dtype(out.dtype)
        if kind not in (np.uint8, np.uint16, np.float32):
            raise input_error("predict_proba", "dtype", expected="uint8, uint16 or float32", got=kind)
        if out is None:
            out = np.empty(shape, kind)
        elif tuple(out.shape) != shape:
            raise input_error("predict_proba", "out", expected=f"shape {shape} (class, z, y, x)", got=tuple(out.shape))
        source = self._source(tomogram, match_intensity)
        size = _STROKE_BLOCK if block is None and self.spec.compat == "ilastik" else block
        parts = list(blocks(tomogram.shape, block_shape(size, self.spec, "predict_proba"), self.spec.halo))
        for i, part in enumerate(parts):
            progress("classifying voxels", i, len(parts))
            start, core = core_of(part)
            proba = np.empty((shape[0], *core), np.float32)
            forest.predict_block(source.plan, source.read(part.padded), start, core, self.n_threads, proba)
            out[(slice(None), *part.core)] = quantise(proba, kind)
        progress("classifying voxels", len(parts), len(parts))
        written = getattr(out, "segmentation", None)
        if isinstance(written, SoftSegmentation):
            return written
        return SoftSegmentation(out, self.classes, **tomogram.grid())

    def _source(self, tomogram: Volume, match_intensity: bool) -> FeatureSource:
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
        return FeatureSource(tomogram, self.spec, offset, scale=scale, shift=shift, n_threads=self.n_threads)

    def voxel_size_mismatch(self, volume: Grid) -> str | None:
        """A sentence for the user if `volume` is sampled over 10 % finer or coarser than the training tomogram."""
        if self.training is None or "unknown" in (self.training.voxel_size_status, volume.voxel_size_status):
            return None
        ratio = [new / old for new, old in zip(volume.voxel_size_A, self.training.voxel_size_A, strict=True)]
        if max(max(r, 1 / r) for r in ratio) <= 1.1:
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

        self._ready("save")
        header = {
            "format": _FORMAT,
            "classes": self.classes,
            "spec": dataclasses.asdict(self.spec),
            "n_trees": self.n_trees,
            "max_features": self.max_features,
            "seed": self.seed,
            "oob_error": None if math.isnan(self.oob_error) else self.oob_error,
            "training": None if self.training is None else dataclasses.asdict(self.training),
        }
        with partial_path(path) as partial:
            Path(partial).write_bytes(save(self._tables, {"cryoet-engine forest": json.dumps(header)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, n_threads: int = 0) -> PixelClassifier:
        """Read a saved classifier; FileFormatError if the file is damaged, tampered with or of another version."""
        header, tables = _read_file(path)
        try:
            made = cls(
                header["n_trees"],
                max_features=header["max_features"],
                spec=_spec_from(header["spec"]),
                seed=header["seed"],
                n_threads=n_threads,
            )
            made.classes = tuple(str(name) for name in header["classes"])
            if header["oob_error"] is not None:
                made.oob_error = float(header["oob_error"])
            if header["training"] is not None:
                made.training = _training_from(header["training"])
            if tables["leaves"].shape[1] != len(made.classes) or len(tables["tree_start"]) != made.n_trees + 1:
                raise ValueError("its classes or trees do not fit its tables")
            made._set_tables(tables)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise file_error(
                path, "forest", expected="the tables of a saved forest", got=str(error) or repr(error),
                fix="the file is damaged: train and save the forest again",
            ) from error  # fmt: skip
        return made


def _labelled_voxels(marks: Volume) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Positions (n, 3) and labels (n,) of the labelled voxels in C order, read plane by plane."""
    positions, labels = [], []
    for z in range(marks.shape[0]):
        plane = np.asarray(marks.data[z : z + 1])[0]
        if plane.dtype.kind == "f" and not (np.isfinite(plane).all() and (plane == np.rint(plane)).all()):
            raise input_error("fit", "marks", expected="whole numbers", got=f"fractions or NaN in slice {z}")
        if plane.dtype.kind in "fi" and plane.size and plane.min() < 0:
            raise input_error("fit", "marks", expected="0 (unlabelled) or a class above 0", got=plane.min())
        y, x = np.nonzero(plane)
        if y.size:
            positions.append(np.stack([np.full_like(y, z), y, x], axis=1))
            labels.append(plane[y, x].astype(np.int64))
    if not labels:
        raise input_error(
            "fit", "marks", expected="some labelled voxels", got="0 everywhere", fix="draw at least one stroke a class"
        )
    return np.concatenate(positions), np.concatenate(labels)


def _class_names(labels: npt.NDArray[np.int64], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names, checked against the labels: every class must have strokes."""
    largest = int(labels.max())
    if largest > _MAX_CLASSES:
        raise input_error("fit", "marks", expected=f"at most {_MAX_CLASSES} classes", got=f"label {largest}")
    if isinstance(classes, str):
        raise input_error("fit", "classes", expected="a list of names", got=repr(classes))
    names = tuple(f"class_{i + 1}" for i in range(largest)) if classes is None else tuple(classes)
    if len(set(names)) != len(names) or not all(isinstance(n, str) and n.strip() for n in names):
        raise input_error("fit", "classes", expected="names, none empty and none twice", got=names)
    if largest > len(names):
        raise input_error("fit", "marks", expected=f"labels 1 to {len(names)} ({', '.join(names)})", got=largest)
    present = set(np.unique(labels).tolist())
    if len(present) == 1:
        raise input_error(
            "fit", "marks", expected="strokes of two classes or more", got=f"only {names[present.pop() - 1]!r}",
            fix="mark at least one more class",
        )  # fmt: skip
    missing = [name for i, name in enumerate(names) if i + 1 not in present]
    if missing:
        raise input_error(
            "fit", "marks", expected="strokes of every class", got=f"none of {', '.join(missing)}",
            fix="mark some of it, or leave the class out",
        )  # fmt: skip
    return names


def _features_at(source: FeatureSource, where: npt.NDArray[np.intp], progress: Progress) -> Float32Array:
    """Channels (n, C) at the positions `where` (n, 3), computed in the boxes that bound them block by block."""
    out = np.empty((len(where), source.spec.n_channels), np.float32)
    cells, cell_of = np.unique(where // np.array(_STROKE_BLOCK), axis=0, return_inverse=True)
    for i in range(len(cells)):
        progress("features of the strokes", i, len(cells))
        rows = np.nonzero(cell_of.ravel() == i)[0]
        low, high = where[rows].min(axis=0), where[rows].max(axis=0) + 1
        box = (slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])), slice(int(low[2]), int(high[2])))
        channels = source.compute(block_around(source.volume.shape, box, source.spec.halo))
        z, y, x = (where[rows] - low).T
        out[rows] = channels[:, z, y, x].T
    progress("features of the strokes", len(cells), len(cells))
    return out


def _intensity_map(new: Statistics, training: TrainingRecord) -> tuple[float, float]:
    """scale, shift that give `new` the training tomogram's mean and standard deviation."""
    if not (new.std > 0 and math.isfinite(new.std)):
        raise input_error("predict_proba", "volume", expected="voxels that differ", got=f"standard deviation {new.std}")
    scale = training.std / new.std
    return scale, training.mean - scale * new.mean


def _out_of_bag_error(trained: Any, samples: Float32Array, labels: npt.NDArray[np.int64]) -> float:
    """Share of samples that most of the trees which did not train on them get wrong (Breiman 2001, section 3.1)."""
    votes = np.zeros((len(samples), len(trained.classes_)))
    for tree, drawn in zip(trained.estimators_, trained.estimators_samples_, strict=True):
        unseen = np.ones(len(samples), bool)
        unseen[drawn] = False
        if unseen.any():
            votes[unseen] += tree.tree_.predict(samples[unseen])
    judged = votes.sum(axis=1) > 0
    if not judged.any():
        return math.nan
    return float(np.mean(trained.classes_[votes[judged].argmax(axis=1)] != labels[judged]))


def _pack(trained: Any) -> dict[str, npt.NDArray[Any]]:
    """scikit-learn's trees as 8-byte nodes, breadth first, children side by side (csrc/voxel/tree_node.h)."""
    n_features = int(trained.n_features_in_)
    if n_features > _LEAF:
        raise input_error("PixelClassifier", "forest", expected=f"at most {_LEAF} features", got=n_features)
    thresholds, links, leaf_values, sizes = [], [], [], []
    first_leaf = 0
    for estimator in trained.estimators_:
        tree = estimator.tree_
        order, child = _breadth_first(tree.children_left, tree.children_right)
        if len(order) > _MAX_NODES:
            raise input_error("PixelClassifier", "tree", expected=f"at most {_MAX_NODES} nodes", got=len(order))
        inner = child >= 0
        exact = tree.threshold[order]
        rounded = exact.astype(np.float32)
        # Rounded down: for every float32 x, x <= rounded exactly where x <= exact.
        rounded = np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)
        leaves = np.cumsum(~inner) - 1 + first_leaf
        target = np.where(inner, child, leaves)
        feature = np.where(inner, tree.feature[order], _LEAF)
        links.append((target.astype(np.int64) << 8 | feature).astype(np.int64))
        thresholds.append(np.where(inner, rounded, np.float32(0)).astype(np.float32))
        leaf_values.append(tree.value[order[~inner], 0, :])
        first_leaf += int(np.count_nonzero(~inner))
        sizes.append(len(order))
    table, row = np.unique(np.concatenate(leaf_values).astype(np.float64), axis=0, return_inverse=True)
    if len(table) > _MAX_NODES:
        raise input_error(
            "PixelClassifier", "forest", expected=f"at most {_MAX_NODES} different leaves", got=len(table)
        )
    link = np.concatenate(links)
    is_leaf = (link & _LEAF) == _LEAF
    link[is_leaf] = row.ravel()[link[is_leaf] >> 8] << 8 | _LEAF
    return {
        "thresholds": np.concatenate(thresholds),
        "links": link.astype(np.uint32),
        "tree_start": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        "leaves": np.ascontiguousarray(table),
        "n_features": np.array([n_features], np.int64),
    }


def _breadth_first(
    left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """scikit-learn's node at each new position, and the new position of its left child (-1: a leaf)."""
    order, child = [], []
    level, end = np.zeros(1, np.int64), 1
    while level.size:
        inner = left[level] >= 0
        position = np.full(level.size, -1, np.int64)
        position[inner] = end + 2 * np.arange(np.count_nonzero(inner))
        order.append(level)
        child.append(position)
        level = np.stack([left[level[inner]], right[level[inner]]], axis=1).ravel()
        end += level.size
    return np.concatenate(order), np.concatenate(child)


def _read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    from safetensors import SafetensorError, safe_open

    kind = "a forest saved by cryoet-engine (safetensors)"
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            names = sorted(file.keys())
            tables = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise file_error(path, "file", expected=kind, got="no such file") from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise file_error(path, "file", expected=kind, got=f"another file, or a damaged one ({error})") from error
    try:
        header = json.loads(metadata["cryoet-engine forest"])
        form = int(header["format"])
    except (KeyError, TypeError, ValueError) as error:
        raise file_error(path, "file", expected=kind, got="a safetensors file of something else") from error
    if form != _FORMAT:
        raise FileFormatError(
            f"{path}: format: expected version {_FORMAT}, got {form}; "
            + ("install a newer cryoet-engine" if form > _FORMAT else "train and save the forest again")
        )
    wanted = {"thresholds": "f4", "links": "u4", "tree_start": "i8", "leaves": "f8", "n_features": "i8"}
    for name, dtype in wanted.items():
        dimensions = 2 if name == "leaves" else 1
        if name not in tables or tables[name].dtype != np.dtype(dtype) or tables[name].ndim != dimensions:
            raise file_error(path, f"table {name}", expected=f"{dtype}, {dimensions}D", got="another or none")
    return header, {name: tables[name] for name in wanted}


def _spec_from(record: dict[str, Any]) -> FeatureSpec:
    return FeatureSpec(compat=record["compat"], filters=tuple(record["filters"]), scales=tuple(record["scales"]))


def _training_from(record: dict[str, Any]) -> TrainingRecord:
    numbers = [float(record[name]) for name in ("mean", "std", "offset")]
    z, y, x = (float(v) for v in record["voxel_size_A"])
    if not all(math.isfinite(v) for v in (*numbers, z, y, x)) or min(z, y, x) <= 0:
        raise ValueError("its record of the training tomogram has impossible numbers")
    return TrainingRecord(
        mean=numbers[0],
        std=numbers[1],
        offset=numbers[2],
        voxel_size_A=(z, y, x),
        voxel_size_status=str(record["voxel_size_status"]),
        samples=tuple(int(n) for n in record["samples"]),
        package=str(record["package"]),
    )
