// SPDX-License-Identifier: MIT
// Largest value of every channel in a brick and one texel around it: no trilinear sample inside exceeds it.
// In slabs: a brick's value grows with every slab that holds a part of it.
#version 430
layout(local_size_x = 64) in;
layout(rgba8, binding = 0) uniform image3D maxima;
uniform sampler3D matter;
uniform int texture_first;          // z of the texture's first slice in the volume

void main() {
    ivec3 count = imageSize(maxima);
    int index = int(gl_GlobalInvocationID.x);
    if (index >= count.x * count.y * count.z) return;
    ivec3 brick = ivec3(index % count.x, (index / count.x) % count.y, index / (count.x * count.y));
    ivec3 size = textureSize(matter, 0);
    ivec3 shift = ivec3(0, 0, texture_first);
    ivec3 low = max(brick * BRICK - 1 - shift, ivec3(0));
    ivec3 high = min(brick * BRICK + BRICK - shift, size - 1);
    if (any(greaterThan(low, high))) return;
    vec4 largest = imageLoad(maxima, brick);
    for (int z = low.z; z <= high.z; ++z)
        for (int y = low.y; y <= high.y; ++y)
            for (int x = low.x; x <= high.x; ++x)
                largest = max(largest, texelFetch(matter, ivec3(x, y, z), 0));
    // Sixteen bits are rounded up to eight: it stays an upper bound.
    imageStore(maxima, brick, ceil(largest * 255.0 - 0.01) / 255.0);
}
