# SPDX-License-Identifier: MIT
"""How the viewer's frame loop fares while something else goes on: median and longest time between frames.

`xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/viewer.py [--data FOLDER]` writes results/viewer.json. On the
lysosome (256 x 256 slices) where FOLDER has it, else on a simulated tomogram. `--stacks` also tells where the thread
that draws was during the longest frames, by looking at its stack every few milliseconds.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cryoet_engine import io
from cryoet_engine.viewer.app import Start, Viewer
from cryoet_engine.viewer.live import Plane
from cryoet_engine.viewer.window import Window
from harness import RESULTS, commit, machine

SIZE = (1440, 900)
SAMPLING_S = 0.004
WORST = 3  # frames of each situation that `--stacks` tells of
Script = Iterator[str]  # yields, once a frame, what goes on in the next; "" for frames that are not counted


class Stacks(threading.Thread):
    """Looks at every thread's stack, again and again. A look that comes late tells that something held the GIL."""

    def __init__(self) -> None:
        super().__init__(name="stacks", daemon=True)
        self.seen: list[tuple[float, dict[str, tuple[str, ...]]]] = []
        self._main = threading.main_thread().ident

    def run(self) -> None:
        while True:
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            frames = {k: v for k, v in sys._current_frames().items() if k != self.ident}
            now = time.perf_counter()
            self.seen.append((now, {names.get(k, str(k)): _lines(v) for k, v in frames.items()}))
            time.sleep(SAMPLING_S)

    def tell(self, start: float, end: float) -> None:
        """What was seen between two times, most often first, and the longest time without a look."""
        seen = [(at, stacks) for at, stacks in self.seen if start <= at <= end]
        times = [start, *(at for at, _ in seen), end]
        gap = max(later - earlier for earlier, later in itertools.pairwise(times))
        print(f"    {len(seen)} looks, {1e3 * gap:.0f} ms without one")
        for name in sorted({name for _, stacks in seen for name in stacks}):
            common = collections.Counter(stacks[name] for _, stacks in seen if name in stacks).most_common(3)
            for stack, times_seen in common:
                print(f"    {name} {times_seen}x {' < '.join(stack)}")


def _lines(frame: Any) -> tuple[str, ...]:
    """The innermost calls of ours and of others, innermost first."""
    found = [(f.filename.split("/")[-1], f.lineno, f.name) for f in traceback.StackSummary.extract(
        traceback.walk_stack(frame), limit=7, lookup_lines=False
    )]  # fmt: skip
    return tuple(f"{name}:{line}:{function}" for name, line, function in found)


class Loop:
    """A window, a viewer, and times between frames by what went on."""

    def __init__(self, tomogram: str, stacks: Stacks | None) -> None:
        self.window = Window("benchmark", SIZE)
        self.viewer = Viewer(self.window, Start(tomogram=tomogram))
        self.times: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)  # (began, seconds)
        self._stacks = stacks

    def run(self, script: Callable[[Loop], Script]) -> None:
        """Frames, as fast as they come, until the script ends."""
        steps = script(self)
        going_on, began = "", time.perf_counter()
        last = began

        def frame() -> bool:
            nonlocal going_on, last
            now = time.perf_counter()
            if going_on:
                self.times[going_on].append((last, now - last))
            last = now
            before, going_on = going_on, next(steps, "end")
            if going_on != before:
                print(f"{now - began:6.1f} s {going_on}", file=sys.stderr, flush=True)
            if going_on == "end":
                going_on = ""
                self.window.close()
            self.viewer.frame()
            return True

        try:
            self.window.run(frame)
        finally:
            self.viewer.close()
            self.window.release()

    def rows(self) -> list[dict[str, Any]]:
        """Of every situation: frames, seconds, median, 95th percentile and longest, in ms."""
        rows = []
        for name, frames in self.times.items():
            taken = [1e3 * seconds for _, seconds in frames]
            rows.append(
                {
                    "while": name,
                    "frames": len(taken),
                    "seconds": round(sum(taken) / 1e3, 2),
                    "median_ms": round(statistics.median(taken), 1),
                    "p95_ms": round(float(np.percentile(taken, 95)), 1),
                    "longest_ms": round(max(taken), 1),
                }
            )
            if self._stacks is not None:
                for start, seconds in sorted(frames, key=lambda one: -one[1])[:WORST]:
                    print(f"  {name}: {1e3 * seconds:.0f} ms")
                    self._stacks.tell(start, start + seconds)
        return rows


def settled(loop: Loop) -> bool:
    """Whether nothing goes on: no job, no training, and 3D is finished."""
    viewer = loop.viewer
    document = viewer.document
    return (
        document is not None
        and document.scene is not None
        and viewer.live is not None
        and not viewer.live.status[0]
        and not viewer.jobs.running
        and viewer.scene.frames >= max(viewer.scene.wanted, 1)
    )


def until_settled(loop: Loop, name: str, limit_s: float = 60.0) -> Script:
    """Frames of a situation until nothing goes on."""
    end = time.perf_counter() + limit_s
    yield name
    while not settled(loop) and time.perf_counter() < end:
        yield name


def lasting(name: str, seconds: float, step: Callable[[float], None] = lambda share: None) -> Script:
    """Frames for so long; `step` gets the share of it that has passed before each."""
    start = time.perf_counter()
    while (share := (time.perf_counter() - start) / seconds) < 1:
        step(share)
        yield name


