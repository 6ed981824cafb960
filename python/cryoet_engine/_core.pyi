# SPDX-License-Identifier: MIT
"""Types of the native module (csrc/bindings). Private: arguments have been checked by filters, features and forest."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Float32 = npt.NDArray[np.float32]
_Float64 = npt.NDArray[np.float64]
_Probabilities = npt.NDArray[np.float32] | npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
_Triple = tuple[int, int, int]

def instruction_set() -> str:
    """The instruction set in use: "avx512", "avx2" or "baseline"."""

def use_instruction_set(name: str) -> None:
    """Use a lower instruction set than the processor has (tests); "best" goes back."""

def release_memory() -> None:
    """Give the buffers that kernels keep for the next block back to the system."""

def gaussian(volume: _Float32, sigma: float, order: _Triple, window: float, threads: int) -> _Float32: ...
def gaussian_taps(sigma: float, order: int, window: float) -> _Float32:
    """The 2r + 1 taps that `gaussian` correlates with."""

def symmetric_eigenvalues(tensor: Sequence[_Float32], threads: int) -> _Float32: ...
def bilateral(
    block: _Float32,
    sigma_vox: float,
    sigma_range: float,
    window: float,
    start: _Triple,
    shape: _Triple,
    threads: int,
) -> _Float32: ...
def add_to_histogram(
    block: _Float32, value_range: tuple[float, float], counts: npt.NDArray[np.int64], threads: int
) -> None: ...
def count_upper_keys(block: _Float32, counts: npt.NDArray[np.int64], threads: int) -> None: ...
def count_lower_keys(
    block: _Float32, row_of: npt.NDArray[np.int32], counts: npt.NDArray[np.int64], threads: int
) -> None: ...
def count_tiles(
    planes: _Float32,
    first_z: int,
    shape: _Triple,
    tile: _Triple,
    value_range: tuple[float, float],
    counts: npt.NDArray[np.int32],
    threads: int,
) -> None: ...
def equalise_tiles(
    counts: npt.NDArray[np.int32], shape: _Triple, tile: _Triple, clip_limit: float, threads: int
) -> _Float32: ...
def apply_tile_maps(
    block: _Float32,
    start: _Triple,
    shape: _Triple,
    tile: _Triple,
    value_range: tuple[float, float],
    maps: _Float32,
    threads: int,
) -> _Float32: ...
def project(volume: _Float32, angles_deg: _Float64, width: int, threads: int) -> _Float32: ...
def back_project(
    views: _Float32, angles_deg: _Float64, whole: _Triple, start: _Triple, shape: _Triple, threads: int
) -> _Float32: ...
def detector_lines(angles_deg: _Float64, nz: int, nx: int, width: int) -> bytes:
    """A GridLine (csrc/voxel/projection.h) a view, in order."""

def tilted_rays(angles_deg: _Float64, nz: int, nx: int, width: int) -> bytes:
    """A TiltedRays (csrc/voxel/projection.h) a view, in order."""

def blend_tile(
    tile: npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16],
    weights: tuple[_Float32, _Float32, _Float32],
    sums: _Float32,
    at: _Triple,
    threads: int,
) -> None:
    """tile (class, z, y, x), any strides; uint16: the bits of bfloat16. sums (class, depth, y, x), a ring along z."""

def finish_blend(
    sums: _Float32,
    first: int,
    n: int,
    softmax: bool,
    out: _Probabilities,
    labels: npt.NDArray[np.uint8] | None,
    threads: int,
) -> None:
    """Slices [first, first + n) of the volume into out (class, n, y, x), each class contiguous, and labels (n, y, x);
    sums there become 0."""

class FeaturePlan:
    def __init__(
        self,
        *,
        two_stage: bool,
        offset: float,
        sigmas: Sequence[float],
        channels: Sequence[Sequence[int]],
        planar: Sequence[bool],
        n_channels: int,
    ) -> None: ...
    @property
    def halo(self) -> int: ...
    @property
    def two_stage(self) -> bool: ...
    @property
    def offset(self) -> float: ...
    @property
    def n_channels(self) -> int: ...
    @property
    def scales(self) -> list[tuple[float, bool, list[int]]]:
        """Sigma, whether it is planar, and the first channel of each filter (-1: not wanted)."""

def stage_taps(sigma: float) -> _Float32:
    """The taps of stage two (csrc/voxel/stage_taps.h), in the order of its structure."""

def features(
    plan: FeaturePlan, block: _Float32, start: _Triple, shape: _Triple, threads: int, out: _Float32
) -> None: ...

class Forest:
    """A packed forest; the constructor refuses (ValueError) what could send a walk out of bounds or in circles."""

    def __init__(
        self,
        *,
        thresholds: npt.NDArray[np.float32],
        links: npt.NDArray[np.uint32],
        tree_start: npt.NDArray[np.int64],
        leaves: npt.NDArray[np.float64],
        n_features: int,
    ) -> None: ...
    def predict_rows(self, rows: _Float32, threads: int) -> _Float32: ...
    def predict_channels(self, channels: _Float32, threads: int, out: _Probabilities) -> None:
        """channels (C, z, y, x), x contiguous; out (classes, z, y, x) float32, uint8 or uint16, x contiguous."""

    def predict_block(
        self,
        plan: FeaturePlan,
        block: _Float32,
        start: _Triple,
        shape: _Triple,
        threads: int,
        out: _Probabilities,
        extra: _Float32 | None = None,
    ) -> None:
        """As predict_channels, of the plan's channels of the core; extra (E, core): channels that follow them."""
