// SPDX-License-Identifier: MIT
// Iso-surface (paper 1, figure 9 a and b): the first crossing, bisected, lit by its gradient (Blinn-Phong).
#version 430
#include "random.glsl"
#include "bricks.glsl"
#include "matter.glsl"
#include "ray.glsl"
#include "scalar.glsl"

layout(local_size_x = 8, local_size_y = 8) in;

uniform float iso_value;
uniform vec4 light_sphere;          // xyz: centre of the light

vec3 gradient(vec3 p) {
    const float h = 1.0;
    return vec3(scalar_at(p + vec3(h, 0, 0)) - scalar_at(p - vec3(h, 0, 0)),
                scalar_at(p + vec3(0, h, 0)) - scalar_at(p - vec3(0, h, 0)),
                scalar_at(p + vec3(0, 0, h)) - scalar_at(p - vec3(0, 0, h)));
}

void main() {
    ivec2 pixel = pixel_of();
    ivec2 size = imageSize(picture);
    if (any(greaterThanEqual(pixel, size))) return;
    vec4 seen = seen_before(pixel);
    Ray ray;
    if (seen.a >= 1.0 || !ray_of(pixel, size, ray)) {
        keep(pixel, seen);
        return;
    }
    float jitter = pixel_random(pixel).x;
    // The face of the box is a surface too, where the matter reaches it.
    float before = ray.first;
    bool found = ray.first == ray.start && scalar_at(ray.origin + (ray.first + 1e-3) * ray.dir) >= iso_value;
    float after = ray.first + 1e-3;
    int k = sample_after(ray, jitter, ray.first);
    while (!found) {
        float t = ray.start + (float(k) + jitter) * step_length;
        if (t >= ray.end) break;
        vec3 p = ray.origin + t * ray.dir;
#if SKIP
        ivec3 cell = cell_of(p);
        int free = distance_at(cell);
        if (free > 0) {
            float free_to = t + way_out(p, ray.inverse_dir, ray.dir, cell, cell_edge, free);
            k = max(k + 1, sample_after(ray, jitter, free_to));
            before = max(before, min(free_to, ray.start + (float(k - 1) + jitter) * step_length));
            continue;
        }
#endif
        ++k;
        found = scalar_of(p) >= iso_value;
        if (found) after = t;
        else before = t;
    }
    if (!found) {
        keep(pixel, seen);
        return;
    }
    for (int i = 0; i < 6; ++i) {
        float middle = 0.5 * (before + after);
        if (scalar_at(ray.origin + middle * ray.dir) >= iso_value) after = middle;
        else before = middle;
    }
    vec3 p = ray.origin + after * ray.dir;
    vec3 slope = gradient(p);
    float steepness = length(slope);
    vec3 normal = steepness > 1e-6 ? -slope / steepness : -ray.dir;
    vec3 to_light = normalize(light_sphere.xyz - p);
    float headlight = max(dot(normal, -ray.dir), 0.0);
    float key = max(dot(normal, to_light), 0.0);
    float shine = pow(max(dot(normal, normalize(to_light - ray.dir)), 0.0), 30.0);
    vec3 color = scalar_color(p + 0.5 * ray.dir) * (0.18 + 0.32 * headlight + 0.5 * key) + 0.08 * shine;
    keep(pixel, vec4(color, 1.0));
}
