// SPDX-License-Identifier: MIT
// Volumetric path tracing (paper 1, figure 9 d), one path a pixel and frame: free flights by null-collision tracking
// (Woodcock) under each brick's own upper bound, leaps over empty bricks, isotropic scattering with the matter's
// colour as albedo. Light: a uniform sky, and the spherical light, sampled at every scattering.
#version 430
#include "random.glsl"
#include "bricks.glsl"
#include "matter.glsl"
#include "ray.glsl"

layout(local_size_x = 8, local_size_y = 8) in;

uniform vec4 light_sphere;          // xyz: centre of the light; w: its radius
uniform float sky, key;             // light of either that a white surface in the open sends back

const uint MOST_SCATTERINGS = 256u; // Russian roulette ends paths long before
const float MOST_OPAQUE = 0.9999;

uvec3 state;

float random() {
    state = pcg3d(state);
    return unit_interval(state).x;
}

// From p along dir to the next scattering; false where the path leaves the volume.
bool fly(inout vec3 p, vec3 dir) {
    vec3 inverse_dir = 1.0 / dir;
    for (int i = 0; i < 65536; ++i) {
        if (!inside(p)) return false;
        ivec3 cell = cell_of(p);
        int distance_in_cells = distance_at(cell);
        float free = way_out(p, inverse_dir, dir, cell, cell_edge, max(distance_in_cells, 1));
        if (distance_in_cells == 0) {
            float bound = min(float(brick_data(brick_of(in_bricks(p))) & 0xffffu) / 65535.0, MOST_OPAQUE);
            float most = -log(1.0 - bound);
            float t = 0.0;
            for (;;) {
                t -= log(1.0 - random()) / most;
                if (t >= free) break;
                vec3 q = p + t * dir;
                if (!inside(q)) return false;
                float a = min(opacity_of(matter_at(q)), MOST_OPAQUE);
                if (random() * most < -log(1.0 - a)) {
                    p = q;
                    return true;
                }
            }
        }
        p += (free + 1e-3) * dir;
    }
    return false;
}

void main() {
    ivec2 pixel = pixel_of();
    ivec2 size = imageSize(picture);
    if (any(greaterThanEqual(pixel, size))) return;
    Ray ray;
    if (!ray_of(pixel, size, ray)) {
        keep(pixel, vec4(0.0));
        return;
    }
    state = uvec3(pixel, frame);
    vec3 p = ray.origin + (ray.first + 1e-3) * ray.dir;
    vec3 dir = ray.dir;
    vec3 light = vec3(0.0), carried = vec3(1.0);
    float covered = 0.0;
    for (uint n = 0u; n < MOST_SCATTERINGS && fly(p, dir); ++n) {
        covered = 1.0;
        carried *= color_of(matter_at(p));
        if (key > 0.0) {
            vec3 to_light = off_axis(normalize(light_sphere.xyz
                + light_sphere.w * direction(vec2(random(), random())) - p));
            vec3 q = p;
            if (!fly(q, to_light)) light += key * carried;
        }
        if (n > 3u) {
            float stays = min(max(carried.r, max(carried.g, carried.b)), 0.98);
            if (random() >= stays) {
                carried = vec3(0.0);
                break;
            }
            carried /= stays;
        }
        dir = off_axis(direction(vec2(random(), random())));
    }
    // What left the volume after a scattering has reached the sky.
    if (covered > 0.0) light += sky * carried;
    keep(pixel, vec4(light, covered));
}
