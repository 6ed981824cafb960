// SPDX-License-Identifier: MIT
// What stands at a point: ramps, their product with the raw volume, and what has been cut away.
// Positions are in voxels (the shorter edge of one is the unit), xyz, from the middle of the volume.

uniform vec3 texture_low;           // low corner of what the textures hold (all of the volume, or a slab of it)
uniform vec3 texture_scale;         // 1 / their extent
uniform sampler3D matter_a;
#if TEXTURES > 1
uniform sampler3D matter_b;
#endif
uniform vec4 ramp_left[2];          // of classes 1 to 4, 5 to 8
uniform vec4 ramp_gain[2];          // 1 / (right - left)
uniform vec4 ramp_opacity[2];
uniform vec4 class_color[8];
uniform vec2 raw_ramp;              // left, 1 / (right - left)
uniform vec3 keep_low, keep_high;   // box outside which nothing is drawn
#if CUTS > 0
uniform vec4 cut[3];                // dot(cut.xyz, p) > cut.w is cut away
uniform vec4 cut_classes[6];        // two a plane: 1 where it takes the class, 0 where it spares it
#endif
#if BOX
uniform vec3 box_low, box_high;     // a box for some classes only
uniform vec4 box_classes[2];
#endif
#if SOURCE_RAW
uniform sampler2D raw_colors;       // row 0: colour and opacity by raw value; row 1: the largest opacity up to there
#endif

// The raw volume shares texture a with three classes, or texture b with the fifth and later ones (RAW 1 and 2).
#if RAW == 2
#define MATTER_RAW(a, b) b.r
#else
#define MATTER_RAW(a, b) a.r
#endif

// r_j(V_j) r_raw(V_raw) of classes 1 to 4 and 5 to 8; from the raw volume alone, colour and opacity.
struct Matter {
    vec4 first, second;
};

bool inside(vec3 p) {
    return all(greaterThan(p, keep_low)) && all(lessThan(p, keep_high));
}

#if SOURCE_RAW
float shown_share(vec3 p) {
    float share = 1.0;
#if CUTS > 0
    for (int i = 0; i < CUTS; ++i)
        if (dot(cut[i].xyz, p) > cut[i].w) share *= 1.0 - cut_classes[2 * i].x;
#endif
    return share;
}

float raw_at(vec3 p) {
    vec3 uvw = (p - texture_low) * texture_scale;
#if RAW == 2
    return textureLod(matter_b, uvw, 0.0).r;
#else
    return textureLod(matter_a, uvw, 0.0).r;
#endif
}

vec4 raw_color(float value) {
    // 256 points: the first and the last lie half a texel within.
    return textureLod(raw_colors, vec2((0.5 + 255.0 * value) / 256.0, 0.25), 0.0);
}

Matter matter_at(vec3 p) {
    vec4 color = raw_color(raw_at(p));
    color.a *= shown_share(p);
    return Matter(color, vec4(0.0));
}

float opacity_of(Matter m) {
    return m.first.a;
}

vec3 color_of(Matter m) {
    return m.first.rgb;
}
#else
float ramp_raw(float value) {
    return clamp((value - raw_ramp.x) * raw_ramp.y, 0.0, 1.0);
}

// Paper 1, equation 1 and section 5.2, at p, which is `inside`.
Matter matter_at(vec3 p) {
    vec3 uvw = (p - texture_low) * texture_scale;
    vec4 a = textureLod(matter_a, uvw, 0.0);
    vec4 b = vec4(0.0);
#if RAW == 1
    vec4 first = vec4(a.gba, 0.0);
#else
    vec4 first = a;
#endif
    first = clamp((first - ramp_left[0]) * ramp_gain[0], 0.0, 1.0) * ramp_opacity[0];
    vec4 second = vec4(0.0);
#if TEXTURES > 1
#if CLASSES <= 4
    // Only the raw volume is there: fetched where a class is visible.
    if (first != vec4(0.0)) b = textureLod(matter_b, uvw, 0.0);
#else
    b = textureLod(matter_b, uvw, 0.0);
#if RAW == 2
    second = vec4(b.gba, 0.0);
#else
    second = b;
#endif
    second = clamp((second - ramp_left[1]) * ramp_gain[1], 0.0, 1.0) * ramp_opacity[1];
#endif
#endif
#if MULTIPLY_RAW
    float raw = ramp_raw(MATTER_RAW(a, b));
    first *= raw;
    second *= raw;
#endif
#if CUTS > 0
    for (int i = 0; i < CUTS; ++i) {
        if (dot(cut[i].xyz, p) > cut[i].w) {
            first *= 1.0 - cut_classes[2 * i];
            second *= 1.0 - cut_classes[2 * i + 1];
        }
    }
#endif
#if BOX
    if (any(lessThan(p, box_low)) || any(greaterThan(p, box_high))) {
        first *= 1.0 - box_classes[0];
        second *= 1.0 - box_classes[1];
    }
#endif
    return Matter(first, second);
}

// A = 1 - prod_j (1 - r_j r_raw): all classes at once, so their order does not matter (paper-slips: the formula as
// printed lets the first class through).
float opacity_of(Matter m) {
    vec4 clear = 1.0 - m.first;
#if CLASSES > 4
    clear *= 1.0 - m.second;
#endif
    return 1.0 - clear.x * clear.y * clear.z * clear.w;
}

// Mean of the class colours weighted by r_j r_raw.
vec3 color_of(Matter m) {
    vec3 sum = mat4x3(class_color[0].rgb, class_color[1].rgb, class_color[2].rgb, class_color[3].rgb) * m.first;
    float weight = dot(m.first, vec4(1.0));
#if CLASSES > 4
    sum += mat4x3(class_color[4].rgb, class_color[5].rgb, class_color[6].rgb, class_color[7].rgb) * m.second;
    weight += dot(m.second, vec4(1.0));
#endif
    return sum / max(weight, 1e-6);
}
#endif

// Opacity of one voxel's length at any p.
float opacity(vec3 p) {
    return inside(p) ? opacity_of(matter_at(p)) : 0.0;
}
