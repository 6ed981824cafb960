// SPDX-License-Identifier: MIT
// Chebyshev distance, in bricks, to the nearest occupied one, an axis a pass: the smallest, along the axis, of the
// larger of the way and the distance found so far. The last pass completes the map.
#version 430
layout(local_size_x = 4, local_size_y = 4, local_size_z = 4) in;
layout(r32ui, binding = 0) uniform uimage3D map;
layout(r8ui, binding = 1) uniform readonly uimage3D source;
layout(r8ui, binding = 2) uniform writeonly uimage3D target;

uniform ivec3 atlas_slots;          // bricks along the axes of the atlas of light

const ivec3 ALONG = ivec3(AXIS == 0, AXIS == 1, AXIS == 2);
const int FAR_AWAY = 255;
const uint OCCUPIED = 0x80000000u;

int before(ivec3 brick) {
#if AXIS == 0
    return (imageLoad(map, brick).r & OCCUPIED) != 0u ? 0 : FAR_AWAY;
#else
    return int(imageLoad(source, brick).r);
#endif
}

void main() {
    ivec3 brick = ivec3(gl_GlobalInvocationID);
    ivec3 count = imageSize(map);
    if (any(greaterThanEqual(brick, count))) return;
    int here = AXIS == 0 ? brick.x : AXIS == 1 ? brick.y : brick.z;
    int length_of_axis = AXIS == 0 ? count.x : AXIS == 1 ? count.y : count.z;
    int best = before(brick);
    // Farther than the best so far nothing can be nearer.
    for (int way = 1; way < best; ++way) {
        if (here - way >= 0) best = min(best, max(way, before(brick - way * ALONG)));
        if (here + way < length_of_axis) best = min(best, max(way, before(brick + way * ALONG)));
    }
#if AXIS == 2
    uint cell = imageLoad(map, brick).r;
    if ((cell & OCCUPIED) == 0u) {
        cell = uint(best);
#if LISTED
    } else {
        uint number = cell & 0x3fffffffu;
        uvec3 slots = uvec3(atlas_slots);
        uvec3 slot = uvec3(number % slots.x, (number / slots.x) % slots.y, number / (slots.x * slots.y));
        cell = (cell & 0xc0000000u) | slot.x | (slot.y << 10u) | (slot.z << 20u);
#endif
    }
    imageStore(map, brick, uvec4(cell));
#else
    imageStore(target, brick, uvec4(best));
#endif
}
