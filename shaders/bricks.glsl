// SPDX-License-Identifier: MIT
// The map of bricks, and leaps over empty space by it.
// A brick that may hold something visible carries the flag OCCUPIED and, below it, the place of its light in the
// atlas or an upper bound of its opacity; any other carries the Chebyshev distance, in bricks, to the nearest one.

uniform usampler3D brick_map;
uniform vec3 volume_low;            // low corner of the volume
uniform vec3 brick_edge;            // of a brick, in the units of a position
uniform ivec3 brick_count;

const uint OCCUPIED = 0x80000000u;

// No component is 0: 0 x infinity has no order in a minimum.
vec3 off_axis(vec3 dir) {
    return dir + vec3(lessThan(abs(dir), vec3(1e-7))) * 1e-7;
}

// Position in bricks from the low corner.
vec3 in_bricks(vec3 p) {
    return (p - volume_low) / brick_edge;
}

ivec3 brick_of(vec3 place) {
    return clamp(ivec3(floor(place)), ivec3(0), brick_count - 1);
}

uint cell_of(ivec3 brick) {
    return texelFetch(brick_map, brick, 0).r;
}

// How far along dir, from p, the box of `reach` bricks around `brick` extends (1: the brick itself).
float way_out(vec3 p, vec3 inverse_dir, vec3 dir, ivec3 brick, int reach) {
    vec3 low = volume_low + vec3(brick - reach + 1) * brick_edge;
    vec3 high = volume_low + vec3(brick + reach) * brick_edge;
    vec3 leave = (mix(low, high, greaterThan(dir, vec3(0.0))) - p) * inverse_dir;
    return max(min(leave.x, min(leave.y, leave.z)), 0.0);
}
