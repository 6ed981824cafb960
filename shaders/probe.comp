// SPDX-License-Identifier: MIT
// What a ray meets: distance to where half of it is covered, and the class that covers most there.
#version 430
#include "random.glsl"
#include "bricks.glsl"
#include "matter.glsl"
#include "ray.glsl"
#include "scalar.glsl"

layout(local_size_x = 8, local_size_y = 8) in;
layout(rg32f, binding = 1) uniform image2D found;       // r: distance along the view (0: nothing), g: 1 + class

uniform float half_way, iso_value;

void main() {
    ivec2 pixel = pixel_of();
    ivec2 size = imageSize(found);
    if (any(greaterThanEqual(pixel, size))) return;
    vec4 seen = seen_before(pixel);
    Ray ray;
    if (seen.a >= half_way || !ray_of(pixel, size, ray)) return;
    float covered = seen.a;
    int k = sample_after(ray, 0.5, ray.first);
    for (;;) {
        float t = ray.start + (float(k) + 0.5) * step_length;
        if (t >= ray.end) break;
        vec3 p = ray.origin + t * ray.dir;
        ivec3 cell = cell_of(p);
        int free = distance_at(cell);
        if (free > 0) {
            float free_to = t + way_out(p, ray.inverse_dir, ray.dir, cell, cell_edge, free);
            k = max(k + 1, sample_after(ray, 0.5, free_to));
            continue;
        }
        ++k;
        Matter m = matter_at(p);
#if ISO
        if (scalar_of(p) < iso_value) continue;
        covered = 1.0;
#else
        covered += (1.0 - covered) * (1.0 - pow(1.0 - min(opacity_of(m), 0.9999), step_length));
        if (covered < half_way) continue;
#endif
        float largest = 0.0, number = 1.0;
#if !SOURCE_RAW
        for (int i = 0; i < CLASSES; ++i) {
            float weight = i < 4 ? m.first[i] : m.second[i - 4];
            if (weight > largest) {
                largest = weight;
                number = float(i + 1);
            }
        }
#endif
        imageStore(found, pixel, vec4(t * dot(ray.dir, normalize(forward)), number, 0.0, 0.0));
        break;
    }
    keep(pixel, vec4(0.0, 0.0, 0.0, covered));
}
