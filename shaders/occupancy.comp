// SPDX-License-Identifier: MIT
// What may hold something visible: an upper bound of the opacity in every cell, from the largest values of its
// channels. Cells start with distance 0 or 255; bricks with any such cell get a number (LISTED) or carry the bound.
#version 430
#include "bricks.glsl"
#include "matter.glsl"

layout(local_size_x = 4, local_size_y = 4, local_size_z = 4) in;
layout(r32ui, binding = 0) uniform writeonly uimage3D map;
layout(r8ui, binding = 1) uniform writeonly uimage3D distances;
layout(std430, binding = 0) writeonly buffer Bricks {
    uint brick_list[];
};
layout(std430, binding = 1) buffer Counter {
    uint occupied_bricks;
};
uniform uint capacity;              // of the list; more are counted, so that it can grow

uniform sampler3D maxima_a;
#if TEXTURES > 1
uniform sampler3D maxima_b;
#endif
uniform ivec2 lit_layers;           // bricks outside these layers have no light of their own (slabs)
uniform float threshold;            // opacity or, for surfaces and from the raw volume, value that counts

const uint SOLID = 0x40000000u;     // worth a look when the camera is fitted

// Whether all of the box lies where the plane cuts.
bool beyond(vec4 plane, vec3 low, vec3 high) {
    vec3 nearest = mix(low, high, lessThan(plane.xyz, vec3(0.0)));
    return dot(plane.xyz, nearest) > plane.w;
}

float bound(ivec3 cell, vec3 low, vec3 high) {
    if (any(greaterThanEqual(low, keep_high)) || any(lessThanEqual(high, keep_low))) return 0.0;
    vec4 a = texelFetch(maxima_a, cell, 0);
    vec4 b = vec4(0.0);
#if TEXTURES > 1
    b = texelFetch(maxima_b, cell, 0);
#endif
#if SOURCE_RAW
#if CUTS > 0
    for (int i = 0; i < CUTS; ++i) if (cut_classes[2 * i].x > 0.5 && beyond(cut[i], low, high)) return 0.0;
#endif
    float raw = MATTER_RAW(a, b);
#if SCALAR
    return raw;
#else
    // Row 1 holds the largest opacity up to a value; the next point above is an upper bound between two.
    return texelFetch(raw_colors, ivec2(min(int(ceil(255.0 * raw)) + 1, 255), 1), 0).a;
#endif
#else
#if RAW == 1
    vec4 first = vec4(a.gba, 0.0), second = vec4(0.0);
#elif RAW == 2
    vec4 first = a, second = vec4(b.gba, 0.0);
#else
    vec4 first = a, second = b;
#endif
    first = clamp((first - ramp_left[0]) * ramp_gain[0], 0.0, 1.0) * ramp_opacity[0];
    second = clamp((second - ramp_left[1]) * ramp_gain[1], 0.0, 1.0) * ramp_opacity[1];
#if MULTIPLY_RAW
    float raw = ramp_raw(MATTER_RAW(a, b));
    first *= raw;
    second *= raw;
#endif
#if CUTS > 0
    for (int i = 0; i < CUTS; ++i) {
        if (beyond(cut[i], low, high)) {
            first *= 1.0 - cut_classes[2 * i];
            second *= 1.0 - cut_classes[2 * i + 1];
        }
    }
#endif
#if BOX
    if (any(greaterThanEqual(low, box_high)) || any(lessThanEqual(high, box_low))) {
        first *= 1.0 - box_classes[0];
        second *= 1.0 - box_classes[1];
    }
#endif
    return opacity_of(Matter(first, second));
#endif
}

void main() {
    ivec3 brick = ivec3(gl_GlobalInvocationID);
    if (any(greaterThanEqual(brick, brick_count))) return;
    float largest = 0.0;
    for (int i = 0; i < 8; ++i) {
        ivec3 cell = 2 * brick + ivec3(i & 1, (i >> 1) & 1, i >> 2);
        if (any(greaterThanEqual(cell, cell_count))) continue;
        vec3 low = volume_low + vec3(cell) * cell_edge;
        float in_cell = bound(cell, low, low + cell_edge);
        imageStore(distances, cell, uvec4(in_cell > threshold ? 0 : 255));
        largest = max(largest, in_cell);
    }
    uint data = 0u;
    if (largest > threshold) {
        data = OCCUPIED | (largest > 0.25 ? SOLID : 0u);
#if LISTED
        if (brick.z >= lit_layers.x && brick.z < lit_layers.y) {
            uint number = atomicAdd(occupied_bricks, 1u);
            if (number < capacity)
                brick_list[number] = uint(brick.x + brick_count.x * (brick.y + brick_count.y * brick.z));
        }
#else
        data |= uint(ceil(largest * 65535.0));
#endif
    }
    imageStore(map, brick, uvec4(data));
}
