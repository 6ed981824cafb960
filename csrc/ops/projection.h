// SPDX-License-Identifier: MIT
// Projection of a volume (z, y, x) to views (view, y, u) and back, in a parallel beam along z about the tilt axis y:
// the geometry of voxel/projection.h. A detector's pixel is as long as a voxel's edge.
//
//   project:       view(y, u) = step * sum over planes of the volume where the ray of u passes
//   back_project:  box(z, y, x) = sum over views of the view where the voxel falls
//
// with linear interpolation; rays are followed as Joseph does (1982).
//
// Beyond a volume and beyond a detector everything is zero: values fall off linearly over the last interval. Every sum
// is taken in one order, along the ray towards larger z, or view by view, wherever an output lies and whoever computes
// it: a box equals the part of the whole bit for bit, and threads change nothing. The two are no exact adjoints of each
// other: rays are spaced evenly on the detector, Joseph's in the volume.
//
// Cost: two loads and two multiply-adds an output and term (a plane, or a view), in vectors along y; n voxels and v
// views make n v terms back and at most as many forth. Samples come out of the caches; each call turns its input first,
// so that y is innermost, which takes as long as six terms a value: back-project boxes of 32 planes of z and more.
// Memory of a thread: 256 bytes a view and pixel of the detector.
#pragma once

#include "core/view3.h"

namespace cryoet {

// volume: (z, y, x); out: (n_angles, y, width), C order. |angle| <= 90.
void project(const View3<const float>& volume, const double* angles_deg, long n_angles, long width, int threads,
             float* out);

// views: (view, y, u), as many as angles; shape: of the whole volume, with the y of the views; out: C order, box.shape.
void back_project(const View3<const float>& views, const double* angles_deg, const long shape[3], const Box& box,
                  int threads, float* out);

}  // namespace cryoet
