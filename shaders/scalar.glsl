// SPDX-License-Identifier: MIT
// The one number that surfaces and maximum projections look at: joint opacity, or the mapped raw volume.

float scalar_of(vec3 p) {
#if SOURCE_RAW
    return raw_at(p) * shown_share(p);
#else
    return opacity_of(matter_at(p));
#endif
}

float scalar_at(vec3 p) {
    return inside(p) ? scalar_of(p) : 0.0;
}

vec3 scalar_color(vec3 p) {
#if SOURCE_RAW
    return vec3(0.62, 0.6, 0.56);
#else
    return color_of(matter_at(p));
#endif
}
