# SPDX-License-Identifier: MIT
"""Features, forest and streaming through cryoet_engine.cuda, on a device that runs the kernels without a card."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType

import numpy as np
import pytest
from emulated import CudaArray, EmulatedDevice
from sklearn.ensemble import RandomForestClassifier

from cryoet_engine import FeatureSpec, PixelClassifier, Volume, feature_stack, filters
from cryoet_engine._checks import InputError, MissingDependencyError
from cryoet_engine.cuda import arrays, device, stream, structures
from cryoet_engine.cuda.forest import CardTables
from cryoet_engine.features import FeatureSource
from test_features import check, noise

SMALL = FeatureSpec(filters=("GaussianSmoothing", "StructureTensorEigenvalues"), scales=(0.3, 0.7, 1.6))
KERNELS = {
    ("separable", "convolve_z"): structures.Convolution,
    ("separable", "multiply"): structures.Product,
    ("separable", "combine"): structures.Combination,
    ("separable", "symmetric_eigenvalues"): structures.Eigenvalues,
    ("separable", "symmetric_eigenvalues_2"): structures.Eigenvalues2,
    ("features", "stage_two"): structures.StageTwo,
    ("forest", "forest_vote_4"): structures.ForestJob,
}


@pytest.fixture
def card(kernels, monkeypatch):
    """card(seed, capacity): from now on "cuda" is an emulated card; at the end all its memory has to be free."""
    made = []

    def use(seed: int = 0, capacity: int = 1 << 30) -> EmulatedDevice:
        made.append(EmulatedDevice(kernels, seed, capacity))
        for module in (device, arrays):
            monkeypatch.setattr(module, "card", lambda where: made[-1])
        return made[-1]

    yield use
    assert any(one.launches for one in made)
    assert not any(one.held for one in made)


def on_card(array: np.ndarray) -> CudaArray:
    return np.array(array).view(CudaArray)


def host(array: CudaArray) -> np.ndarray:
    """The answer, which must be on the card still."""
    assert isinstance(array, CudaArray)
    return np.asarray(array)


@pytest.mark.parametrize("seed", range(4))
def test_the_emulated_card_shows_a_forgotten_wait(kernels, seed):
    used, sent = EmulatedDevice(kernels, seed), np.arange(5, dtype=np.float32)

    def there_and_back(wait):
        memory, up, down = used.allocate(sent.nbytes), used.stream(), used.stream()
        back = np.zeros_like(sent)
        used.upload(sent, memory.address, up)
        if wait:
            used.wait(down, used.mark(up))
        used.download(memory.address, back, down)
        used.synchronise()
        memory.free()
        return back

    assert all(np.array_equal(there_and_back(wait=True), sent) for _ in range(9))
    assert not all(np.array_equal(there_and_back(wait=False), sent) for _ in range(9))


@pytest.mark.parametrize(("file", "kernel"), KERNELS)
def test_structures_are_those_of_the_kernels(kernels, file, kernel):
    sizes = (ctypes.c_int * 4)()
    assert getattr(kernels.library(file), f"sizes_{kernel}")(sizes) == 1
    assert sizes[0] == ctypes.sizeof(KERNELS[file, kernel])


# ---- features


@pytest.mark.parametrize("compat", ["ilastik", "scale-true"])
def test_channels_equal_the_oracle(card, compat):
    card()
    v, spec = noise((9, 17, 40), mean=3), FeatureSpec(compat=compat)
    found = host(feature_stack(on_card(v), spec))
    assert found.dtype == np.float32
    check(found, v, compat, slack=2.0)


@pytest.mark.parametrize("compat", ["ilastik", "scale-true"])
@pytest.mark.parametrize("shape", [(5, 1, 40), (1, 9, 33), (12, 18, 1), (3, 2, 30)])
def test_axes_thin_or_shorter_than_the_window(card, compat, shape):
    card(seed=1)
    v = noise(shape, 1)
    check(host(feature_stack(on_card(v), FeatureSpec(compat=compat))), v, compat, thin=True, slack=6.0)


@pytest.mark.parametrize("compat", ["ilastik", "scale-true"])
@pytest.mark.parametrize("planar", [True, (0.3, 1.0, 10.0)])
def test_slice_by_slice(card, compat, planar):
    card(seed=2)
    v, spec = noise((3, 17, 30), 9, mean=5), FeatureSpec(compat=compat, planar=planar)
    found = host(feature_stack(on_card(v), spec))
    # Not the largest range of a filter's channels: a mixture of eigenvalues in the plane and in space has none.
    check(found, v, compat, planar=spec.planar, thin=True, slack=6.0)
    if planar is True:  # the same passes and pointwise kernels as the CPU's. Measured: the same bits
        assert np.abs(found - feature_stack(v, spec)).max() < 1e-6


def test_a_choice_of_channels_and_scales_beyond_the_fast_kernel(card):
    card()
    v = noise((4, 5, 300), 3)
    spec = FeatureSpec(only=(("DifferenceOfGaussians", 5.0), ("GaussianSmoothing", 40.0), ("LaplacianOfGaussian", 1.0)))
    found, truth = host(feature_stack(on_card(v), spec, offset=0.0)), feature_stack(v, spec, offset=0.0)
    # Relative to each channel's range, measured 1.1e-5 (the difference).
    assert (np.abs(found - truth).max(axis=(1, 2, 3)) < 1e-4 * np.ptp(truth, axis=(1, 2, 3))).all()


@pytest.mark.parametrize("compat", ["ilastik", "scale-true"])
def test_slabs_give_the_bits_of_the_whole(card, compat):
    spec, v = FeatureSpec(compat=compat, scales=(0.3, 1.0, 1.6), planar=(1.0,)), noise((23, 9, 14), 4)
    large = card()
    whole = host(feature_stack(on_card(v), spec))
    small = card(capacity=large.peak // 2)
    assert np.array_equal(host(feature_stack(on_card(v), spec)), whole)
    assert small.launches.count("combine") >= 4 * large.launches.count("combine")


# ---- filters on arrays of the card


def test_filters_stay_on_the_card(card):
    card()
    v = noise((7, 12, 19), 5)
    there = on_card(v)
    for found, truth in (
        (filters.gaussian(there, 1.3, order=(0, 1, 2)), filters.gaussian(v, 1.3, order=(0, 1, 2))),
        (filters.gaussian(there[:, ::2, ::-1], 2.0), filters.gaussian(v[:, ::2, ::-1], 2.0)),
        (filters.gaussian_gradient_magnitude(there, 1.0), filters.gaussian_gradient_magnitude(v, 1.0)),
        (filters.laplacian_of_gaussian(there, 1.0), filters.laplacian_of_gaussian(v, 1.0)),
        (filters.difference_of_gaussians(there, 2.0), filters.difference_of_gaussians(v, 2.0)),
        (filters.hessian_of_gaussian_eigenvalues(there, 1.0), filters.hessian_of_gaussian_eigenvalues(v, 1.0)),
        (
            filters.structure_tensor_eigenvalues(there, derivative_sigma=0.7, integration_sigma=1.4),
            filters.structure_tensor_eigenvalues(v, derivative_sigma=0.7, integration_sigma=1.4),
        ),
    ):
        assert np.abs(host(found) - truth).max() < 2e-6  # measured 6e-7, values of about one
    volume = filters.gaussian(Volume(there, voxel_size_A=7.0), 1.0)
    assert volume.voxel_size_A == (7.0, 7.0, 7.0)
    assert np.abs(host(volume.data) - filters.gaussian(v, 1.0)).max() < 1e-6
    with pytest.raises(InputError, match="runs on the CPU"):
        filters.bilateral(there, sigma_vox=1.0, sigma_range=1.0)


# ---- the forest


def grown(n_classes, n_trees, n_features=9, **how):
    rng = np.random.default_rng(n_classes)
    x, y = rng.normal(size=(400, n_features)).astype(np.float32), rng.integers(0, n_classes, 400)
    y[:n_classes] = np.arange(n_classes)
    trained = RandomForestClassifier(n_trees, random_state=1, n_jobs=1, **how).fit(x, y)
    return PixelClassifier.from_sklearn(trained, n_threads=1)


@pytest.mark.parametrize(("n_classes", "n_trees"), [(2, 17), (4, 8), (5, 3), (16, 5), (40, 4)])
@pytest.mark.parametrize("how", [{}, {"min_samples_leaf": 3}], ids=["pure", "mixed"])
def test_the_forest_bit_for_bit(card, n_classes, n_trees, how):
    used, made = card(seed=n_classes), grown(n_classes, n_trees, **how)
    channels = noise((9, 5, 9, 11), n_trees)
    for dtype in ("float32", "uint8", "uint16"):
        found = host(made.predict_channels(on_card(channels), dtype=dtype))
        assert found.dtype == dtype
        assert np.array_equal(found, made.predict_channels(channels, dtype=dtype))
    rows = noise((50, 9), 3)
    assert np.array_equal(host(made.predict_rows(on_card(rows))), made.predict_rows(rows))
    room = 4 if n_classes <= 4 else 16 if n_classes <= 16 else 255
    assert set(used.launches) == {f"forest_{'add' if how else 'vote'}_{room}"}


def test_bricks_shrink_where_features_are_many():
    tables = CardTables.of(grown(2, 2, n_features=200)._tables)
    assert [tables.brick(room) for room in (227 << 10, 64 << 10, 48 << 10)] == [(1, 2, 2), (1, 1, 2), (1, 1, 1)]
    assert tables.shared((1, 2, 2)) == 200 * 128 * 4


# ---- streamed


@pytest.fixture(scope="module")
def classifier():
    v, marks = noise((12, 20, 23), 6), np.zeros((12, 20, 23), np.uint8)
    marks[::3, ::4] = 1 + (v[::3, ::4] > 0.3)
    return PixelClassifier(9, spec=SMALL, n_threads=1).fit(v, marks)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("block", [None, (3, 15, 18), (5, 7, 9)])
def test_streamed_is_the_cpus(card, classifier, seed, block):
    v = noise((9, 15, 18), 7)
    truth = classifier.predict_proba(v, dtype="float32", device="cpu").data
    used = card(seed)
    found = classifier.predict_proba(v, dtype="float32", device="cuda", block=block).data
    # Features differ by rounding. Measured here: no voxel on another side of a node; one would change by a ninth.
    assert np.mean(found != truth) < 1e-3
    assert used.launches.count("forest_vote_4") == {None: 1, (3, 15, 18): 3, (5, 7, 9): 12}[block]


def test_slabs_read_each_voxel_once(card, classifier):
    v, planes = noise((20, 9, 11), 12), []

    class Recorded:
        shape, dtype = v.shape, v.dtype

        def __getitem__(self, region):
            planes.extend(range(*region[0].indices(len(v))))
            return v[region]

    card(seed=4)
    found = classifier.predict_proba(Volume(Recorded()), dtype="float32", device="cuda", block=(3, 9, 11)).data
    assert sorted(planes) == list(range(20))
    assert np.array_equal(found, classifier.predict_proba(v, dtype="float32", device="cuda", block=20).data)


def test_streamed_types_maps_and_other_layouts(card, classifier):
    v = noise((18, 15, 9), 8).transpose(2, 1, 0)
    card()
    exact = classifier.predict_proba(v, dtype="float32", device="cuda").data
    for dtype in ("uint8", "uint16"):
        proba = classifier.predict_proba(v, dtype=dtype, device="cuda", block=6).data
        assert np.array_equal(proba, np.rint(exact * np.float32(np.iinfo(dtype).max)))
    labels, out = np.zeros(v.shape, np.uint8), np.zeros(exact.shape, np.uint8)
    classifier.predict_proba(v, out=out, maps={"labels": labels}, device="cuda", block=7)
    assert np.array_equal(out, np.rint(exact * np.float32(255)))
    assert np.array_equal(labels, 1 + exact.argmax(axis=0))
    # A type that was stored, not float32.
    stored = (np.clip(v, -3, 3) * 20).astype(np.int8)
    found = classifier.predict_proba(stored, device="cuda").data
    assert np.mean(found != classifier.predict_proba(stored, device="cpu").data) < 1e-3


@pytest.mark.parametrize("seed", [0, 5])
def test_streamed_with_channels_of_ones_own(card, seed):
    rng = np.random.default_rng(seed)
    v, own, other = (rng.normal(size=(8, 11, 13)).astype(np.float32) for _ in range(3))
    marks = np.zeros(v.shape, np.uint8)
    marks[::2] = 1 + (own[::2] + v[::2] > 0)
    extra = {"own": own, "other": other}
    made = PixelClassifier(5, spec=SMALL, n_threads=1).fit(v, marks, extra=extra)
    truth = made.predict_proba(v, dtype="float32", extra=extra, device="cpu").data
    card(seed)
    found = made.predict_proba(v, dtype="float32", extra=extra, device="cuda", block=(3, 11, 7)).data
    assert np.mean(found != truth) < 1e-3
    assert np.mean(made.predict_proba(v, extra={"own": other, "other": own}, device="cuda").data != truth) > 0.1


def test_the_cards_memory_is_kept_to(card, classifier, monkeypatch):
    monkeypatch.setattr(stream, "_BLOCKS", ((24, None, None), (12, None, None), (6, 8, None), (4, 4, 4)))
    v = noise((24, 10, 12), 9)
    whole, most = None, card(seed=1).capacity
    for blocks in (1, 2, 8, 54):
        used = card(seed=1, capacity=most)
        found = classifier.predict_proba(v, device="cuda").data
        assert used.launches.count("forest_vote_4") == blocks
        assert used.peak <= 0.8 * used.capacity
        whole, most = found if whole is None else whole, int(used.peak / 0.8) - 1  # too little for these blocks
        assert np.array_equal(found, whole)
    source, tables = FeatureSource(Volume(np.zeros((60, 40, 50))), SMALL, 0.0), CardTables.of(classifier._tables)
    kind, used = np.dtype("uint8"), card()
    for limit in ("memory", "host_memory"):
        given = (3e6, 1e6, 2e5)
        sizes = [stream.card_block(used, source, tables, kind, (60, 40, 50), **{limit: n}) for n in given]
        assert sizes == [(12 if limit == "memory" else 24, 40, 50), (6, 8, 50), (4, 4, 4)]
        with pytest.raises(InputError, match="expected at least 1M, got 0M"):
            stream.card_block(used, source, tables, kind, (60, 40, 50), **{limit: 1000})
    with pytest.raises(InputError, match="memory: expected at least"):
        classifier.predict_proba(v, device="cuda", memory="1M")


def test_cancelled_or_failed_in_the_middle_leaves_nothing(card, classifier):
    v = noise((12, 10, 12), 10)

    def stop(stage, done, total, note=""):
        if done == 2:
            raise KeyboardInterrupt

    used = card(seed=3)
    with pytest.raises(KeyboardInterrupt):
        classifier.predict_proba(v, device="cuda", block=(2, 10, 12), progress=stop)
    assert not used.held
    v[9, 3, 3] = np.nan
    with pytest.raises(InputError, match="finite voxels"):
        classifier.predict_proba(v, device="cuda", block=(2, 10, 12))


# ---- where there is no card


class Elsewhere:
    """What CuPy's and torch's arrays look like."""

    shape = (3, 4, 5)
    __cuda_array_interface__ = {"shape": (3, 4, 5), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


def test_without_cupy(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    v = noise((4, 5, 6))
    assert np.array_equal(classifier.predict_proba(v).data, classifier.predict_proba(v, device="cpu").data)
    with pytest.raises(MissingDependencyError, match=r"pip install \"cryoet-engine\[cuda\]\""):
        classifier.predict_proba(v, device="cuda")
    with pytest.raises(InputError, match="expected auto, cpu or cuda, got 'gpu'"):
        classifier.predict_proba(v, device="gpu")
    for call in (
        lambda: feature_stack(Elsewhere()),
        lambda: filters.gaussian(Elsewhere(), 1.0),
        lambda: filters.gaussian(Volume(Elsewhere()), 1.0),
        lambda: classifier.predict_rows(Elsewhere()),
        lambda: classifier.predict_channels(Elsewhere()),
    ):
        with pytest.raises(MissingDependencyError, match=r"cryoet-engine\[cuda\]"):
            call()


def test_without_a_card(classifier, monkeypatch):
    cupy = ModuleType("cupy")
    cupy.cuda = ModuleType("cupy.cuda")
    cupy.cuda.is_available = lambda: False
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    v = noise((4, 5, 6))
    assert np.array_equal(classifier.predict_proba(v).data, classifier.predict_proba(v, device="cpu").data)
    with pytest.raises(InputError, match="expected an NVIDIA card, got none that CuPy can use"):
        classifier.predict_proba(v, device="cuda")
