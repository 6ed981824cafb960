# SPDX-License-Identifier: MIT
"""Masks, scores and labels of other tools become soft segmentations, and go back to one MRC a class."""

import mrcfile
import numpy as np
import pytest
import zarr

from cryoet_engine import io
from cryoet_engine._checks import FileFormatError, InputError
from cryoet_engine.io import segmentation as module
from cryoet_engine.volume import SoftSegmentation, Volume

SHAPE = (4, 5, 6)
GRID = {
    "voxel_size_A": (12.0, 10.0, 8.0),
    "origin_A": (1.0, 2.0, 3.0),
    "start": (4, 5, 6),
    "voxel_size_status": "estimated",
    "notes": ("VOXEL SIZE NOT VERIFIED",),
}


def save(path, data, **grid):
    io.write(path, Volume(np.asarray(data), **(grid or {"voxel_size_A": 10.0})))
    return path


def half(value=1, dtype=np.int8, axis=0):
    """0 and `value`, by halves of one axis."""
    out = np.zeros(SHAPE, dtype)
    out[(slice(None),) * axis + (slice(0, 2),)] = value
    return out


def whole(segmentation):
    return segmentation.block((slice(None), slice(None), slice(None)))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1, np.int8), (255, np.uint16), (7, np.int16), (1, np.float32), (255, np.float32), (-1, np.int8)],
)
def test_masks(tmp_path, value, dtype):
    a, b = half(value, dtype), half(value, dtype, axis=2)
    paths = [save(tmp_path / "tomo_membrane.mrc", a), save(tmp_path / "tomo_spikes.mrc", b)]
    soft = io.read_segmentation(paths)
    assert soft.classes == ("background", "membrane", "spikes")
    assert soft.data.dtype == np.uint8
    assert soft.voxel_size_A == (10, 10, 10)
    expected = np.stack([(a == 0) & (b == 0), a != 0, b != 0]).astype(np.float32)
    np.testing.assert_array_equal(whole(soft), expected)
    np.testing.assert_array_equal(soft.data[0, ::-1, 2], 255 * expected[0, ::-1, 2])
    np.testing.assert_array_equal(soft.data[1:, 1, 2:4, -1], 255 * expected[1:, 1, 2:4, -1])


def test_float_scores_and_a_given_background(tmp_path):
    p = np.random.default_rng(0).dirichlet((1, 1, 1), SHAPE).transpose(3, 0, 1, 2).astype(np.float32)
    paths = [save(tmp_path / f"{name}_score.mrc", p[i]) for i, name in ((1, "spikes"), (0, "Background"), (2, "lumen"))]
    soft = io.read_segmentation(paths)
    assert soft.classes == ("background", "spikes", "lumen")
    np.testing.assert_array_equal(whole(soft), p)
    without = io.read_segmentation([paths[0], paths[2]])
    assert without.classes == ("background", "spikes", "lumen")
    np.testing.assert_allclose(whole(without), p, atol=1e-7)  # 1 - a - b in float32: measured 6e-8


def test_overlapping_scores_leave_no_negative_background(tmp_path):
    paths = [save(tmp_path / f"{name}.mrc", np.full(SHAPE, 0.75, np.float32)) for name in "ab"]
    np.testing.assert_array_equal(whole(io.read_segmentation(paths))[:, 0, 0, 0], [0, 0.75, 0.75])


def test_rounding_beyond_the_range_is_clipped_and_logits_are_refused(tmp_path):
    data = np.linspace(-5e-4, 1.0005, 120, dtype=np.float32).reshape(SHAPE)
    soft = whole(io.read_segmentation(save(tmp_path / "a.mrc", data)))
    assert (soft.min(), soft.max()) == (0, 1)
    with pytest.raises(FileFormatError, match=r"b\.mrc: scores: expected .* got -8 to 5; apply a sigmoid"):
        io.read_segmentation(save(tmp_path / "b.mrc", np.linspace(-8, 5, 120).reshape(SHAPE)))
    with pytest.raises(FileFormatError, match="NaN"):
        io.read_segmentation(save(tmp_path / "c.mrc", np.full(SHAPE, np.nan, np.float32)))


@pytest.mark.parametrize(("top", "dtype"), [(255, np.uint16), (65535, np.uint16), (127, np.int8), (32767, np.int16)])
def test_integer_scores(tmp_path, top, dtype):
    ramp = np.linspace(0, top, 120).round().reshape(SHAPE).astype(dtype)
    paths = [save(tmp_path / "a.mrc", ramp), save(tmp_path / "b.mrc", half())]
    soft = io.read_segmentation(paths)
    assert soft.data.dtype == np.float32
    np.testing.assert_allclose(whole(soft)[1], ramp / np.float32(top), atol=1e-7)  # measured 6e-8
    np.testing.assert_array_equal(whole(soft)[2], half())


