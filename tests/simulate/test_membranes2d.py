# SPDX-License-Identifier: MIT
"""Images of membranes for a 2D network: labels against shapes, grey values against the Gaussians asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cryoet_engine import read
from cryoet_engine._checks import InputError
from cryoet_engine.simulate import (
    Membranes2DRecipe,
    draw_strokes,
    fit_intensities,
    read_recipe,
    simulate,
    simulate_membranes_2d,
)
from cryoet_engine.volume import Volume

SMALL = Membranes2DRecipe(shape=(24, 128, 128), seed=3)
DISC = {"n_membranes": (1, 1), "circle_share": 1.0, "n_proteins": (0, 0), "background_std": 0, "membrane_std": 0}


def test_shapes_types_and_labels() -> None:
    made = simulate_membranes_2d(SMALL)
    assert made.tomogram.shape == made.truth.shape == made.instances.shape == SMALL.shape
    assert made.tomogram.dtype == np.int8
    assert made.truth.dtype == np.uint8
    assert np.unique(made.truth.numpy()).tolist() == [0, 1, 2]
    assert made.recipe.classes == ("background", "membrane", "protein")
    assert simulate(SMALL).tomogram.numpy().tobytes() == made.tomogram.numpy().tobytes()
    strokes = draw_strokes(made.truth, classes=made.recipe.classes, fraction=0.01)
    assert np.unique(strokes.numpy()).tolist() == [0, 1, 2, 3]


def test_more_images_change_none_of_the_first() -> None:
    few, many = simulate(SMALL), simulate(dataclasses.replace(SMALL, shape=(30, 128, 128)))
    assert np.array_equal(many.tomogram.numpy()[:24], few.tomogram.numpy())
    assert np.array_equal(many.instances.numpy()[:24], few.instances.numpy())
    assert not np.array_equal(few.truth.numpy()[0], few.truth.numpy()[1])
    assert not np.array_equal(simulate(dataclasses.replace(SMALL, seed=4)).truth.numpy(), few.truth.numpy())


@pytest.mark.parametrize("dtype", ["float32", "int16", "int8"])
def test_grey_values_are_those_of_the_gaussians_asked_for(dtype: str) -> None:
    asked = {"background": (10.0, 15.0), "membrane": (-40.0, 20.0), "protein": (-55.0, 8.0)}
    fields: dict[str, Any] = {f"{name}_mean": mean for name, (mean, _) in asked.items()}
    fields |= {f"{name}_std": std for name, (_, std) in asked.items()}
    made = simulate(dataclasses.replace(SMALL, **fields, dtype=dtype))
    grey, truth = made.tomogram.numpy().astype(float), made.truth.numpy()
    for label, (mean, std) in enumerate(asked.values()):
        values = grey[truth == label]
        error = std / np.sqrt(len(values))
        assert values.mean() == pytest.approx(mean, abs=4 * error)
        assert values.std() == pytest.approx(std, abs=4 * error + 0.02)  # rounding adds 1 / 12 to the variance


def test_noise_is_white_unless_asked_otherwise() -> None:
    def correlation(correlation_vox: float) -> tuple[float, float]:
        plain = {"n_membranes": (0, 0), "dtype": "float32", "correlation_vox": correlation_vox}
        grey = simulate(dataclasses.replace(SMALL, **plain, background_mean=0, background_std=1)).tomogram.numpy()
        return float(grey.std()), float(np.mean(grey[..., 1:] * grey[..., :-1]) / grey.var())

    std, beside = correlation(0)
    assert std == pytest.approx(1, abs=0.01)
    assert abs(beside) < 0.01  # measured 0.001
    std, beside = correlation(1.5)
    assert std == pytest.approx(1, abs=0.03)  # measured 0.998
    assert beside == pytest.approx(np.exp(-1 / (4 * 1.5**2)), abs=0.02)  # measured 0.895


def test_a_circle_has_the_size_and_thickness_asked_for() -> None:
    sizes = {"diameter_nm": (100, 100), "thickness_nm": (8, 8), "voxel_size_A": 10.0, "shape": (20, 300, 300)}
    made = simulate(Membranes2DRecipe(**DISC, **sizes))
    whole = [p for p in made.particles if p.whole]
    assert len(whole) >= 4
    y, x = np.indices((300, 300))
    for particle in whole:
        image = int(particle.centre_vox[0])
        r = np.hypot(y - particle.centre_vox[1], x - particle.centre_vox[2])
        assert np.array_equal(made.truth.numpy()[image] == 1, np.abs(r - 50) < 4)
        # Without noise the grey values are the labels'.
        assert np.array_equal(made.tomogram.numpy()[image] == -64, made.truth.numpy()[image] == 1)
    cut = [p for p in made.particles if not p.whole]
    assert cut, "circles may reach beyond the image"


def test_an_ellipse_is_as_thick_all_around() -> None:
    sizes = {"diameter_nm": (150, 150), "axis_ratio": (0.5, 0.5), "thickness_nm": (8, 8), "voxel_size_A": 10.0}
    made = simulate(Membranes2DRecipe(**(DISC | {"circle_share": 0.0}), **sizes, shape=(40, 300, 300)))
    ratios = []
    for particle in (p for p in made.particles if p.whole):
        own = made.truth.numpy()[int(particle.centre_vox[0])] == 1
        ridge = ndimage.distance_transform_edt(own)
        filled = ndimage.binary_fill_holes(own)
        assert filled.sum() - own.sum() == pytest.approx(np.pi * 71 * 33.5, rel=0.03)  # the inside; measured 0.4 %
        middle = ridge[own & (ridge == ndimage.maximum_filter(ridge, 3))]
        assert np.percentile(middle, 10) >= 3
        assert np.percentile(middle, 95) <= 5
        points = np.argwhere(filled & ~own) - np.argwhere(own).mean(axis=0)
        low, high = np.linalg.eigvalsh(points.T @ points)
        ratios.append(np.sqrt(low / high))
    assert len(ratios) >= 5
    assert ratios == pytest.approx([33.5 / 71] * len(ratios), rel=0.02)  # of the inside; measured 0.473 to 0.477


def test_discs_lie_beside_their_membrane_and_touch_nothing() -> None:
    near = {"protein_distance_nm": (2, 5), "protein_diameter_nm": (10, 12), "voxel_size_A": 10.0}
    made = simulate(dataclasses.replace(SMALL, **near, n_proteins=(4, 4), thickness_nm=(6, 6)))
    truth, instances = made.truth.numpy(), made.instances.numpy()
    discs = [p for p in made.particles if p.part == "protein" and p.whole]
    assert len(discs) > 50
    for disc in discs:
        image = int(disc.centre_vox[0])
        own = instances[image] == disc.instance
        assert own.sum() == pytest.approx(np.pi * 5.5**2, rel=0.25)
        # From the disc's middle to the membrane: its radius and 2 to 5 nm, within a pixel.
        y, x = (int(v) for v in np.rint(disc.centre_vox[1:]))
        to_membrane = ndimage.distance_transform_edt(truth[image] != 1)[y, x]
        # The nearest membrane may lie beyond the image.
        edge = min(y, x, 127 - y, 127 - x)
        assert to_membrane > 5 + 2 - 1
        assert to_membrane < 6 + 5 + 1.5 or edge < 12
        others = (instances[image] > 0) & ~own & (truth[image] == 2)
        assert not np.any(ndimage.binary_dilation(own) & others)


def test_instances_count_on_from_image_to_image() -> None:
    made = simulate(SMALL)
    truth, instances = made.truth.numpy(), made.instances.numpy()
    assert [p.instance for p in made.particles] == list(range(1, len(made.particles) + 1))
    assert np.array_equal(instances > 0, truth > 0)
    for particle in made.particles:
        images, *_ = np.nonzero(instances == particle.instance)
        assert np.unique(images).tolist() == [int(particle.centre_vox[0])]
        assert np.unique(truth[instances == particle.instance]).tolist() == [1 + (particle.part == "protein")]


def test_says_what_had_no_room() -> None:
    made = simulate(dataclasses.replace(SMALL, shape=(2, 64, 64), n_membranes=(30, 30), n_proteins=(60, 60)))
    assert any("of 60 membranes: no room" in note for note in made.notes)
    assert any("proteins: no room" in note for note in made.notes)


def test_too_many_instances_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoet_engine.simulate.membranes2d._MOST_INSTANCES", 20)
    with pytest.raises(InputError, match="fewer images"):
        simulate(SMALL)


@pytest.mark.parametrize(
    "field",
    [
        {"shape": (10, 4, 100)},
        {"shape": (0, 64, 64)},
        {"diameter_nm": (100, 50)},
        {"thickness_nm": (5, 80)},
        {"axis_ratio": (0.5, 1.5)},
        {"circle_share": -0.1},
        {"n_proteins": (1, 2.5)},
        {"membrane_std": -1},
        {"dtype": "uint8"},
        {"seed": "1"},
    ],
)
def test_bad_fields_are_refused_by_name(field: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        Membranes2DRecipe(**field)
    assert any(name in str(error.value) for name in field)


def test_toml_round_trip() -> None:
    assert read_recipe(SMALL.to_toml()) == SMALL
    with pytest.raises(InputError, match="dose_e_per_A2"):
        Membranes2DRecipe.from_toml('kind = "membranes-2d"\ndose_e_per_A2 = 3')


def planted(dtype: str, n: int, seed: int = 0) -> tuple[Volume, Volume]:
    """A tomogram of two Gaussians, half of which is labelled, with stray strokes and clipped tails."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((6, 40, 40), np.uint8)
    grey = rng.normal(5, 20, labels.shape)
    marked = rng.permutation(labels.size)[: 2 * n]
    labels.reshape(-1)[marked[:n]], labels.reshape(-1)[marked[n:]] = 1, 2
    grey[labels == 2] = rng.normal(-60, 28, n)
    # Every tenth stroke of the membrane is background.
    grey.reshape(-1)[marked[n : n + n // 10]] = rng.normal(5, 20, n // 10)
    if dtype == "float32":
        return Volume(grey.astype(np.float32)), Volume(labels)
    return Volume(np.clip(np.rint(grey), -128, 127).astype(np.int8)), Volume(labels)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_planted_gaussians_are_found(dtype: str) -> None:
    tomogram, labels = planted(dtype, 2000)
    found = fit_intensities(tomogram, labels)
    assert found["background_mean"] == pytest.approx(5, abs=2)  # measured within 1
    assert found["background_std"] == pytest.approx(20, abs=2)
    assert found["membrane_mean"] == pytest.approx(-60, abs=4)  # measured -57.5; the plain mean is -52.6
    assert found["membrane_std"] == pytest.approx(28, abs=5.5)  # measured 32.6; the plain deviation is 33.6
    assert found["protein_mean"] == found["membrane_mean"]
    values = tomogram.numpy()[labels.numpy() == 2]
    assert abs(found["membrane_mean"] + 60) < 0.6 * abs(values.mean() + 60)
    assert abs(found["membrane_std"] - 28) < abs(values.std() - 28)
    assert Membranes2DRecipe(**found).membrane_std == found["membrane_std"]


def test_clipped_tails_do_not_count() -> None:
    rng = np.random.default_rng(1)
    grey = np.clip(np.rint(rng.normal(-105, 28, (4, 50, 50))), -127, 127).astype(np.int8)
    labels = np.ones(grey.shape, np.uint8)
    labels[2:] = 2
    found = fit_intensities(Volume(grey), Volume(labels))
    assert grey.std() < 25
    assert found["membrane_mean"] == pytest.approx(-105, abs=3)
    assert found["membrane_std"] == pytest.approx(28, abs=2.5)


def test_the_grey_scale_does_not_matter() -> None:
    tomogram, labels = planted("float32", 1000)
    found = fit_intensities(tomogram, labels)
    tiny = fit_intensities(tomogram.with_data(tomogram.numpy() * np.float32(1e-5) + np.float32(1e-3)), labels)
    assert tiny["membrane_mean"] == pytest.approx(found["membrane_mean"] * 1e-5 + 1e-3, abs=1e-6)
    assert tiny["membrane_std"] == pytest.approx(found["membrane_std"] * 1e-5, rel=0.01)


def test_what_was_simulated_is_fitted_back() -> None:
    made = simulate(dataclasses.replace(SMALL, n_proteins=(8, 8)))
    found = fit_intensities(made.tomogram, made.truth.with_data(made.truth.numpy() + np.uint8(1)), protein=3)
    for name, value in found.items():
        assert value == pytest.approx(getattr(SMALL, name), abs=1.0)  # measured within 0.2


def test_the_real_lysosome_is_fitted(test_data: Path) -> None:
    tomogram = read(test_data / "lysosome" / "lysosome_bin2.mrc")
    labels = read(test_data / "lysosome" / "lysosome_bin2_scribbles.mrc.gz")
    assert isinstance(tomogram, Volume)
    assert isinstance(labels, Volume)
    found = fit_intensities(tomogram, labels, protein=3)
    # Mean and deviation of the strokes: 8.5 and 19.8, -64.6 and 28.1, -64.0 and 26.8 of 126 voxels.
    assert found["background_mean"] == pytest.approx(9.7, abs=1.5)
    assert found["background_std"] == pytest.approx(19.3, abs=1.5)
    assert found["membrane_mean"] == pytest.approx(-63.4, abs=2)
    assert found["membrane_std"] == pytest.approx(28.0, abs=2)
    assert found["protein_mean"] == pytest.approx(-65.4, abs=5)
    made = simulate(Membranes2DRecipe(**found, shape=(4, 96, 96)))
    assert made.tomogram.numpy()[made.truth.numpy() == 1].mean() == pytest.approx(-63.4, abs=3)


def test_strokes_that_cannot_be_fitted_are_refused() -> None:
    tomogram, labels = planted("int8", 1000)
    with pytest.raises(InputError, match="protein: expected 30 labelled voxels"):
        fit_intensities(tomogram, labels, protein=7)
    with pytest.raises(InputError, match="shape"):
        fit_intensities(tomogram, Volume(np.ones((2, 3, 4), np.uint8)))
    with pytest.raises(InputError, match="whole numbers"):
        fit_intensities(tomogram, Volume(np.ones(tomogram.shape, np.float32)))
    with pytest.raises(InputError, match="vary"):
        fit_intensities(Volume(np.zeros(tomogram.shape, np.int8)), labels)
    bad = tomogram.numpy().astype(np.float32)
    bad[labels.numpy() == 1] = np.nan
    with pytest.raises(InputError, match="finite"):
        fit_intensities(Volume(bad), labels)


def test_progress_can_cancel() -> None:
    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        assert stage == "images"
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(SMALL, progress=stop)
