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
    ivec2 pixel = ivec2(gl_GlobalInvocationID.xy) + ivec2(0, first_row);
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
    ivec3 brick = ivec3(-1);
    uint cell = 0u;
    int k = sample_after(ray, jitter, ray.first);
    for (;;) {
        float t = ray.start + (float(k) + jitter) * step_length;
        if (t >= ray.end) break;
        vec3 p = ray.origin + t * ray.dir;
        ivec3 here = brick_of(in_bricks(p));
        if (here != brick) {
            brick = here;
            cell = cell_of(brick);
        }
#if SKIP
        bool empty = (cell & OCCUPIED) == 0u;
        // A brick whose bound is below what was found has nothing to add.
        if (empty || float(cell & 0xffffu) < 65535.0 * largest) {
            float free_to = t + way_out(p, ray.inverse_dir, ray.dir, brick, empty ? int(cell) : 1);
            k = max(k + 1, sample_after(ray, jitter, free_to));
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
