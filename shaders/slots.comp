// SPDX-License-Identifier: MIT
// From a brick's number to its place in the atlas of light, 10 bits an axis, once it is known how many there are.
#version 430
layout(local_size_x = 4, local_size_y = 4, local_size_z = 4) in;
layout(r32ui, binding = 0) uniform uimage3D map;

uniform ivec3 atlas_slots;          // bricks along the axes of the atlas

void main() {
    ivec3 brick = ivec3(gl_GlobalInvocationID);
    if (any(greaterThanEqual(brick, imageSize(map)))) return;
    uint data = imageLoad(map, brick).r;
    if ((data & 0x80000000u) == 0u) return;
    uint number = data & 0x3fffffffu;
    uvec3 slots = uvec3(atlas_slots);
    uvec3 slot = uvec3(number % slots.x, (number / slots.x) % slots.y, number / (slots.x * slots.y));
    imageStore(map, brick, uvec4((data & 0xc0000000u) | slot.x | (slot.y << 10u) | (slot.z << 20u)));
}
