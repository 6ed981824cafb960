# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cryoet_engine import CryoETError, TransferFunction
from cryoet_engine.render import Cut, RenderSettings
from cryoet_engine.render.picture import save_image
from cryoet_engine.render.session import KEYWORD, Session
from cryoet_engine.render.settings import Box
from cryoet_engine.transfer import Ramp, RawRamp


def session(folder: Path) -> Session:
    transfer = TransferFunction(
        classes=("background", "membrane"),
        ramps=(Ramp(left=0.5, visible=False), Ramp(left=0.3, color=(0.1, 0.2, 0.3))),
        raw=RawRamp(low_pass_sigma_vox=1.0, at_zero=3.5, at_one=-2.0),
        thresholds=((0.5, math.nan), (0.3, 0.25)),
    )
    settings = RenderSettings(
        mode="dvr",
        source="raw",
        raw_colors=((0.0, 0, 0, 0, 0), (1.0, 1, 1, 1, 0.5)),
        cuts=(Cut(normal=(1, 0, 0), point_vox=(3, 4, 5), classes=("membrane",)),),
        box=Box(low_vox=(0, 1, 2), high_vox=(7, 8, 9)),
        slices=(4, None, None),
        background=(0.1, 0.2, 0.3),
        title="Ötzi",
    )
    return Session(
        tomogram=str(folder / "tomo.mrc"),
        segmentation=("/elsewhere/proba.zarr",),
        transfer=transfer,
        settings=settings,
        size=(640, 360),
        region=((0, 4), (1, 9), (2, 8)),
        hide_dust_nm=12.5,
        bits=16,
    )


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    first = session(tmp_path)
    first.save(tmp_path / "a.json")
    again = Session.load(tmp_path / "a.json")
    assert repr(again) == repr(first)  # nan is not equal to itself
    assert json.loads((tmp_path / "a.json").read_text())["tomogram"] == "tomo.mrc"  # moves with its folder
    assert json.loads((tmp_path / "a.json").read_text())["segmentation"] == ["/elsewhere/proba.zarr"]


def test_a_picture_carries_its_session(tmp_path: Path) -> None:
    first = session(tmp_path)
    save_image(Image.new("RGB", (8, 8)), tmp_path / "a.png", text={KEYWORD: first.text(tmp_path / "a.png")})
    assert repr(Session.load(tmp_path / "a.png")) == repr(first)
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    with pytest.raises(CryoETError, match="a PNG without"):
        Session.load(tmp_path / "bare.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(CryoETError, match=r"broken\.png"):
        Session.load(tmp_path / "broken.png")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "shopping list"}, "kind"),
        ({"version": 2}, "version"),
        ({"version": True}, "version: expected 1, got true"),
        ({"size": [640]}, "size"),
        ({"size": [640, 0]}, "size"),
        ({"size": 5}, "content"),
        ({"bits": 12}, "bits"),
        ({"region": [[4, 4], [0, 1], [0, 1]]}, "region"),
        ({"hide_dust_nm": -1}, "hide_dust_nm"),
        ({"tomogram": 7}, "content"),
        ({"segmentation": "proba.zarr"}, 'segmentation: expected a list, got "proba.zarr"'),
        ({"segmentation": [3]}, "segmentation: expected a file's name, got 3"),
        ({"region": "abc"}, "region: expected a list"),
        ({"hide_dust_nm": math.inf}, "Infinity, which is no finite number"),
        ({"surprise": 1}, "surprise"),
        ({"settings": {"zoom": 2}}, "lack"),
        ({"settings": 3}, "settings: expected an object, got 3"),
        ({"transfer": {}}, "transfer function"),
    ],
)
def test_edited_sessions_are_checked(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    content = session(tmp_path).to_json(tmp_path) | change
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(CryoETError, match=told) as caught:
        Session.load(tmp_path / "a.json")
    assert "a.json" in str(caught.value) and "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in ("Error", "__init__", "NoneType", "str'", "missing=", "True"))


def test_a_session_without_a_segmentation_draws_the_raw_volume(tmp_path: Path) -> None:
    alone = dataclasses.replace(session(tmp_path), segmentation=())
    alone.save(tmp_path / "a.json")
    assert Session.load(tmp_path / "a.json").segmentation == ()
    with pytest.raises(CryoETError, match="segmentation"):
        dataclasses.replace(alone, settings=RenderSettings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zoom", "large"),
        ("zoom", 1e9),
        ("mode", "raytraced"),
        ("cuts", [{"normal": [0, 0, 0]}]),
        ("cuts", [3]),
        ("cuts", 3),
        ("cuts", "z"),
        ("cuts", [{"normal": [1, 0, 0], "colour": 1}]),
        ("azimuth_deg", math.nan),
        ("box", {"low_vox": [1, 1, 1], "high_vox": [0, 2, 2], "classes": []}),
        ("box", {"corner": 3}),
        ("frames", 1.5),
        ("unknown", 1),
    ],
)
def test_edited_settings_are_checked(tmp_path: Path, name: str, value: Any) -> None:
    content = session(tmp_path).to_json(tmp_path)
    content["settings"][name] = value
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(CryoETError, match=r"a\.json"):
        Session.load(tmp_path / "a.json")


def test_files_that_are_no_session(tmp_path: Path) -> None:
    for name, data in (
        ("f", b"[" * 10**5),
        ("g", b'{"version": 1e999}'),
        ("a", b""),
        ("b", b"\xff\xfe"),
        ("c", b"[1, 2"),
        ("d", b"[]"),
        ("e", b'{"kind": NaN}'),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CryoETError) as caught:
            Session.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(CryoETError, match="readable"):
        Session.load(tmp_path / "nowhere.json")


def test_a_session_is_checked_when_made(tmp_path: Path) -> None:
    with pytest.raises(CryoETError, match="bits"):
        dataclasses.replace(session(tmp_path), bits=9)  # type: ignore[arg-type]
