// SPDX-License-Identifier: MIT
// The light of occupied bricks, kept in an atlas: per brick POINTS + 1 points an axis, the first on its low face, the
// last on its high face, so that interpolation inside a brick needs no other. What lies on high faces belongs to the
// neighbours: they compute it first (FAR 0), then it is copied (FAR 1), or computed where there is no such neighbour.
#version 430
#include "random.glsl"
#include "bricks.glsl"
#include "matter.glsl"
#include "light.glsl"

layout(local_size_x = 64) in;
layout(rg8, binding = 1) uniform image3D atlas;             // r: ambient, g: shadow
layout(std430, binding = 0) readonly buffer Bricks {
    uint brick_list[];                                      // linear indices of the occupied bricks
};

uniform int first_brick, stop_brick;
uniform int lit_stop;               // bricks from this layer on have no light of their own (they belong to another slab)

const int EDGE = POINTS + FAR;

ivec3 place_in_atlas(uint data) {
    return (POINTS + 1) * ivec3(data & 1023u, (data >> 10u) & 1023u, (data >> 20u) & 1023u);
}

// Whether anything that may be visible lies where this point has a share in the interpolated light.
bool wanted(vec3 p) {
    vec3 reach = 0.999 * brick_edge / float(POINTS);
    for (int i = 0; i < 8; ++i) {
        vec3 corner = vec3(i & 1, (i >> 1) & 1, i >> 2) * 2.0 - 1.0;
        if (distance_at(cell_of(p + corner * reach)) == 0) return true;
    }
    return false;
}

void main() {
    int index = int(gl_GlobalInvocationID.x);
    int number = first_brick + index / (EDGE * EDGE * EDGE);
    if (number >= stop_brick) return;
    int v = index % (EDGE * EDGE * EDGE);
    ivec3 point = ivec3(v % EDGE, (v / EDGE) % EDGE, v / (EDGE * EDGE));
    int linear = int(brick_list[number]);
    ivec3 brick = ivec3(linear % brick_count.x, (linear / brick_count.x) % brick_count.y,
                        linear / (brick_count.x * brick_count.y));
    ivec3 texel = place_in_atlas(brick_data(brick)) + point;
#if FAR
    ivec3 far = ivec3(equal(point, ivec3(POINTS)));
    if (far == ivec3(0)) return;
    ivec3 owner = brick + far;
    if (all(lessThan(owner, brick_count))) {
        uint data = brick_data(owner);
        if ((data & OCCUPIED) != 0u && owner.z < lit_stop) {
            imageStore(atlas, texel, imageLoad(atlas, place_in_atlas(data) + point * (1 - far)));
            return;
        }
    }
#endif
    vec3 p = volume_low + (vec3(brick) + vec3(point) / float(POINTS)) * brick_edge;
    if (!wanted(p)) {
        imageStore(atlas, texel, vec4(1.0));
        return;
    }
    uvec3 offset = pcg3d(uvec3(brick * POINTS + point));
    imageStore(atlas, texel, vec4(ambient(p, offset, 0u), shadow(p, pcg3d(offset), 0u), 0.0, 0.0));
}
