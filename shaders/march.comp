// SPDX-License-Identifier: MIT
// One frame of the picture: a ray a pixel, front to back, added to the running sum.
// The sum over a ray's samples of colour x light (paper 1, section 5.2) is estimated without bias: light is evaluated
// at one sample, picked with probability equal to its share of the ray's opacity, and over the frames every sample
// gets its due. So all rays of a group evaluate light together, which is what vector units need.
#version 430
#include "random.glsl"
#include "matter.glsl"
#include "skip.glsl"
#include "light.glsl"

layout(local_size_x = 8, local_size_y = 8) in;
layout(rgba32f, binding = 0) uniform image2D total;     // premultiplied linear rgb and opacity, summed over frames

uniform int first_row;
uniform vec3 eye, forward, right, up;   // right and up reach from the middle of the picture to its edges
uniform float orthographic;             // 1: parallel rays, 0: through the eye
uniform vec2 pixel_shift;               // where in the pixel this frame's rays go, 0..1
uniform float step_length;

const float OPAQUE = 0.985;             // rays end here, and count as opaque

void main() {
    ivec2 pixel = ivec2(gl_GlobalInvocationID.xy) + ivec2(0, first_row);
    ivec2 size = imageSize(total);
    if (any(greaterThanEqual(pixel, size))) return;
    vec2 ndc = 2.0 * (vec2(pixel) + pixel_shift) / vec2(size) - 1.0;
    vec3 lateral = ndc.x * right - ndc.y * up;
    vec3 origin = eye + orthographic * lateral;
    vec3 dir = normalize(forward + (1.0 - orthographic) * lateral);
    dir = off_axis(dir);
    vec3 inverse_dir = 1.0 / dir;

    vec3 to_low = (keep_low - origin) * inverse_dir;
    vec3 to_high = (keep_high - origin) * inverse_dir;
    vec3 enter = min(to_low, to_high), leave = max(to_low, to_high);
    float start = max(max(enter.x, max(enter.y, enter.z)), 0.0);
    float end = min(leave.x, min(leave.y, leave.z));
#if CUT == 2
    // The plane takes every class: begin on it, so that the cut face is exact.
    float distance_to_cut = cut.w - dot(cut.xyz, origin);
    float approach = dot(cut.xyz, dir);
    if (approach < 0.0) start = max(start, distance_to_cut / approach);
    else if (approach > 0.0) end = min(end, distance_to_cut / approach);
    else if (distance_to_cut < 0.0) end = start;
#endif
    if (!(start < end)) return;

    uvec3 seed = pcg3d(uvec3(pixel, 77u));
    vec2 u = ray_sequence(seed.xy, frame);
    float jitter = JITTER == 1 ? u.x : 0.5;
    float draw = unit_interval(pcg3d(uvec3(pixel, frame))).x;
    float covered = 0.0;
    vec3 picked = vec3(0.0), drawn = vec3(0.0);
    int steps = int(min(ceil((end - start) / step_length), 65536.0));
    for (int k = 0; k < steps;) {
        float t = start + (float(k) + jitter) * step_length;
        if (t >= end) break;
#if SKIP
        float free_to = leap(origin, inverse_dir, dir, t);
        if (free_to > t) {
            // Stay on the ray's own lattice of samples: skipping then changes nothing in the picture.
            k = max(k + 1, int(min(ceil((free_to - start) / step_length - jitter), 65536.0)));
            continue;
        }
#endif
        ++k;
        vec3 p = origin + t * dir;
        float a = opacity(p);
        if (a <= 0.0) continue;
        // `a` is the opacity of one voxel's length.
        float share = (1.0 - covered) * (1.0 - pow(1.0 - min(a, 0.9999), step_length));
        bool crossed = u.y >= covered && u.y < covered + share;
        covered += share;
        picked = crossed ? p : picked;
        // Reservoir of one: the newcomer stays with probability share / sum so far; `draw` is used up and renewed.
        float chance = share / covered;
        bool stays = draw < chance;
        draw = stays ? draw / chance : (draw - chance) / (1.0 - chance);
        drawn = stays ? p : drawn;
        if (covered > OPAQUE) break;
    }
    if (covered == 0.0) return;
    // Where the opacity passed u.y, evenly spread over the frames; a ray that stayed clearer than that draws its lot.
    if (u.y >= covered) picked = drawn;
    if (covered > OPAQUE) covered = 1.0;
    float light = ambient(picked, pcg3d(seed)) * shadow(picked, pcg3d(seed + 1u));
    vec4 sum = vec4(light * color(picked), 1.0) * covered;
    imageStore(total, pixel, imageLoad(total, pixel) + sum);
}
