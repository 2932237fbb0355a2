// Small helpers over WebGL 2: programs, buffers, 4x4 matrices (column major).
"use strict";

function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, "#version 300 es\nprecision highp float;\nprecision highp int;\n" + text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  const uniforms = {};
  for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
    const name = gl.getActiveUniform(made, i).name.replace("[0]", "");
    uniforms[name] = gl.getUniformLocation(made, name);
  }
  return { made, uniforms };
}

// fields: [name, array, numbers an item, normalised, instanced]
function vertexArray(gl, shader, fields) {
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  const kinds = new Map([[Float32Array, gl.FLOAT], [Uint16Array, gl.UNSIGNED_SHORT], [Int8Array, gl.BYTE],
    [Uint8Array, gl.UNSIGNED_BYTE]]);
  const buffers = {};
  for (const [name, data, size, normalised, instanced] of fields) {
    const place = gl.getAttribLocation(shader.made, name);
    buffers[name] = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    if (place < 0) continue;
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, kinds.get(data.constructor), !!normalised, 0, 0);
    if (instanced) gl.vertexAttribDivisor(place, 1);
  }
  gl.bindVertexArray(null);
  return { array, buffers };
}

function decode(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}

const mat = {
  multiply(a, b) {
    const c = new Float32Array(16);
    for (let i = 0; i < 4; i++)
      for (let j = 0; j < 4; j++)
        for (let k = 0; k < 4; k++) c[4 * j + i] += a[4 * k + i] * b[4 * j + k];
    return c;
  },
  perspective(fov, aspect, near, far) {
    const f = 1 / Math.tan(fov / 2);
    return new Float32Array([f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1,
      0, 0, (2 * far * near) / (near - far), 0]);
  },
  look(eye, right, up, out) {
    const dot = (a) => -(a[0] * eye[0] + a[1] * eye[1] + a[2] * eye[2]);
    return new Float32Array([right[0], up[0], out[0], 0, right[1], up[1], out[1], 0, right[2], up[2], out[2], 0,
      dot(right), dot(up), dot(out), 1]);
  },
  // A rigid motion given row by row, as a quaternion (x, y, z, w) and a translation.
  split(rows) {
    const r = (i, j) => rows[4 * i + j];
    const trace = r(0, 0) + r(1, 1) + r(2, 2);
    let q;
    if (trace > 0) {
      const s = 2 * Math.sqrt(trace + 1);
      q = [(r(2, 1) - r(1, 2)) / s, (r(0, 2) - r(2, 0)) / s, (r(1, 0) - r(0, 1)) / s, s / 4];
    } else {
      const i = r(0, 0) > r(1, 1) ? (r(0, 0) > r(2, 2) ? 0 : 2) : r(1, 1) > r(2, 2) ? 1 : 2;
      const [j, k] = [(i + 1) % 3, (i + 2) % 3];
      const s = 2 * Math.sqrt(1 + r(i, i) - r(j, j) - r(k, k));
      q = [0, 0, 0, (r(k, j) - r(j, k)) / s];
      q[i] = s / 4;
      q[j] = (r(i, j) + r(j, i)) / s;
      q[k] = (r(i, k) + r(k, i)) / s;
    }
    return { q, t: [r(0, 3), r(1, 3), r(2, 3)] };
  },
  join({ q, t }) {
    const [x, y, z, w] = q;
    return new Float32Array([
      1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w), 0,
      2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w), 0,
      2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y), 0, t[0], t[1], t[2], 1]);
  },
  between(a, b, s) {
    const t = a.t.map((value, i) => value + s * (b.t[i] - value));
    let dot = a.q.reduce((sum, value, i) => sum + value * b.q[i], 0);
    const to = dot < 0 ? b.q.map((value) => -value) : b.q;
    const angle = Math.acos(Math.min(1, Math.abs(dot)));
    const [m, n] = angle < 1e-6 ? [1 - s, s] : [Math.sin((1 - s) * angle), Math.sin(s * angle)];
    const q = a.q.map((value, i) => m * value + n * to[i]);
    const length = Math.hypot(...q);
    return { q: q.map((value) => value / length), t };
  },
};