@pytest.mark.parametrize("name", ["labels.mrc", "labels.zarr", "labels.tif", "labels.h5"])
def test_labels(tmp_path, name):
    labels = np.arange(120).reshape(SHAPE) % 4
    path = save(tmp_path / name, labels.astype(np.uint8))
    soft = io.read_segmentation(path)
    assert soft.classes == ("background", "label 1", "label 2", "label 3")
    np.testing.assert_array_equal(whole(soft), np.eye(4, dtype=np.float32)[labels].transpose(3, 0, 1, 2))
    np.testing.assert_array_equal(soft.data[2:, 1], 255 * np.stack([labels[1] == 2, labels[1] == 3]))
    # our own order: 1 is background; unlabelled voxels count as background too
    named = io.read_segmentation(path, classes=("background", "membrane", "spikes"))
    assert named.classes == ("background", "membrane", "spikes")
    np.testing.assert_array_equal(whole(named), np.stack([labels < 2, labels == 2, labels == 3]))
    five = io.read_segmentation(path, classes=("background", "membrane", "spikes", "lumen", "other"))
    assert whole(five)[3:].sum() == 0  # labels that do not occur
    with pytest.raises(FileFormatError, match="labels: expected 0 to 2, a class each, got up to 3"):
        io.read_segmentation(path, classes=("a", "b"))


def test_label_volume_in_memory():
    labels = np.arange(120).reshape(SHAPE) % 4
    soft = io.as_soft(Volume(labels.astype(np.int16), **GRID), ("background", "membrane", "spikes"))
    np.testing.assert_array_equal(whole(soft), np.stack([labels == i for i in (1, 2, 3)]))  # 0: no class at all
    np.testing.assert_array_equal(soft.data[1:, 2, ::-1, 3], 255 * np.stack([labels == 2, labels == 3])[:, 2, ::-1, 3])
    assert soft.grid() == Volume(labels, **GRID).grid()
    for wrong, text in ((labels, "expected 0 to 2, one a name, got 0 to 3"), (labels / 2, "integers, got float64")):
        with pytest.raises(InputError, match=text):
            io.as_soft(Volume(wrong), ("a", "b"))


def test_labels_that_count_from_zero(tmp_path):
    labels = np.arange(120).reshape(SHAPE) % 4 - 1
    path = save(tmp_path / "truth.mrc", labels.astype(np.int8))
    shifted = io.labels_from_zero(io.read_volume(path))
    np.testing.assert_array_equal(shifted.data[:], labels + 1)
    np.testing.assert_array_equal(shifted.data[1, ::-1, 2:4], labels[1, ::-1, 2:4] + 1)
    assert shifted.grid() == io.read_volume(path).grid()
    full = io.labels_from_zero(Volume(np.full(SHAPE, 255, np.uint8)))
    assert (full.numpy() == 256).all()  # not 0
    with pytest.raises(InputError, match="labels_from_zero: labels: expected integers, got float64"):
        io.labels_from_zero(Volume(labels / 2))


def test_single_files(tmp_path):
    assert io.read_segmentation(save(tmp_path / "mask.mrc", half(255, np.uint8))).classes == ("background", "mask")
    empty = io.read_segmentation(save(tmp_path / "none.mrc", np.zeros(SHAPE, np.int8)))
    assert whole(empty)[1].sum() == 0
    for wrong, text in (
        (np.arange(120).reshape(SHAPE), "0 to at most 64, got up to 119"),
        (half(-3) + half(axis=1), "from 0 on"),
    ):
        with pytest.raises(FileFormatError, match=text):
            io.read_segmentation(save(tmp_path / "wrong.mrc", wrong.astype(np.int16)))


@pytest.mark.parametrize(
    ("stems", "names"),
    [
        (["tomo_membrane", "tomo_spikes"], ["membrane", "spikes"]),
        (["tomo_mem", "tomo_micro"], ["mem", "micro"]),  # cut at words, not within
        (["TS_01-membrane.pred", "TS_01-lumen.pred"], ["membrane", "lumen"]),
        (["membrane", "spikes"], ["membrane", "spikes"]),
        (["tomo", "tomo_spikes"], ["tomo", "tomo_spikes"]),
        (["a_outer_membrane_x", "a_inner_membrane_x"], ["outer", "inner"]),
        (["one"], ["one"]),
    ],
)
def test_class_names_from_file_names(stems, names):
    assert module._distinct_parts(stems) == names


def test_names_lose_every_known_ending(tmp_path):
    paths = [tmp_path / "t_a.rec.gz", tmp_path / "t_b.mrc", tmp_path / "t_c.d.tif"]
    for path in paths:
        save(path, half())
    assert io.read_segmentation(paths).classes == ("background", "a", "b", "c.d")
    assert io.read_segmentation(paths, classes=("x", "y", "z")).classes == ("background", "x", "y", "z")


