// SPDX-License-Identifier: MIT
// From a pixel to the part of its ray that may hold something, and from a frame to the running mean.

uniform int first_row;
uniform vec3 eye, forward, right, up;   // right and up reach from the middle of the picture to its edges
uniform float orthographic;             // 1: parallel rays, 0: through the eye
uniform vec2 pixel_shift;               // where in the pixel this frame's rays go, 0..1
uniform float step_length;
uniform uint frame;
uniform vec2 slab;                      // z of what is marched now, within keep_low and keep_high
#if CUTS > 0
uniform float cut_all[3];               // 1: the plane takes every class
#endif

#if WIDE
layout(rgba32f, binding = 0) uniform image2D picture;   // premultiplied linear rgb and opacity
#else
layout(rgba16f, binding = 0) uniform image2D picture;
#endif

// Samples lie at start + (k + jitter) * step_length. [first, end): what is marched now.
struct Ray {
    vec3 origin, dir, inverse_dir;
    float start, first, end;
};

// Neighbours of a group lie in blocks, not in rows: vector units that run 8, 16 or 32 of them in step lose less.
ivec2 pixel_of() {
    uint i = gl_LocalInvocationIndex;
    uint x = (i & 1u) | ((i >> 1u) & 2u) | ((i >> 2u) & 4u);
    uint y = ((i >> 1u) & 1u) | ((i >> 2u) & 2u) | ((i >> 3u) & 4u);
    return ivec2(8u * gl_WorkGroupID.xy + uvec2(x, y)) + ivec2(0, first_row);
}

// Numbers 0..1 of this pixel and frame: x for the position of samples.
vec3 pixel_random(ivec2 pixel) {
    uvec3 seed = pcg3d(uvec3(pixel, 77u));
#if JITTER
    return unit_interval(seed + frame * uvec3(3253582939u, 2965941329u, 2703729436u));
#else
    return vec3(0.5);
#endif
}

bool ray_of(ivec2 pixel, ivec2 size, out Ray ray) {
    vec2 ndc = 2.0 * (vec2(pixel) + pixel_shift) / vec2(size) - 1.0;
    vec3 lateral = ndc.x * right - ndc.y * up;
    ray.origin = eye + orthographic * lateral;
    ray.dir = off_axis(normalize(forward + (1.0 - orthographic) * lateral));
    ray.inverse_dir = 1.0 / ray.dir;
    vec3 to_low = (keep_low - ray.origin) * ray.inverse_dir;
    vec3 to_high = (keep_high - ray.origin) * ray.inverse_dir;
    vec3 enter = min(to_low, to_high), leave = max(to_low, to_high);
    ray.start = max(max(enter.x, max(enter.y, enter.z)), 0.0);
    ray.end = min(leave.x, min(leave.y, leave.z));
#if CUTS > 0
    for (int i = 0; i < CUTS; ++i) {
        // A plane that takes every class: begin on it, so that the cut face is exact.
        if (cut_all[i] < 0.5) continue;
        float distance_to_cut = cut[i].w - dot(cut[i].xyz, ray.origin);
        float approach = dot(cut[i].xyz, ray.dir);
        if (approach < 0.0) ray.start = max(ray.start, distance_to_cut / approach);
        else if (approach > 0.0) ray.end = min(ray.end, distance_to_cut / approach);
        else if (distance_to_cut < 0.0) ray.end = ray.start;
    }
#endif
    float to_bottom = (slab.x - ray.origin.z) * ray.inverse_dir.z;
    float to_top = (slab.y - ray.origin.z) * ray.inverse_dir.z;
    ray.first = max(ray.start, min(to_bottom, to_top));
    ray.end = min(ray.end, max(to_bottom, to_top));
    return ray.first < ray.end;
}

// Number of the first sample of the ray that is not before t.
int sample_after(Ray ray, float jitter, float t) {
    return int(clamp(ceil((t - ray.start) / step_length - jitter), 0.0, 65536.0));
}

// In slabs, a frame is put together in `picture` front to back and joins the mean afterwards (fold.comp).
vec4 seen_before(ivec2 pixel) {
#if SLABS
    return imageLoad(picture, pixel);
#else
    return vec4(0.0);
#endif
}

void keep(ivec2 pixel, vec4 seen) {
#if !SLABS
    if (frame > 0u) seen = mix(imageLoad(picture, pixel), seen, 1.0 / float(frame + 1u));
#endif
    imageStore(picture, pixel, seen);
}
