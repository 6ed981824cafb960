// SPDX-License-Identifier: MIT
// Mean of the frames + bloom, over the background, tone-mapped to 8 bits.
#version 430
#include "tone.glsl"
#include "random.glsl"

layout(local_size_x = 8, local_size_y = 8) in;
#if WIDE
layout(rgba32f, binding = 0) uniform readonly image2D picture;
#else
layout(rgba16f, binding = 0) uniform readonly image2D picture;
#endif
layout(rgba8, binding = 1) uniform writeonly image2D display;
uniform sampler2D bloom;

uniform float gain;             // exposure
uniform float strength_bloom;
uniform vec3 background_centre, background_edge;    // linear
uniform float opaque;           // 0: transparent background, straight alpha

void main() {
    ivec2 pixel = ivec2(gl_GlobalInvocationID.xy);
    ivec2 size = imageSize(display);
    if (any(greaterThanEqual(pixel, size))) return;
    vec2 uv = (vec2(pixel) + 0.5) / vec2(size);
    vec4 mean = imageLoad(picture, pixel);
    float alpha = clamp(mean.a, 0.0, 1.0);
    vec3 color = shoulder(gain * mean.rgb / max(mean.a, 1e-4));
#if BLOOM
    vec3 glow = min(strength_bloom * textureLod(bloom, uv, 0.0).rgb, 1.0);
#else
    vec3 glow = vec3(0.0);
#endif
    float from_centre = length(uv - vec2(0.5, 0.45));
    vec3 backdrop = mix(background_centre, background_edge, smoothstep(0.1, 0.8, from_centre));
    // The glow is screened, not added: it lights up a dark background and leaves a white one white.
    vec3 lit = (1.0 - opaque) * alpha * color + opaque * mix(backdrop, color, alpha);
    vec3 shown = 1.0 - (1.0 - lit) * (1.0 - glow);
    float coverage = max(opaque, 1.0 - (1.0 - alpha) * (1.0 - max(glow.r, max(glow.g, glow.b))));
    // A dither below one grey step keeps the backdrop's slow gradient from banding.
    float dither = opaque * (unit_interval(pcg3d(uvec3(pixel, 5u))).x - 0.5) / 255.0;
    vec4 shown_here = vec4(srgb(shown / max(coverage, 1e-4)) + dither, coverage);
    imageStore(display, pixel, clamp(shown_here, 0.0, 1.0));
}
