// SPDX-License-Identifier: MIT
// Gradient-free light (paper 1, section 5.2): occlusion from a sphere shifted upwards, shadow from a cone towards
// one spherical light. Both are Monte Carlo estimates, a few samples a frame, averaged over frames.

uniform uint frame;
uniform vec4 occlusion_sphere;      // xyz: shift of its centre; w: radius
uniform vec4 light_sphere;          // xyz: centre of the light; w: its radius
uniform float shadow_range;
uniform float strength_occlusion, strength_shadow;

// Near a surface the ramp is soft: a shadow ray that started in it would shade every surface by itself.
const float SHADOW_START = 2.0;

// Share of light from above that the matter around p lets through: 1 in the open; above an opaque half-space 1/2
// with the sphere's shift at zero.
float ambient(vec3 p, uvec3 offset) {
#if OCCLUSION_SAMPLES > 0
    float blocked = 0.0;
    for (uint k = 0u; k < OCCLUSION_SAMPLES; ++k) {
        vec3 ball = point_in_ball(sequence(offset, frame * OCCLUSION_SAMPLES + k));
        blocked += opacity(p + occlusion_sphere.xyz + occlusion_sphere.w * ball);
    }
    return 1.0 - strength_occlusion * blocked / float(OCCLUSION_SAMPLES);
#else
    return 1.0;
#endif
}

// Share of the light that arrives at p: the transmittance along one random line of the cone, in steps that grow
// with the distance, and with it falls what the matter there contributes.
float shadow(vec3 p, uvec3 offset) {
#if SHADOW_SAMPLES > 0
    vec3 u = light_sequence(offset, frame);
    vec3 dir = off_axis(normalize(light_sphere.xyz + light_sphere.w * direction(u.xy) - p));
    vec3 inverse_dir = 1.0 / dir;
    const float n = float(SHADOW_SAMPLES);
    float clear = 1.0;
    float reach = 0.0;
    for (uint k = 0u; k < SHADOW_SAMPLES; ++k) {
        float s = (float(k) + u.z) / n;
        float t = SHADOW_START + shadow_range * s * s;
        if (t < reach) continue;
        reach = leap(p, inverse_dir, dir, t);
        if (reach > t) continue;
        vec3 q = p + t * dir;
        if (!inside(q)) continue;
        float length_of_step = shadow_range * (2.0 * s) / n;
        float weight = 1.0 - s * s;
        clear *= pow(1.0 - min(weight * opacity(q), 0.999), length_of_step);
        if (clear < 0.01) break;
    }
    return 1.0 - strength_shadow * (1.0 - clear);
#else
    return 1.0;
#endif
}
