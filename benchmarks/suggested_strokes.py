# SPDX-License-Identifier: MIT
"""What strokes at suggested places are worth, against the same strokes at random places.

A forest is trained on few strokes; then a cross of true labels, as wide as the box, is drawn into each of some boxes,
suggested or random, and the forest is trained again. Judged over voxels of the whole volume. Truth: the simulator's;
for the lysosome, which has none, what a forest trained on all its strokes says.

    python benchmarks/suggested_strokes.py [--rounds 10] [--data FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoet_engine import PixelClassifier, Volume, feature_stack
from cryoet_engine.features import conditioning_offset
from cryoet_engine.io import read_volume
from cryoet_engine.simulate import demo_recipes, draw_strokes, simulate_virions

SIZE, TREES, JUDGED = 32, 60, 100_000
Labels = npt.NDArray[np.uint8]


class Contest:
    """One tomogram, its truth, and the features of the voxels by which a forest is judged."""

    def __init__(self, tomogram: Volume, truth: Labels, channels: npt.NDArray[np.float32]) -> None:
        self.tomogram, self.truth = tomogram, truth
        at = np.random.default_rng(0).integers(0, truth.size, JUDGED)
        self.rows = np.ascontiguousarray(channels.reshape(len(channels), -1)[:, at].T)
        self.right = truth.ravel()[at]

    def judge(self, marks: Labels, seed: int) -> tuple[PixelClassifier, float, float]:
        """A forest trained on the marks, its error and its mean F1."""
        forest = PixelClassifier(TREES, seed=seed, n_threads=1).fit(self.tomogram, marks)
        found = forest.predict_rows(self.rows).argmax(axis=1) + 1
        f1 = []
        for k in np.unique(self.right):
            hit = np.count_nonzero((found == k) & (self.right == k))
            f1.append(2 * hit / (np.count_nonzero(found == k) + np.count_nonzero(self.right == k)))
        return forest, float(np.mean(found != self.right)), float(np.mean(f1))

    def cross(self, marks: Labels, centre: tuple[int, int, int]) -> None:
        """Draw two lines of true labels across a box."""
        z, y, x = centre
        rows, columns = (slice(max(c - SIZE // 2, 0), c + SIZE // 2) for c in (y, x))
        marks[z, y, columns] = self.truth[z, y, columns]
        marks[z, rows, x] = self.truth[z, rows, x]

    def random_places(self, n: int, seed: int) -> list[tuple[int, int, int]]:
        """Boxes anywhere, none sticking out."""
        rng = np.random.default_rng(seed)
        (depth, height, width), half = self.truth.shape, SIZE // 2
        spans = ((0, depth), (half, height - half), (half, width - half))
        return [tuple(int(rng.integers(*span)) for span in spans) for _ in range(n)]  # type: ignore[misc]

    def round(self, marks: Labels, n: int, seed: int) -> npt.NDArray[np.float64]:
        """Error and F1 [before, random, suggested][2]; random is the mean of three draws."""
        forest, *before = self.judge(marks, seed)
        outcomes = [self._with(marks, self.random_places(n, 10 * seed + draw), seed) for draw in range(3)]
        places = [one.centre for one in forest.suggest(self.tomogram, marks, n=n, size=SIZE)]
        return np.array([before, np.mean(outcomes, axis=0), self._with(marks, places, seed)])

    def _with(self, marks: Labels, places: list[tuple[int, int, int]], seed: int) -> tuple[float, float]:
        more = marks.copy()
        for place in places:
            self.cross(more, place)
        _, error, f1 = self.judge(more, seed)
        return error, f1


def simulated(index: int, rounds: int) -> tuple[str, list[npt.NDArray[np.float64]]]:
    made = simulate_virions(demo_recipes()[index])
    truth = made.truth.numpy() + np.uint8(1)  # as strokes number the classes
    contest = Contest(made.tomogram, truth, feature_stack(made.tomogram, n_threads=1))
    results = []
    for seed in range(rounds):
        marks = draw_strokes(made.truth, tomogram=made.tomogram, slices=1, fraction=0.0003, seed=seed).numpy().copy()
        results.append(contest.round(marks, 6, seed))
    return f"simulated tomogram {index + 1}, six boxes", results


def lysosome(folder: Path, rounds: int) -> tuple[str, list[npt.NDArray[np.float64]]]:
    tomogram = read_volume(folder / "lysosome" / "lysosome_bin2.mrc")
    drawn = read_volume(folder / "lysosome" / "lysosome_bin2_scribbles.mrc.gz").numpy().astype(np.uint8)
    channels = feature_stack(tomogram, offset=conditioning_offset(tomogram), n_threads=1)
    teacher = PixelClassifier(100, n_threads=1).fit(tomogram, drawn)
    truth = (teacher.predict_channels(channels).argmax(axis=0) + 1).astype(np.uint8)
    contest = Contest(tomogram, truth, channels)
    results = []
    for seed in range(rounds):
        some = np.random.default_rng(seed).random(drawn.shape) < 0.1
        results.append(contest.round(np.where(some, drawn, 0).astype(np.uint8), 3, seed))
    return "lysosome, a tenth of its strokes, three boxes", results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--data", type=Path, help="folder with lysosome/")
    args = parser.parse_args()
    contests = [lambda: simulated(0, args.rounds), lambda: simulated(1, args.rounds)]
    if args.data:
        contests.append(lambda: lysosome(args.data, args.rounds))
    print("| | before | random places | suggested | rounds won |\n| --- | --- | --- | --- | --- |")
    for contest in contests:
        name, results = contest()
        mean = np.mean(results, axis=0)
        for k, (measure, better) in enumerate((("error", -1), ("mean F1", 1))):
            won = sum(better * (one[2, k] - one[1, k]) > 0 for one in results)
            cells = " | ".join(f"{value:.4f}" for value in mean[:, k])
            print(f"| {name}: {measure} | {cells} | {won} of {len(results)} |", flush=True)


if __name__ == "__main__":
    main()
