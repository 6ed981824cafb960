// SPDX-License-Identifier: MIT
// Unbiased randomness: the PCG3D hash (Jarzynski and Olano, JCGT 2020) gives every pixel and ray sample its own
// offset, and an additive recurrence over frames fills the cube evenly from there, so that the running mean
// converges nearly as 1/n instead of 1/sqrt(n). All in 32-bit integers: floats lose the fraction after some frames.

uvec3 pcg3d(uvec3 v) {
    v = v * 1664525u + 1013904223u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v ^= v >> 16u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    return v;
}

vec3 unit_interval(uvec3 v) {
    return vec3(v >> 8u) * (1.0 / 16777216.0);
}

// Point `index` of the sequence that starts at `offset`; the steps are 2^32 / g^(1,2,3), g^4 = g + 1.
vec3 sequence(uvec3 offset, uint index) {
    return unit_interval(offset + index * uvec3(3518319155u, 2882110345u, 2360945575u));
}

// The numbers that a ray needs once a frame come from one sequence in seven dimensions (g^8 = g + 1), of which the
// position in the pixel takes the first two: two numbers with the same step would stay in step for ever.
vec2 ray_sequence(uvec2 offset, uint frame) {
    return unit_interval(uvec3(offset + frame * uvec2(3253582939u, 2965941329u), 0u)).xy;
}

vec3 light_sequence(uvec3 offset, uint frame) {
    return unit_interval(offset + frame * uvec3(2703729436u, 2464699080u, 2246800835u));
}

vec3 direction(vec2 u) {
    float z = 1.0 - 2.0 * u.x;
    float phi = 6.28318531 * u.y;
    return vec3(sqrt(max(1.0 - z * z, 0.0)) * vec2(cos(phi), sin(phi)), z);
}

vec3 point_in_ball(vec3 u) {
    return direction(u.xy) * pow(u.z, 1.0 / 3.0);
}
