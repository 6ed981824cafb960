# SPDX-License-Identifier: MIT
"""The 61 channels by vigra, in whatever Python has it: `python vigra_features.py VOLUME.npy OUT.npz`.

vigra is in no package index of Python, but Debian's `python3-vigra` is; so it runs in a process of its own and takes
its own time. Prints seconds; OUT holds the channels that the parity check looks at.
"""

import sys
import time

import numpy as np
from vigra import filters

SCALES = (0.3, 0.7, 1.0, 1.6, 3.5, 5.0, 10.0)


def channels(volume: np.ndarray) -> dict[str, np.ndarray]:
    out = {}
    for scale in SCALES:
        before, s = ((scale**2 - 1) ** 0.5, 1.0) if scale > 1 else (scale, scale)
        smooth = filters.gaussianSmoothing(volume, before, window_size=3.5)
        out[f"gauss {scale}"] = filters.gaussianSmoothing(smooth, s, window_size=2.0)
        if scale == 0.3:
            continue
        out[f"log {scale}"] = filters.laplacianOfGaussian(smooth, s, window_size=2.0)
        out[f"gradient {scale}"] = filters.gaussianGradientMagnitude(smooth, s, window_size=2.0)
        narrow = filters.gaussianSmoothing(smooth, 0.66 * s, window_size=2.0)
        out[f"dog {scale}"] = out[f"gauss {scale}"] - narrow
        out[f"structure {scale}"] = filters.structureTensorEigenvalues(smooth, 0.5 * s, s, window_size=2.0)
        out[f"hessian {scale}"] = filters.hessianOfGaussianEigenvalues(smooth, s, window_size=2.0)
    return out


if __name__ == "__main__":
    volume = np.load(sys.argv[1])
    start = time.perf_counter()
    found = channels(volume)
    print(time.perf_counter() - start)
    # vigra's arrays of a C-ordered volume come with their axes turned round.
    np.savez(sys.argv[2], **{name: np.asarray(found[name]) for name in ("gauss 1.0", "log 1.0")})
