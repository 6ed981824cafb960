// SPDX-License-Identifier: MIT
// Gradient-free light (paper 1, section 5.2): occlusion from a sphere shifted upwards, shadow from a cone towards
// one spherical light. Both are Monte Carlo estimates.

uniform vec4 occlusion_sphere;      // xyz: shift of its centre; w: radius
uniform vec4 light_sphere;          // xyz: centre of the light; w: its radius
uniform float shadow_range;

// Near a surface the ramp is soft: a shadow ray that started in it would shade every surface by itself.
const float SHADOW_START = 2.0;

// Share of light from above that the matter around p lets through: 1 in the open; above an opaque half-space 1/2
// with the sphere's shift at zero.
float ambient(vec3 p, uvec3 offset, uint first) {
#if OCCLUSION_SAMPLES > 0
    float blocked = 0.0;
    for (uint k = 0u; k < OCCLUSION_SAMPLES; ++k) {
        vec3 ball = point_in_ball(sequence(offset, first + k));
        vec3 q = p + occlusion_sphere.xyz + occlusion_sphere.w * ball;
        if (!inside(q)) continue;
#if SKIP
        if (distance_at(cell_of(q)) > 0) continue;
#endif
        blocked += opacity_of(matter_at(q));
    }
    return 1.0 - blocked / float(OCCLUSION_SAMPLES);
#else
    return 1.0;
#endif
}

// Transmittance from p along one random line of the cone, u in 0..1: steps grow with the distance, and with it falls
// what the matter there contributes.
#if SHADOW_STEPS > 0
float shadow_line(vec3 p, vec3 u) {
    vec3 dir = off_axis(normalize(light_sphere.xyz + light_sphere.w * direction(u.xy) - p));
    vec3 inverse_dir = 1.0 / dir;
    const float n = float(SHADOW_STEPS);
    float clear = 1.0;
    float reach = 0.0;
    bool from_inside = inside(p);
    for (uint k = 0u; k < SHADOW_STEPS; ++k) {
        float s = (float(k) + u.z) / n;
        float t = SHADOW_START + shadow_range * s * s;
        if (t < reach) continue;
        vec3 q = p + t * dir;
        if (!inside(q)) {
            if (from_inside) break;     // a box is convex
            continue;
        }
#if SKIP
        ivec3 cell = cell_of(q);
        int free = distance_at(cell);
        if (free > 0) {
            reach = t + way_out(q, inverse_dir, dir, cell, cell_edge, free);
            continue;
        }
#endif
        float length_of_step = shadow_range * (2.0 * s) / n;
        float weight = 1.0 - s * s;
        clear *= pow(1.0 - min(weight * opacity_of(matter_at(q)), 0.999), length_of_step);
        if (clear < 0.01) break;
    }
    return clear;
}
#endif

// Share of the light that arrives at p: the mean over lines `first` on.
float shadow(vec3 p, uvec3 offset, uint first) {
#if SHADOW_STEPS > 0
    float sum = 0.0;
    for (uint k = 0u; k < SHADOW_RAYS; ++k) sum += shadow_line(p, light_sequence(offset, first + k));
    return sum / float(SHADOW_RAYS);
#else
    return 1.0;
#endif
}
