// SPDX-License-Identifier: MIT
// Each brick of the list gets its place in the atlas of light, 10 bits an axis, in the order of the list.
#version 430
layout(local_size_x = 64) in;
layout(r32ui, binding = 0) uniform uimage3D map;
layout(std430, binding = 0) readonly buffer Bricks {
    uint brick_list[];
};

uniform uint listed;
uniform ivec3 atlas_slots;          // bricks along the axes of the atlas

void main() {
    uint number = gl_GlobalInvocationID.x;
    if (number >= listed) return;
    int linear = int(brick_list[number]);
    ivec3 count = imageSize(map);
    ivec3 brick = ivec3(linear % count.x, (linear / count.x) % count.y, linear / (count.x * count.y));
    uvec3 slots = uvec3(atlas_slots);
    uvec3 slot = uvec3(number % slots.x, (number / slots.x) % slots.y, number / (slots.x * slots.y));
    uint flags = imageLoad(map, brick).r & 0xc0000000u;
    imageStore(map, brick, uvec4(flags | slot.x | (slot.y << 10u) | (slot.z << 20u)));
}
