// SPDX-License-Identifier: MIT
// Leaping over empty space: Chebyshev distance, in bricks, to the nearest brick that holds something visible.

uniform usampler3D brick_distance;
uniform vec3 brick_edge;            // of a brick, in the units of a position
uniform ivec3 brick_count;

// No component is 0: 0 x infinity has no order in a minimum.
vec3 off_axis(vec3 dir) {
    return dir + vec3(lessThan(abs(dir), vec3(1e-7))) * 1e-7;
}

// Along origin + t * dir, a t up to which nothing is visible; t itself where something may be.
float leap(vec3 origin, vec3 inverse_dir, vec3 dir, float t) {
    vec3 p = origin + t * dir + half_extent;
    ivec3 brick = clamp(ivec3(floor(p / brick_edge)), ivec3(0), brick_count - 1);
    int free = int(texelFetch(brick_distance, brick, 0).r);
    if (free == 0) return t;
    // All bricks nearer than `free` are empty: leave their box.
    vec3 low = vec3(brick - free + 1) * brick_edge;
    vec3 high = vec3(brick + free) * brick_edge;
    vec3 leave = (mix(low, high, greaterThan(dir, vec3(0.0))) - p) * inverse_dir;
    return t + max(min(leave.x, min(leave.y, leave.z)), 0.0);
}
