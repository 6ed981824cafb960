// SPDX-License-Identifier: MIT
// From linear light to display values.

const vec3 LUMA = vec3(0.2126, 0.7152, 0.0722);

// The identity up to 0.7, then bent so that it never reaches beyond 1: hues of bright parts stay.
vec3 shoulder(vec3 c) {
    vec3 over = max(c - 0.7, 0.0) / 0.3;
    return min(c, 0.7) + 0.3 * over / (1.0 + over);
}

vec3 srgb(vec3 c) {
    return mix(12.92 * c, 1.055 * pow(max(c, 0.0), vec3(1.0 / 2.4)) - 0.055, greaterThan(c, vec3(0.0031308)));
}

// What a tone curve takes out as bright (paper 1, section 5.2, stage 4).
vec3 bright_part(vec3 c) {
    return c * smoothstep(0.45, 0.95, dot(c, LUMA));
}
