// SPDX-License-Identifier: MIT
// A frame that was put together slab by slab joins the running mean.
#version 430
layout(local_size_x = 8, local_size_y = 8) in;
layout(rgba16f, binding = 0) uniform readonly image2D whole_frame;
#if WIDE
layout(rgba32f, binding = 1) uniform image2D picture;
#else
layout(rgba16f, binding = 1) uniform image2D picture;
#endif
uniform uint frame;

void main() {
    ivec2 pixel = ivec2(gl_GlobalInvocationID.xy);
    if (any(greaterThanEqual(pixel, imageSize(picture)))) return;
    vec4 seen = imageLoad(whole_frame, pixel);
    if (frame > 0u) seen = mix(imageLoad(picture, pixel), seen, 1.0 / float(frame + 1u));
    imageStore(picture, pixel, seen);
}
