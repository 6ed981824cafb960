// SPDX-License-Identifier: MIT
// Maximum intensity projection (paper 1, figure 9 e).
#version 430
#include "random.glsl"
#include "bricks.glsl"
#include "matter.glsl"
#include "ray.glsl"
#include "scalar.glsl"

layout(local_size_x = 8, local_size_y = 8) in;

void main() {
    ivec2 pixel = pixel_of();
    ivec2 size = imageSize(picture);
    if (any(greaterThanEqual(pixel, size))) return;
    vec4 seen = seen_before(pixel);
    Ray ray;
    if (!ray_of(pixel, size, ray)) {
        keep(pixel, seen);
        return;
    }
    float jitter = pixel_random(pixel).x;
    float largest = seen.a;
    float largest_at = -1.0;
    int k = sample_after(ray, jitter, ray.first);
    for (;;) {
        float t = ray.start + (float(k) + jitter) * step_length;
        if (t >= ray.end) break;
        vec3 p = ray.origin + t * ray.dir;
#if SKIP
        ivec3 cell = cell_of(p);
        int free = distance_at(cell);
        ivec3 brick = brick_of(in_bricks(p));
        // A brick whose bound is below what was found has nothing to add.
        bool low = float(brick_data(brick) & 0xffffu) < 65535.0 * largest;
        if (free > 0 || low) {
            float way = low ? way_out(p, ray.inverse_dir, ray.dir, brick, brick_edge, 1) : 0.0;
            if (free > 0) way = max(way, way_out(p, ray.inverse_dir, ray.dir, cell, cell_edge, free));
            k = max(k + 1, sample_after(ray, jitter, t + way));
            continue;
        }
#endif
        ++k;
        float value = scalar_of(p);
        if (value > largest) {
            largest = value;
            largest_at = t;
        }
    }
    if (largest_at >= 0.0) {
#if SOURCE_RAW
        vec3 color = vec3(1.0);
#else
        vec3 color = color_of(matter_at(ray.origin + largest_at * ray.dir));
#endif
        seen = vec4(largest * color, largest);
    }
    keep(pixel, seen);
}
