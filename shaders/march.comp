// SPDX-License-Identifier: MIT
// One frame: a ray a pixel, front to back (paper 1, section 5.2, compositing as corrected).
// LIGHT 0: none; 1: from the atlas; 2: evaluated at every sample, which is the truth that the atlas is held against.
#version 430
#include "random.glsl"
#include "bricks.glsl"
#include "matter.glsl"
#include "ray.glsl"
#if LIGHT == 2
#include "light.glsl"
#endif

layout(local_size_x = 8, local_size_y = 8) in;

uniform float strength_occlusion, strength_shadow;
#if LIGHT == 1
uniform sampler3D light_atlas;
uniform vec3 atlas_scale;               // 1 / its size
#endif
#if SLICES
uniform vec3 slice_at;                  // positions of slices that stand in the picture; far outside: none
#endif

// For benchmarks: how often a ray leaps, samples and looks up light, in place of the colour.
#if COUNTING
#define COUNT_ONE(what) what += 1.0;
#else
#define COUNT_ONE(what)
#endif

const float OPAQUE = 0.985;             // rays end here, and count as opaque

float light_at(vec3 p, uvec3 seed) {
#if LIGHT == 1
    vec3 place = in_bricks(p);
    ivec3 brick = brick_of(place);
    uint data = brick_data(brick);
    vec3 slot = vec3(data & 1023u, (data >> 10u) & 1023u, (data >> 20u) & 1023u);
    vec3 uvw = (slot * float(POINTS + 1) + 0.5 + (place - vec3(brick)) * float(POINTS)) * atlas_scale;
    vec2 light = textureLod(light_atlas, uvw, 0.0).rg;
#elif LIGHT == 2
    vec2 light = vec2(ambient(p, seed, 0u), shadow(p, pcg3d(seed), 0u));
#else
    vec2 light = vec2(1.0);
#endif
    return (1.0 - strength_occlusion * (1.0 - light.x)) * (1.0 - strength_shadow * (1.0 - light.y));
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
#if SLICES
    vec3 to_slices = (slice_at - ray.origin) * ray.inverse_dir;
    // A slice that lies on a cut is seen on the cut face, however it is rounded.
    to_slices = mix(vec3(1e30), to_slices, greaterThan(to_slices, vec3(ray.first - 0.02)));
    float to_slice = min(to_slices.x, min(to_slices.y, to_slices.z));
    bool meets_slice = to_slice < ray.end;
    ray.end = min(ray.end, to_slice);
#endif

#if COUNTING
    float leaps = 0.0, samples = 0.0, lit = 0.0;
#endif
    float jitter = pixel_random(pixel).x;
    float covered = seen.a;
    vec3 sum = seen.rgb;
    int k = sample_after(ray, jitter, ray.first);
    float t = ray.start + (float(k) + jitter) * step_length;
    while (t < ray.end && covered <= OPAQUE) {
        // Leap to the next cell that holds something, then walk through it: two loops, so that rays of a group leap
        // together and sample together. All stay on their own lattice of samples: leaps change nothing in the picture.
        vec3 p = ray.origin + t * ray.dir;
        ivec3 cell = cell_of(p);
#if SKIP
        int free = distance_at(cell);
        while (free > 0) {
            COUNT_ONE(leaps)
            float free_to = t + way_out(p, ray.inverse_dir, ray.dir, cell, cell_edge, free);
            k = max(k + 1, sample_after(ray, jitter, free_to));
            t = ray.start + (float(k) + jitter) * step_length;
            if (t >= ray.end) break;
            p = ray.origin + t * ray.dir;
            cell = cell_of(p);
            free = distance_at(cell);
        }
#endif
        float leave = min(t + way_out(p, ray.inverse_dir, ray.dir, cell, cell_edge, 1), ray.end);
        do {
            if (t >= ray.end) break;
            p = ray.origin + t * ray.dir;
            COUNT_ONE(samples)
            Matter m = matter_at(p);
            float a = opacity_of(m);
            if (a > 0.0) {
                COUNT_ONE(lit)
                // `a` is the opacity of one voxel's length.
                float share = (1.0 - covered) * (1.0 - pow(1.0 - min(a, 0.9999), step_length));
                covered += share;
                float light = light_at(p, pcg3d(uvec3(pixel, uint(k) * 8191u + frame)));
                sum += share * light * color_of(m);
                if (covered > OPAQUE) break;
            }
            ++k;
            t = ray.start + (float(k) + jitter) * step_length;
        } while (t < leave);
    }
#if SLICES
    if (meets_slice && covered <= OPAQUE) {
        vec3 p = ray.origin + to_slice * ray.dir;
        vec3 uvw = (p - texture_low) * texture_scale;
#if RAW == 2
        vec3 grey = vec3(1.0 - textureLod(matter_b, uvw, 0.0).r);
#elif RAW == 1
        vec3 grey = vec3(1.0 - textureLod(matter_a, uvw, 0.0).r);
#else
        vec3 grey = vec3(0.02);
#endif
        Matter m = matter_at(p);
        // Darker than white paper, so that it does not glow.
        sum += (1.0 - covered) * mix(0.6 * grey * grey, color_of(m), 0.6 * opacity_of(m));
        covered = 1.0;
    }
#endif
    if (covered > OPAQUE) {
        sum /= covered;
        covered = 1.0;
    }
#if COUNTING
    keep(pixel, vec4(leaps, samples, lit, 1.0));
#else
    keep(pixel, vec4(sum, covered));
#endif
}
