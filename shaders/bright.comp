// SPDX-License-Identifier: MIT
// The bright part of the picture at a quarter of its size: the mean of 4 x 4 pixels.
#version 430
#include "tone.glsl"

layout(local_size_x = 8, local_size_y = 8) in;
#if WIDE
layout(rgba32f, binding = 0) uniform readonly image2D picture;
#else
layout(rgba16f, binding = 0) uniform readonly image2D picture;
#endif
layout(rgba16f, binding = 1) uniform writeonly image2D bright;

uniform float gain;     // exposure

void main() {
    ivec2 pixel = ivec2(gl_GlobalInvocationID.xy);
    if (any(greaterThanEqual(pixel, imageSize(bright)))) return;
    vec3 sum = vec3(0.0);
    for (int y = 0; y < 4; ++y) {
        for (int x = 0; x < 4; ++x) {
            ivec2 from = min(4 * pixel + ivec2(x, y), imageSize(picture) - 1);
            sum += bright_part(gain * imageLoad(picture, from).rgb);
        }
    }
    imageStore(bright, pixel, vec4(sum / 16.0, 1.0));
}