def stroke(loop: Loop, marks: npt.NDArray[np.uint8], plane: Plane, answers: list[dict[str, float]]) -> Script:
    """Draw, and go on until all is answered; the time until the visible slice has new labels goes to `answers`."""
    viewer = loop.viewer
    document = viewer.document
    assert document is not None
    assert viewer.live is not None
    document.strokes.begin()
    for label in np.unique(marks[marks > 0]):
        document.strokes.fill(int(label), marks == label)
    document.strokes.end()
    document.found.clear()
    yield ""  # what this took is not the viewer's
    ended = time.perf_counter()
    viewer.strokes_changed()
    answer: dict[str, float] = {"voxels": int((marks > 0).sum())}
    number = document.scene_number
    while not answer.get("volume_s"):
        word = viewer.live.status[0]
        job = next((one.name for one in viewer.jobs.running), "")
        yield f"live labels: {word}" if word else f"background work: {job}" if job else "after a stroke"
        if plane in document.found:
            answer.setdefault("slice_s", round(time.perf_counter() - ended, 2))
        if document.scene_number > number:
            answer["volume_s"] = round(time.perf_counter() - ended, 2)
    answers.append(answer)
    yield from until_settled(loop, "3D of new labels")


def script(loop: Loop, marks: npt.NDArray[np.uint8], idle_s: float, answers: list[dict[str, float]]) -> Script:
    """Idle, strokes twice (the first also loads the trees' library), ramps, light."""
    viewer = loop.viewer
    while viewer.document is None:
        yield ""
    document = viewer.document
    document.settings = replace(document.settings, frames=2)  # software OpenGL takes minutes for more
    yield from until_settled(loop, "")
    drawn = np.flatnonzero(marks.any(axis=(1, 2)))
    at = int(drawn[len(drawn) // 2])
    document.move_to(0, at)
    while len(document.strokes.classes) < marks.max():
        viewer.add_class()
    yield from until_settled(loop, "")
    yield from lasting("idle", idle_s)
    first = np.where(np.arange(len(marks))[:, None, None] == at, marks, 0)
    rows = np.arange(marks.shape[1])[:, None]
    yield ""
    yield from stroke(loop, np.where(rows % 8 < 4, first, 0), Plane("z", at), [])
    yield from lasting("", 1.0)
    yield from lasting("idle, with classes", idle_s)
    for part in (4, 6):
        more = np.where((rows % 8 >= part) & (rows % 8 < part + 2), first, 0)
        yield from stroke(loop, more.astype(np.uint8), Plane("z", at), answers)
    assert document.transfer is not None
    name = document.transfer.classes[1]
    ramp = document.transfer.ramp(name)

    def drag(share: float) -> None:
        viewer.change_ramp(name, left=ramp.left + share * 0.9 * (ramp.right - ramp.left))

    yield from lasting("a ramp is dragged", idle_s, drag)
    yield from until_settled(loop, "")
    turned = document.settings.light_azimuth_deg + 40
    document.settings = replace(document.settings, light_azimuth_deg=turned)
    yield from until_settled(loop, "light refines")


def simulated() -> tuple[str, npt.NDArray[np.uint8]]:
    """A tomogram of virions and strokes on it, as large as the lysosome's slices."""
    from cryoet_engine.simulate import demo_recipes, draw_strokes, simulate_virions

    made = simulate_virions(demo_recipes()[0])
    folder = tempfile.mkdtemp()
    path = str(Path(folder, "virions.mrc"))
    io.write(path, made.tomogram)
    strokes = draw_strokes(made.truth, tomogram=made.tomogram, slices=1, fraction=0.01, seed=0)
    return path, strokes.numpy().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with lysosome/")
    parser.add_argument("--idle", type=float, default=8.0, metavar="SECONDS", help="of situations that have no end")
    parser.add_argument("--stacks", action="store_true", help="tell where the longest frames were; slows them a little")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()  # no journal of another run, and none of ours stays
    folder = None if args.data is None else args.data / "lysosome"
    if folder is not None and folder.is_dir():
        tomogram = str(folder / "lysosome_bin2.mrc")
        marks = io.read_volume(folder / "lysosome_bin2_scribbles.mrc.gz").numpy().astype(np.uint8)
    else:
        tomogram, marks = simulated()
    stacks = Stacks() if args.stacks else None
    loop = Loop(tomogram, stacks)
    if stacks is not None:
        stacks.start()
    answers: list[dict[str, float]] = []
    renderer = loop.window.context.info["GL_RENDERER"]
    loop.run(lambda one: script(one, marks, args.idle, answers))
    rows = loop.rows()
    for row in rows:
        print(
            f"{row['while']:<28}{row['frames']:>6} frames  median {row['median_ms']:>7} ms"
            f"  p95 {row['p95_ms']:>7}  longest {row['longest_ms']:>7}"
        )
    print("strokes:", answers)
    if not args.stacks:
        args.results.mkdir(parents=True, exist_ok=True)
        content = {
            "commit": commit(),
            "machine": machine() | {"opengl": renderer},
            "tomogram": Path(tomogram).name,
            "shape": marks.shape,
            "window": SIZE,
            "frames": rows,
            "strokes": answers,
        }
        (args.results / "viewer.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
