// SPDX-License-Identifier: MIT
// Largest value of every channel in a cell and one texel around it: no trilinear sample inside exceeds it.
// In slabs: a cell's value grows with every slab that holds a part of it.
#version 430
layout(local_size_x = 4, local_size_y = 4, local_size_z = 4) in;
#if COMPONENTS == 1
layout(r8, binding = 0)
#elif COMPONENTS == 2
layout(rg8, binding = 0)
#else
layout(rgba8, binding = 0)
#endif
uniform image3D maxima;
uniform sampler3D matter;
uniform int texture_first;          // z of the texture's first slice in the volume

void main() {
    ivec3 count = imageSize(maxima);
    ivec3 cell = ivec3(gl_GlobalInvocationID);
    if (any(greaterThanEqual(cell, count))) return;
    ivec3 size = textureSize(matter, 0);
    ivec3 shift = ivec3(0, 0, texture_first);
    ivec3 low = max(cell * CELL - 1 - shift, ivec3(0));
    ivec3 high = min(cell * CELL + CELL - shift, size - 1);
    if (any(greaterThan(low, high))) return;
    vec4 largest = imageLoad(maxima, cell);
    for (int z = low.z; z <= high.z; ++z)
        for (int y = low.y; y <= high.y; ++y)
            for (int x = low.x; x <= high.x; ++x)
                largest = max(largest, texelFetch(matter, ivec3(x, y, z), 0));
    // Sixteen bits are rounded up to eight: it stays an upper bound.
    imageStore(maxima, cell, ceil(largest * 255.0 - 0.01) / 255.0);
}