def test_files_that_do_not_fit(tmp_path):
    a = save(tmp_path / "a.mrc", half())
    with pytest.raises(FileFormatError, match=r"b\.mrc: shape: expected \(4, 5, 6\), as in a\.mrc, got \(2, 5, 6\)"):
        io.read_segmentation([a, save(tmp_path / "b.mrc", half()[:2])])
    with pytest.raises(FileFormatError, match=r"b\.mrc: voxel size: expected .* as in a\.mrc"):
        io.read_segmentation([a, save(tmp_path / "b.mrc", half(), voxel_size_A=11.0)])
    unsized = save(tmp_path / "c.tif", half(), voxel_size_status="unknown")
    assert io.read_segmentation([unsized, a]).voxel_size_A == (10, 10, 10)
    scores = save(tmp_path / "f.mrc", np.linspace(0, 1, 120).reshape(SHAPE))
    with pytest.raises(InputError, match="expected 1 different names, got x, y"):
        io.read_segmentation(scores, classes=("x", "y"))
    with pytest.raises(InputError, match="different names"):
        io.read_segmentation([a, a])
    with pytest.raises(InputError, match="one path or more"):
        io.read_segmentation([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="expected a zarr store, or one volume a class, got neither"):
        io.read_segmentation(tmp_path / "empty")
    with pytest.raises(FileFormatError, match="expected an existing file"):
        io.read_segmentation(tmp_path / "nothing.zarr")


def test_a_zarr_image_with_a_channel_a_class(tmp_path):
    p = np.random.default_rng(0).dirichlet((1, 1, 1), SHAPE).transpose(3, 0, 1, 2).astype(np.float32)
    group = zarr.create_group(str(tmp_path / "a.zarr"))
    group.create_array("0", data=p)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "nanometer"} for n in "zyx")]
    scale = [{"type": "scale", "scale": [1, 1.5, 1.0, 0.5]}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    labels = {"channels": [{"label": name} for name in ("membrane", "background", "lumen")]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image], "omero": labels}
    soft = io.read_segmentation(tmp_path / "a.zarr")
    assert soft.classes == ("background", "membrane", "lumen")
    np.testing.assert_array_equal(whole(soft), p[[1, 0, 2]])
    assert soft.voxel_size_A == (15, 10, 5)


@pytest.mark.parametrize(("dtype", "step"), [("float32", 0), ("float16", 2**-11), ("uint16", 0), ("int8", 0.5 / 127)])
def test_export_and_back(tmp_path, dtype, step):
    p = np.random.default_rng(0).dirichlet((1, 1, 1, 1), (70, 5, 6)).transpose(3, 0, 1, 2).astype(np.float32)
    classes = ("background", "membrane", "spikes / knobs", "lumen")
    io.write(tmp_path / "soft.zarr", SoftSegmentation(p, classes, **GRID), dtype="uint16")
    soft = io.read_segmentation(tmp_path / "soft.zarr")
    paths = io.export_classes(soft, tmp_path / "out", dtype=dtype, prefix="TS_01_")
    assert [path.name for path in paths] == [
        f"TS_01_{n}.mrc" for n in ("background", "membrane", "spikes_knobs", "lumen")
    ]
    top = {"uint16": 65535, "int8": 127}.get(dtype, 1)
    for i, path in enumerate(paths):
        assert mrcfile.validate(path) or dtype == "float16"  # whose statistics mrcfile sums up in float16
        with mrcfile.open(path) as peer:
            assert peer.data.dtype == dtype
            np.testing.assert_allclose(peer.data / np.float32(top), whole(soft)[i], atol=step + 1e-7)
            assert peer.header.dmax == peer.data.max()
            assert peer.nstart.item() == (6, 5, 4)
            assert peer.header.origin.item() == (3, 2, 1)
    again = io.read_segmentation(tmp_path / "out")  # alphabetical, yet in the order of the classes
    assert again.classes == classes
    np.testing.assert_allclose(whole(again), whole(soft), atol=step + 1e-7)
    assert again.grid() | {"notes": again.notes[:1]} == soft.grid()


def test_export_refuses(tmp_path):
    soft = SoftSegmentation(np.zeros((2, *SHAPE), np.uint8), ("a b", "A_B"))
    for how in ({"dtype": "uint8"}, {"dtype": "float64"}, {"prefix": "x/y"}):
        with pytest.raises(InputError, match="export_classes"):
            io.export_classes(soft, tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()
    names = [path.name for path in io.export_classes(soft, tmp_path / "out")]
    assert names == ["0_a_b.mrc", "1_A_B.mrc"]  # the same on a file system that ignores case
    with pytest.raises(InputError, match="export_classes writes one MRC a class"):
        io.write(tmp_path / "a.mrc", soft)


def test_real_labels(test_data):
    soft = io.read_segmentation(
        test_data / "lysosome" / "lysosome_bin2_scribbles.mrc.gz",
        classes=("background", "membrane", "spikes", "lumen"),
    )
    counts = [int((soft.data[i] == 255).sum()) for i in range(4)]
    assert counts[1:] == [673, 126, 245]
    target = io.read_segmentation(test_data / "simulated-deepfinder" / "tomo1_target.h5")
    assert len(target.classes) == 10
