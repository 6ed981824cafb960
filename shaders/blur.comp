// SPDX-License-Identifier: MIT
// One direction of a Gaussian blur; nothing lies beyond the border.
#version 430
layout(local_size_x = 8, local_size_y = 8) in;
layout(rgba16f, binding = 0) uniform readonly image2D source;
layout(rgba16f, binding = 1) uniform writeonly image2D target;

uniform ivec2 along;
uniform float sigma;

void main() {
    ivec2 pixel = ivec2(gl_GlobalInvocationID.xy);
    ivec2 size = imageSize(target);
    if (any(greaterThanEqual(pixel, size))) return;
    int radius = int(ceil(3.0 * sigma));
    vec3 sum = vec3(0.0);
    float weights = 0.0;
    for (int k = -radius; k <= radius; ++k) {
        float weight = exp(-0.5 * float(k * k) / (sigma * sigma));
        ivec2 from = pixel + k * along;
        if (all(greaterThanEqual(from, ivec2(0))) && all(lessThan(from, size)))
            sum += weight * imageLoad(source, from).rgb;
        weights += weight;
    }
    imageStore(target, pixel, vec4(sum / weights, 1.0));
}
