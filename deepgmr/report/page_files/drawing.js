// One frame: everything into a picture with depths, then shaded onto the canvas.
"use strict";

const FOV = 0.6;

Object.assign(Viewer.prototype, {
  camera() {
    const { azimuth, elevation, distance, focus } = this.eye;
    const [c, s] = [Math.cos(elevation), Math.sin(elevation)];
    const out = [c * Math.cos(azimuth), c * Math.sin(azimuth), s];
    const right = [-Math.sin(azimuth), Math.cos(azimuth), 0];
    const up = [out[1] * right[2] - out[2] * right[1], out[2] * right[0] - out[0] * right[2],
      out[0] * right[1] - out[1] * right[0]];
    const at = focus.map((value, i) => value + distance * out[i]);
    const { width, height } = this.canvas;
    const { radius } = this.data;
    const cut = distance + (this.state.cut - 1) * radius; // what stands before it is left out
    const near = Math.max(this.state.cut ? cut : distance - 6 * radius, 0.01 * distance);
    const far = distance + 8 * radius;
    return { right, up, out, near, far, view: mat.look(at, right, up, out),
      projection: mat.perspective(FOV, width / height, near, far) };
  },

  // The canvas at the resolution of the screen; what is drawn first is larger, so that edges come out smooth.
  resize() {
    const { gl, canvas } = this;
    const dense = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * dense)));
    if (canvas.width === width && canvas.height === height && this.target) return;
    Object.assign(canvas, { width, height });
    const finer = Math.min(2, Math.sqrt(6e6 / (width * height)));
    const [w, h] = [Math.round(width * finer), Math.round(height * finer)];
    if (this.target) for (const old of this.target.textures) gl.deleteTexture(old);
    const texture = (inside, kind, type, filter) => {
      const made = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, made);
      gl.texImage2D(gl.TEXTURE_2D, 0, inside, w, h, 0, kind, type, null);
      for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, filter);
      for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
      return made;
    };
    const textures = [texture(gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, gl.LINEAR),
      texture(gl.DEPTH_COMPONENT24, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT, gl.NEAREST)];
    const buffer = this.target?.buffer ?? gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, textures[0], 0);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, textures[1], 0);
    this.target = { buffer, textures, w, h, finer: finer * dense };
  },

  draw() {
    const { gl, state } = this;
    this.resize();
    const seen = this.camera();
    const model = mat.join(this.pose);
    if (state.apart) this.pulled(seen.right).forEach((value, i) => (model[12 + i] += value));
    const still = mat.join({ q: [0, 0, 0, 1], t: [0, 0, 0] });
    const { buffer, w, h } = this.target;
    gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
    gl.viewport(0, 0, w, h);
    gl.clearColor(0, 0, 0, 0);
    gl.enable(gl.DEPTH_TEST);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    this.clouds.forEach((cloud, i) => {
      const place = i ? still : model;
      if (state.points) this.drawPoints(cloud, place, seen);
      if (state.components) this.drawEllipsoids(cloud.components, place, seen, this.colours[cloud.role]);
    });
    if (state.matches) this.drawLines(model, seen);
    if (state.uncertainty) {
      gl.depthRange(0, 0.001); // before everything: it lies inside what it is about
      this.drawEllipsoids(this.ball, still, seen, this.colours.mark);
      this.drawEllipsoids(this.needles, still, seen, this.colours.turn);
      gl.depthRange(0, 1);
    }
    this.drawScreen(seen);
    this.onframe?.(seen);
  },

  begin(name, array, place, seen) {
    const { gl } = this;
    const { made, uniforms } = this.shaders[name];
    gl.useProgram(made);
    gl.bindVertexArray(array);
    gl.uniformMatrix4fv(uniforms.model, false, place);
    gl.uniformMatrix4fv(uniforms.view, false, seen.view);
    gl.uniformMatrix4fv(uniforms.projection, false, seen.projection);
    return uniforms;
  },

  drawPoints(cloud, place, seen) {
    const { gl, colours, state } = this;
    const uniforms = this.begin("points", cloud.array, place, seen);
    gl.uniform3fv(uniforms.low, cloud.low);
    gl.uniform3fv(uniforms.span, cloud.span);
    gl.uniform1f(uniforms.size, 1.5 * this.data.spacing * state.size);
    gl.uniform1f(uniforms.pixels, this.target.h / 2);
    gl.uniform1i(uniforms.mode, state.mode);
    gl.uniform3fv(uniforms.colour, colours[cloud.role]);
    gl.uniform3fv(uniforms.sharedColour, colours.shared);
    gl.uniform3fv(uniforms.aloneColour, colours.alone);
    gl.uniform3fv(uniforms.ramp, colours.ramp);
    gl.drawArrays(gl.POINTS, 0, cloud.count);
  },

  drawEllipsoids(balls, place, seen, colour) {
    const { gl } = this;
    const uniforms = this.begin("ellipsoids", balls.array, place, seen);
    gl.uniform3fv(uniforms.colour, colour);
    gl.drawArraysInstanced(gl.TRIANGLES, 0, balls.vertices, balls.count);
  },

  drawLines(model, seen) {
    const { gl, colours } = this;
    const uniforms = this.begin("lines", this.lines.array, model, seen);
    gl.uniform2f(uniforms.screen, this.target.w, this.target.h);
    gl.uniform3fv(uniforms.colour, colours.shared);
    gl.uniform3fv(uniforms.aloneColour, colours.alone);
    for (const [wanted, width] of [[0, 0.9], [1, 2.2]]) {
      gl.uniform1f(uniforms.wanted, wanted);
      gl.uniform1f(uniforms.width, width * this.target.finer);
      gl.drawArraysInstanced(gl.TRIANGLES, 0, 6, this.data.matches.count);
    }
  },

  drawScreen(seen) {
    const { gl, target } = this;
    const { made, uniforms } = this.shaders.screen;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(made);
    gl.bindVertexArray(this.empty);
    target.textures.forEach((texture, i) => {
      gl.activeTexture(gl.TEXTURE0 + i);
      gl.bindTexture(gl.TEXTURE_2D, texture);
    });
    gl.activeTexture(gl.TEXTURE0);
    gl.uniform1i(uniforms.picture, 0);
    gl.uniform1i(uniforms.depths, 1);
    gl.uniform2f(uniforms.texel, (1.4 * target.finer) / target.w, (1.4 * target.finer) / target.h);
    gl.uniform1f(uniforms.near, seen.near);
    gl.uniform1f(uniforms.far, seen.far);
    gl.uniform1f(uniforms.strength, 10);
    gl.uniform3fv(uniforms.paper, this.colours.paper);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  },
});
