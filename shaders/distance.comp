// SPDX-License-Identifier: MIT
// Chebyshev distance, in cells, to the nearest cell that may hold something visible, an axis a pass: the smallest,
// along the axis, of the larger of the way and the distance found so far.
#version 430
layout(local_size_x = 4, local_size_y = 4, local_size_z = 4) in;
layout(r8ui, binding = 0) uniform readonly uimage3D source;
layout(r8ui, binding = 1) uniform writeonly uimage3D target;

const ivec3 ALONG = ivec3(AXIS == 0, AXIS == 1, AXIS == 2);

void main() {
    ivec3 cell = ivec3(gl_GlobalInvocationID);
    ivec3 count = imageSize(source);
    if (any(greaterThanEqual(cell, count))) return;
    int here = cell[AXIS], length_of_axis = count[AXIS];
    int best = int(imageLoad(source, cell).r);
    // Farther than the best so far nothing can be nearer.
    for (int way = 1; way < best; ++way) {
        if (here - way >= 0) best = min(best, max(way, int(imageLoad(source, cell - way * ALONG).r)));
        if (here + way < length_of_axis) best = min(best, max(way, int(imageLoad(source, cell + way * ALONG).r)));
    }
    imageStore(target, cell, uvec4(best));
}
