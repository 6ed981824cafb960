# SPDX-License-Identifier: MIT
"""The folder that `make viewer` leaves, run as on a machine without Python. CRYOET_STANDALONE names it."""

import os
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from PIL import Image

FOLDER = os.environ.get("CRYOET_STANDALONE")
SIZE = (900, 600)
PATIENCE_S = 120.0

pytestmark = pytest.mark.skipif(not FOLDER, reason="CRYOET_STANDALONE names no folder (.ci/viewer builds one)")


@pytest.fixture
def bare(tmp_path):
    """An environment that leads to no Python but the system's, and to nothing of this user's."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def ball(tmp_path):
    """A bright ball in noise, as an MRC file."""
    z, y, x = np.ogrid[:48, :48, :48]
    inside = (z - 24) ** 2 + (y - 24) ** 2 + (x - 24) ** 2 < 14**2
    data = inside + np.random.default_rng(0).normal(0, 0.2, inside.shape)
    path = tmp_path / "ball.mrc"
    with mrcfile.new(path, data.astype(np.float32)) as file:
        file.voxel_size = 10.0
    return path


def run(command, environment):
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


def program(name):
    return str(Path(FOLDER, name).resolve())


def test_window_opens_and_its_picture_is_saved(ball, bare, tmp_path):
    xvfb = shutil.which("xvfb-run")
    if not xvfb:
        pytest.skip("xvfb-run is not installed")
    picture = tmp_path / "window.png"
    display = [xvfb, "-a", "-s", "-screen 0 1600x1000x24"]
    viewer = [program("cryoet-viewer"), str(ball), "--size", f"{SIZE[0]}x{SIZE[1]}"]
    done = run([*display, *viewer, "--screenshot", str(picture)], bare)
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    assert pixels.std() > 5


def test_without_a_display_one_line_names_render(ball, bare):
    done = run([program("cryoet-viewer"), str(ball), "--exit-after", "20"], bare)
    assert done.returncode != 0
    assert "`cryoet render`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_headless_picture_by_the_command_beside_it(ball, bare, tmp_path):
    picture = tmp_path / "rendered.png"
    done = run([program("cryoet"), "render", str(ball), "-o", str(picture), "--size", "160x120"], bare)
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as opened:
        assert np.asarray(opened.convert("RGB")).std() > 1


def test_no_codec_under_the_gpl_goes_along():
    names = [path.name for path in Path(FOLDER).rglob("*")]
    assert names
    assert not [name for name in names if name.startswith(("libx264", "libx265", "libavcodec", "libreadline"))]


def test_licences_are_told():
    text = Path(FOLDER, "README.txt").read_text("utf-8")
    for package in ("numpy", "scipy", "imgui-bundle", "moderngl"):
        assert any(line.startswith(f"{package} ") for line in text.splitlines()), package
