// The hand on the view: orbit, shift and zoom by mouse, touch and keys.
"use strict";

Object.assign(Viewer.prototype, {
  // The eye from which the whole of the pose that is shown is seen.
  fitting(azimuth, elevation) {
    this.eye = { azimuth, elevation, distance: 1, focus: [0, 0, 0] };
    const { right, up, out } = this.camera();
    const model = mat.join(mat.split(this.index < 0 ? this.data.before : this.data.poses[this.index].motion));
    const shift = this.state.apart ? this.pulled(right) : [0, 0, 0];
    const points = this.clouds[0].few.map((p) => [0, 1, 2].map(
      (i) => model[i] * p[0] + model[4 + i] * p[1] + model[8 + i] * p[2] + model[12 + i] + shift[i])).concat(this.clouds[1].few);
    const seen = points.map((p) => [right, up, out].map((axis) => p[0] * axis[0] + p[1] * axis[1] + p[2] * axis[2]));
    const middle = [0, 1, 2].map((i) => {
      const along = seen.map((p) => p[i]);
      return (Math.min(...along) + Math.max(...along)) / 2;
    });
    const tangent = Math.tan(FOV / 2);
    const aspect = this.canvas.clientWidth / Math.max(1, this.canvas.clientHeight);
    const distance = Math.max(1e-6 * this.data.radius, ...seen.map((p) => {
      const [x, y, z] = p.map((value, i) => value - middle[i]);
      return z + (1.08 * Math.max(Math.abs(y), Math.abs(x) / aspect)) / tangent;
    }));
    const focus = [0, 1, 2].map((i) => middle[0] * right[i] + middle[1] * up[i] + middle[2] * out[i]);
    return { azimuth, elevation, distance, focus };
  },

  // How far the source is drawn to the left of its place, so that matches are seen as lines.
  pulled(right) {
    return right.map((value) => -1.1 * this.data.radius * value);
  },

  between(a, b, s) {
    const mix = (x, y) => x + s * (y - x);
    return { azimuth: mix(a.azimuth, b.azimuth), elevation: mix(a.elevation, b.elevation),
      distance: mix(a.distance, b.distance), focus: a.focus.map((value, i) => mix(value, b.focus[i])) };
  },

  home(azimuth = this.data.view[0], elevation = this.data.view[1]) {
    this.eye = this.fitting(azimuth, elevation);
    this.steered = false;
    this.redraw();
  },

  orbit(dx, dy) {
    this.steered = true;
    this.eye.azimuth -= dx;
    this.eye.elevation = Math.max(-1.57, Math.min(1.57, this.eye.elevation + dy));
    this.redraw();
  },

  shift(dx, dy) {
    this.steered = true;
    const { right, up } = this.camera();
    const length = (2 * this.eye.distance * Math.tan(FOV / 2)) / this.canvas.clientHeight;
    this.eye.focus = this.eye.focus.map((value, i) => value + length * (-dx * right[i] + dy * up[i]));
    this.redraw();
  },

  zoom(factor) {
    this.steered = true;
    this.eye.distance = Math.max(0.01 * this.data.radius, Math.min(40 * this.data.radius, this.eye.distance * factor));
    this.redraw();
  },

  steer() {
    const { canvas } = this;
    const held = new Map();
    const middle = () => [...held.values()].reduce((sum, p) => [sum[0] + p[0] / held.size, sum[1] + p[1] / held.size], [0, 0]);
    const spread = () => Math.hypot(...[...held.values()].slice(0, 2).reduce((a, b) => [a[0] - b[0], a[1] - b[1]]));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, [event.clientX, event.clientY]);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held.has(event.pointerId)) return;
      const [was, apart] = [middle(), held.size > 1 ? spread() : 0];
      held.set(event.pointerId, [event.clientX, event.clientY]);
      const now = middle();
      const [dx, dy] = [now[0] - was[0], now[1] - was[1]];
      if (held.size > 1) this.zoom(apart / Math.max(spread(), 1));
      if (held.size > 1 || event.shiftKey || event.buttons & 6) this.shift(dx, dy);
      else this.orbit(dx / 160, dy / 160);
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"])
      canvas.addEventListener(name, (event) => held.delete(event.pointerId));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.home());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(Math.max(-0.4, Math.min(0.4, event.deltaY / 500))));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
      const scale = { "+": 0.87, "=": 0.87, "-": 1.15 }[event.key];
      if (turn) this.orbit(...turn);
      else if (scale) this.zoom(scale);
      else if (event.key === "0") this.home();
      else return;
      event.preventDefault();
    });
  },
});
