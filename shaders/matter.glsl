// SPDX-License-Identifier: MIT
// What stands at a point: ramps, their product with the raw volume, and what has been cut away.
// Positions are in voxels (the shorter edge of one is the unit), xyz, from the middle of the volume.

uniform vec3 half_extent;
uniform sampler3D matter_a;         // r: raw, mapped to 0..1; g, b, a: classes 1 to 3
#if CLASSES > 3
uniform sampler3D matter_b;         // classes 4 to 7
#endif
uniform vec4 ramp_left[2];          // of classes 1 to 3 (and a spare one), 4 to 7
uniform vec4 ramp_gain[2];          // 1 / (right - left)
uniform vec4 ramp_opacity[2];
uniform vec4 class_color[8];        // in the same order, the spare one included
uniform vec2 raw_ramp;              // left, 1 / (right - left)
uniform vec3 keep_low, keep_high;   // box outside which nothing is drawn
uniform vec4 cut;                   // dot(cut.xyz, p) > cut.w is cut away
uniform vec4 cut_classes[2];        // 1 where the cut takes the class, 0 where it spares it

bool inside(vec3 p) {
    return all(greaterThan(p, keep_low)) && all(lessThan(p, keep_high));
}

// Paper 1, equation 1 and section 5.2: r_j(V_j) r_raw(V_raw) of every class at p, which is `inside`.
void class_opacities(vec3 p, out vec4 first, out vec4 second) {
    vec3 uvw = p / (2.0 * half_extent) + 0.5;
    vec4 a = textureLod(matter_a, uvw, 0.0);
    first = clamp((vec4(a.gba, 0.0) - ramp_left[0]) * ramp_gain[0], 0.0, 1.0) * ramp_opacity[0];
    second = vec4(0.0);
#if CLASSES > 3
    second = clamp((textureLod(matter_b, uvw, 0.0) - ramp_left[1]) * ramp_gain[1], 0.0, 1.0) * ramp_opacity[1];
#endif
#if MULTIPLY_RAW
    float raw = clamp((a.r - raw_ramp.x) * raw_ramp.y, 0.0, 1.0);
    first *= raw;
    second *= raw;
#endif
#if CUT
    if (dot(cut.xyz, p) > cut.w) {
        first *= 1.0 - cut_classes[0];
        second *= 1.0 - cut_classes[1];
    }
#endif
}

// A = 1 - prod_j (1 - r_j r_raw): all classes at once, so their order does not matter (paper-slips: the formula as
// printed lets the first class through).
float joint_opacity(vec4 first, vec4 second) {
    vec4 clear = (1.0 - first) * (1.0 - second);
    return 1.0 - clear.x * clear.y * clear.z * clear.w;
}

float opacity(vec3 p) {
    if (!inside(p)) return 0.0;
    vec4 first, second;
    class_opacities(p, first, second);
    return joint_opacity(first, second);
}

// Mean of the class colours weighted by r_j r_raw, at p, which is `inside`.
vec3 color(vec3 p) {
    vec4 first, second;
    class_opacities(p, first, second);
    vec3 sum = mat3(class_color[0].rgb, class_color[1].rgb, class_color[2].rgb) * first.xyz;
#if CLASSES > 3
    sum += mat3(class_color[4].rgb, class_color[5].rgb, class_color[6].rgb) * second.xyz;
    sum += class_color[7].rgb * second.w;
#endif
    return sum / max(dot(first, vec4(1.0)) + dot(second, vec4(1.0)), 1e-6);
}
