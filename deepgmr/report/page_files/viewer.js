// Two clouds that can be turned: points, mixtures, matches and uncertainty. No library, nothing from the network.
"use strict";

class Viewer {
  constructor(canvas, data) {
    const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("this browser has no WebGL 2");
    Object.assign(this, { canvas, gl, data });
    this.state = { mode: 0, points: true, components: false, matches: false, uncertainty: false, apart: false,
      size: 1, cut: 0 };
    this.pose = mat.split(data.poses[0].motion);
    this.shaders = {
      points: program(gl, POINTS_VERTEX, POINTS_FRAGMENT),
      ellipsoids: program(gl, ELLIPSOID_VERTEX, PLAIN_FRAGMENT),
      lines: program(gl, LINE_VERTEX, LINE_FRAGMENT),
      screen: program(gl, SCREEN_VERTEX, SCREEN_FRAGMENT),
    };
    this.clouds = ["source", "target"].map((role) => this.upload(role, data.clouds[role]));
    this.uploadLines();
    this.ball = this.ellipsoids([0, 0, 0], data.uncertainty.root);
    this.needles = this.ellipsoids(Array(9).fill(0), data.uncertainty.needles.flat());
    this.empty = gl.createVertexArray();
    this.index = 0;
    this.home();
    this.recolour();
    this.steer();
    new ResizeObserver(() => (this.steered ? this.redraw() : this.home())).observe(canvas);
  }

  upload(role, cloud) {
    const points = decode(cloud.points, Uint16Array);
    const made = vertexArray(this.gl, this.shaders.points, [
      ["position", points, 3, true],
      ["normal", decode(cloud.normals, Int8Array), 3, true],
      ["gap", new Uint8Array(cloud.count), 1],
    ]);
    const components = this.ellipsoids(decode(cloud.components, Float32Array), decode(cloud.roots, Float32Array));
    const span = cloud.high.map((value, i) => value - cloud.low[i]);
    const every = Math.max(1, Math.floor(cloud.count / 400));
    const few = Array.from({ length: Math.ceil(cloud.count / every) }, (_, row) =>
      [0, 1, 2].map((i) => cloud.low[i] + (span[i] * points[3 * row * every + i]) / 65535));
    return { ...made, ...cloud, role, components, span, few };
  }

  // A ball of unit radius for each centre; roots: (xx, yy, zz, xy, xz, yz) an item.
  ellipsoids(centres, roots) {
    const mesh = [];
    const [rings, spokes] = [8, 14];
    const at = (i, j) => {
      const [a, b] = [(Math.PI * i) / rings, (2 * Math.PI * j) / spokes];
      return [Math.sin(a) * Math.cos(b), Math.sin(a) * Math.sin(b), Math.cos(a)];
    };
    for (let i = 0; i < rings; i++)
      for (let j = 0; j < spokes; j++)
        mesh.push(...at(i, j), ...at(i + 1, j), ...at(i + 1, j + 1), ...at(i, j), ...at(i + 1, j + 1), ...at(i, j + 1));
    const count = centres.length / 3;
    const part = (from) => Float32Array.from({ length: 3 * count }, (_, i) => roots[6 * Math.floor(i / 3) + from + (i % 3)]);
    const made = vertexArray(this.gl, this.shaders.ellipsoids, [
      ["position", new Float32Array(mesh), 3],
      ["centre", Float32Array.from(centres), 3, false, true],
      ["diagonal", part(0), 3, false, true],
      ["beside", part(3), 3, false, true],
    ]);
    return { ...made, vertices: mesh.length / 3, count };
  }

  uploadLines() {
    const { matches } = this.data;
    this.lines = vertexArray(this.gl, this.shaders.lines, [
      ["corner", new Float32Array([0, -1, 1, -1, 1, 1, 0, -1, 1, 1, 0, 1]), 2],
      ["start", decode(matches.source, Float32Array), 3, false, true],
      ["end", decode(matches.target, Float32Array), 3, false, true],
      ["agrees", new Uint8Array(matches.count), 1, false, true],
    ]);
  }

  // -- what is shown -------------------------------------------------------------------------------------------

  // A pose by its index, "before" by -1; residuals and matches are those of the pose, before it those of the answer.
  show(index, glide = true) {
    const pose = this.data.poses[Math.max(index, 0)];
    const motion = mat.split(index < 0 ? this.data.before : pose.motion);
    this.index = index;
    for (const cloud of this.clouds) this.fill(cloud.buffers.gap, decode(pose[`${cloud.role}_gaps`], Uint8Array));
    this.fill(this.lines.buffers.agrees, decode(pose.agreeing, Uint8Array));
    const [from, eye] = [this.pose, this.eye];
    const goal = this.steered ? eye : this.fitting(eye.azimuth, eye.elevation);
    const still = !glide || matchMedia("(prefers-reduced-motion: reduce)").matches;
    const begun = performance.now();
    cancelAnimationFrame(this.gliding);
    const step = () => {
      const s = still ? 1 : Math.min(1, (performance.now() - begun) / 900);
      const soft = s * s * (3 - 2 * s);
      this.pose = mat.between(from, motion, soft);
      if (!this.steered) this.eye = this.between(eye, goal, soft);
      this.draw();
      if (s < 1) this.gliding = requestAnimationFrame(step);
    };
    step();
  }

  set(changes) {
    Object.assign(this.state, changes);
    this.redraw();
  }

  recolour() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => {
      const hex = style.getPropertyValue(name).trim();
      return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
    };
    const names = ["source", "target", "shared", "alone", "paper", "mark", "turn"];
    this.colours = Object.fromEntries(names.map((name) => [name, read(`--${name}`)]));
    this.colours.ramp = [0, 1, 2, 3, 4, 5].flatMap((i) => read(`--ramp-${i}`));
    this.redraw();
  }

  fill(buffer, values) {
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, buffer);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, values, this.gl.STATIC_DRAW);
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.draw();
    });
  }
}
