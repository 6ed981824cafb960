// SPDX-License-Identifier: MIT
// Two maps over the volume. Cells of 4 texels carry the Chebyshev distance, in cells, to the nearest one that may hold
// something visible (0: this one): by it rays leap. Bricks of 8 texels, where something may be visible, carry the flag
// OCCUPIED and, below it, the place of their light in the atlas or an upper bound of their opacity.

uniform usampler3D distance_map, brick_map;
uniform vec3 volume_low;            // low corner of the volume
uniform vec3 cell_edge, brick_edge; // in the units of a position
uniform ivec3 cell_count, brick_count;

const uint OCCUPIED = 0x80000000u;

// No component is 0: 0 x infinity has no order in a minimum.
vec3 off_axis(vec3 dir) {
    return dir + vec3(lessThan(abs(dir), vec3(1e-7))) * 1e-7;
}

ivec3 cell_of(vec3 p) {
    return clamp(ivec3((p - volume_low) / cell_edge), ivec3(0), cell_count - 1);
}

int distance_at(ivec3 cell) {
    return int(texelFetch(distance_map, cell, 0).r);
}

// Position in bricks from the low corner.
vec3 in_bricks(vec3 p) {
    return (p - volume_low) / brick_edge;
}

ivec3 brick_of(vec3 place) {
    return clamp(ivec3(place), ivec3(0), brick_count - 1);
}

uint brick_data(ivec3 brick) {
    return texelFetch(brick_map, brick, 0).r;
}

// How far along dir, from p, the box of `reach` boxes of this edge around number `box` extends (1: that one itself).
float way_out(vec3 p, vec3 inverse_dir, vec3 dir, ivec3 box, vec3 edge, int reach) {
    vec3 low = volume_low + vec3(box - reach + 1) * edge;
    vec3 high = volume_low + vec3(box + reach) * edge;
    vec3 leave = (mix(low, high, greaterThan(dir, vec3(0.0))) - p) * inverse_dir;
    return max(min(leave.x, min(leave.y, leave.z)), 0.0);
}
