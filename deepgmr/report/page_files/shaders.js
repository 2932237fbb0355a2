// What the graphics card runs: points, ellipsoids, lines, and shading by depth.
"use strict";

const COLOURING = `
uniform vec3 colour, sharedColour, aloneColour;
uniform vec3 ramp[6];
uniform int mode;      // 0 by cloud, 1 by residual, 2 by overlap
vec3 along(float x) {
  float place = clamp(x, 0.0, 1.0) * 5.0;
  int i = min(int(place), 4);
  return mix(ramp[i], ramp[i + 1], place - float(i));
}
vec3 chosen(float code) {   // codes are roots: 255 is no counterpart, 127 the top of the scale
  if (mode == 0) return colour;
  if (mode == 2) return code > 254.5 ? colour : sharedColour;
  return code > 254.5 ? aloneColour : along(pow(code / 127.0, 2.0));
}`;

const POINTS_VERTEX = `
in vec3 position, normal;
in float gap;
uniform mat4 model, view, projection;
uniform vec3 low, span;
uniform float size, pixels;
out vec3 tint;
${COLOURING}
void main() {
  vec4 seen = view * model * vec4(low + span * position, 1.0);
  gl_Position = projection * seen;
  gl_PointSize = clamp(size * pixels * projection[1][1] / gl_Position.w, 1.5, 48.0);
  vec3 facing = normalize(mat3(view) * mat3(model) * normal + vec3(1e-9));
  float light = abs(dot(facing, normalize(vec3(0.35, 0.5, 0.8))));
  tint = chosen(gap) * mix(0.62, 1.05, light);
}`;

const POINTS_FRAGMENT = `
in vec3 tint;
out vec4 pixel;
void main() {
  vec2 from = gl_PointCoord - 0.5;
  if (dot(from, from) > 0.25) discard;
  pixel = vec4(tint, 1.0);
}`;

const ELLIPSOID_VERTEX = `
in vec3 position, centre, diagonal, beside;
uniform mat4 model, view, projection;
uniform vec3 colour;
out vec3 tint;
void main() {
  mat3 root = mat3(diagonal.x, beside.x, beside.y, beside.x, diagonal.y, beside.z, beside.y, beside.z, diagonal.z);
  gl_Position = projection * view * model * vec4(centre + root * position, 1.0);
  vec3 facing = normalize(mat3(view) * mat3(model) * (inverse(root) * position));
  tint = colour * mix(0.5, 1.08, abs(dot(facing, normalize(vec3(0.35, 0.5, 0.8)))));
}`;

const PLAIN_FRAGMENT = `
in vec3 tint;
out vec4 pixel;
void main() { pixel = vec4(tint, 1.0); }`;

const LINE_FRAGMENT = `
in vec3 tint;
out vec4 pixel;
void main() { pixel = vec4(tint, 0.98); }   // less than one: not to be shaded by depth`;

const LINE_VERTEX = `
in vec2 corner;          // along the line in [0, 1], and to either side
in vec3 start, end;      // of the source, and of the target
in float agrees;
uniform mat4 model, view, projection;
uniform vec2 screen;
uniform float width;
uniform vec3 colour, aloneColour;
uniform float wanted;    // 1: those that agree, 0: the others
out vec3 tint;
void main() {
  if (abs(agrees - wanted) > 0.5) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
  vec4 a = projection * view * model * vec4(start, 1.0), b = projection * view * vec4(end, 1.0);
  vec2 along = (b.xy / b.w - a.xy / a.w) * screen;
  vec2 side = length(along) > 1e-6 ? normalize(vec2(-along.y, along.x)) : vec2(0.0, 1.0);
  vec4 here = mix(a, b, corner.x);
  here.xy += side * corner.y * width / screen * here.w;
  gl_Position = here;
  tint = wanted > 0.5 ? colour : aloneColour;
}`;

const SCREEN_VERTEX = `
out vec2 place;
void main() {
  place = vec2(float((gl_VertexID << 1) & 2), float(gl_VertexID & 2));
  gl_Position = vec4(place * 2.0 - 1.0, 0.0, 1.0);
}`;

// Eye-dome lighting (Boucheny 2009): a pixel darkens the further its neighbours stand out before it.
const SCREEN_FRAGMENT = `
in vec2 place;
uniform sampler2D picture, depths;
uniform vec2 texel;
uniform float near, far, strength;
uniform vec3 paper;
out vec4 pixel;
float depth(vec2 at) {
  float z = texture(depths, at).r * 2.0 - 1.0;
  return log2(2.0 * near * far / (far + near - z * (far - near)));
}
void main() {
  vec4 own = texture(picture, place);
  float here = depth(place), before = 0.0;
  for (int i = 0; i < 8; i++) {
    float turn = 0.7853981 * float(i);
    before += max(0.0, here - depth(place + texel * vec2(cos(turn), sin(turn))));
  }
  float shade = texture(depths, place).r < 1.0 && own.a > 0.99 ? exp(-strength * before / 8.0) : 1.0;
  pixel = vec4(mix(paper, own.rgb * max(shade, 0.35), own.a), 1.0);
}`;
