// The plane: particles, trajectories, arrows and the density, at any time of what has been solved so far.

const TRAILS = 90;
const BINS = 36;

export class Plane {
  constructor(canvas, onTime) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onTime = onTime;
    this.layers = "pwfd";
    this.extent = 6;
    this.own = null;
    this.speed = 1;
    this.reset(6);
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.dirty());
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
  }

  reset(extent) {
    this.extent = extent;
    this.frames = []; this.fields = []; this.densities = [];
    this.heat = new Map();
    this.bins = null;
    this.time = 0;
    this.playing = false;
    this.complete = false;
    this.dirty();
  }

  // A drawing begins: what is there stays until its first frame, so that nothing flickers.
  begin(extent, keepTime) {
    this.pending = { extent, time: keepTime ? this.time : null };
  }

  add(frame) {
    if (this.pending) {
      const { extent, time } = this.pending;
      this.pending = null;
      this.reset(extent);
      this.goal = time;
      this.play(time === null && !this.still.matches);
      if (time !== null) this.time = time;
      else if (this.still.matches) this.time = 1;
    }
    if (frame.points) {
      if (!this.bins) this.bins = bins(frame.points);
      this.frames.push(frame);
    } else if (frame.field) this.fields.push(frame);
    else if (frame.density) this.densities.push(frame);
    this.dirty();
  }

  end() { this.complete = true; this.dirty(); }

  play(on) {
    this.playing = on;
    this.last = null;
    this.onTime(this.time, this.playing);
    this.dirty();
  }

  seek(time) {
    this.playing = false;
    this.time = Math.min(1, Math.max(0, time));
    this.onTime(this.time, false);
    this.dirty();
  }

  resize() {
    const side = Math.max(1, Math.round(this.canvas.clientWidth * devicePixelRatio));
    if (this.canvas.width !== side) { this.canvas.width = side; this.canvas.height = side; }
    this.dirty();
  }

  dirty() {
    if (!this.asked) this.asked = requestAnimationFrame((now) => { this.asked = null; this.step(now); });
  }

  step(now) {
    if (this.playing && this.frames.length) {
      const reached = this.complete ? 1 : this.frames[this.frames.length - 1].t;
      const before = this.time;
      if (this.last !== null) this.time = Math.min(reached, this.time + (now - this.last) / 2600 * this.speed);
      if (this.time >= 1 && this.complete) this.playing = false;
      this.onTime(this.time, this.playing);
      // At the newest state there is nothing to do until the next one comes.
      const waits = this.last !== null && this.time === before;
      this.last = waits ? null : now;
      if (this.playing && !waits) this.dirty();
    }
    this.draw();
  }

  // The state at a time: straight between two states, as a step goes.
  at(time) {
    const frames = this.frames;
    if (!frames.length) return null;
    let k = 0;
    while (k + 1 < frames.length && frames[k + 1].t <= time) k++;
    const a = frames[k], b = frames[k + 1];
    if (!b || time <= a.t) return { k, points: a.points };
    const w = (time - a.t) / (b.t - a.t);
    const points = new Float32Array(a.points.length);
    for (let i = 0; i < points.length; i++) points[i] = (1 - w) * a.points[i] + w * b.points[i];
    return { k, points };
  }

  draw() {
    const { context: c, canvas } = this;
    const side = canvas.width;
    const ink = colours();
    const unit = side / (2 * this.extent);
    const X = (x) => side / 2 + x * unit, Y = (y) => side / 2 - y * unit;
    c.clearRect(0, 0, side, side);
    c.drawImage(this.groundOf(side, X, Y, unit, ink), 0, 0);
    const state = this.at(this.time);
    if (state && this.layers.includes("w")) this.trails(state, X, Y, ink);
    if (state && this.layers.includes("p")) this.particles(state.points, X, Y, ink);
    if (this.own) this.drawOwn(X, Y, unit, ink);
  }

  // Density, axes and arrows, which change with the frame and not with every picture.
  groundOf(side, X, Y, unit, ink) {
    const density = this.layers.includes("d") ? nearest(this.densities, this.time) : null;
    const field = this.layers.includes("f") ? nearest(this.fields, this.time) : null;
    const g = this.ground;
    if (g && g.density === density && g.field === field && g.canvas.width === side && g.dark === ink.dark) return g.canvas;
    const canvas = g?.canvas.width === side ? g.canvas : new OffscreenCanvas(side, side);
    const c = canvas.getContext("2d");
    c.clearRect(0, 0, side, side);
    if (density) {
      c.imageSmoothingEnabled = true; c.imageSmoothingQuality = "high";
      c.drawImage(this.heatOf(density, ink), 0, 0, side, side);
    }
    c.strokeStyle = ink.grid; c.lineWidth = Math.max(1, devicePixelRatio * 0.6);
    c.beginPath();
    c.moveTo(X(0), 0); c.lineTo(X(0), side); c.moveTo(0, Y(0)); c.lineTo(side, Y(0));
    c.stroke();
    if (field) this.arrows(c, field, X, Y, unit, ink);
    this.ground = { canvas, density, field, dark: ink.dark };
    return canvas;
  }

  heatOf(frame, ink) {
    const key = `${frame.t}:${ink.dark}`;
    if (this.heat.has(key)) return this.heat.get(key);
    const n = frame.n;
    const tile = new OffscreenCanvas(n, n);
    const context = tile.getContext("2d");
    const image = context.createImageData(n, n);
    const [r, g, b] = ink.dark ? [78, 190, 186] : [14, 104, 112];
    for (let i = 0; i < n * n; i++) {
      const nats = 12 * (255 - frame.density[i]) / 255;
      image.data.set([r, g, b, (ink.dark ? 92 : 84) * Math.exp(-nats / 2.2)], 4 * i);
    }
    context.putImageData(image, 0, 0);
    this.heat.set(key, tile);
    return tile;
  }

  trails(state, X, Y, ink) {
    const c = this.context, frames = this.frames;
    const n = state.points.length / 2;
    const stride = Math.max(1, Math.floor(n / TRAILS));
    c.lineWidth = 1.1 * devicePixelRatio;
    c.lineJoin = "round";
    for (let i = 0; i < n; i += stride) {
      c.strokeStyle = ink.trail(this.bins[i]);
      c.beginPath();
      for (let k = 0; k <= state.k; k++) {
        const p = frames[k].points;
        if (k) c.lineTo(X(p[2 * i]), Y(p[2 * i + 1])); else c.moveTo(X(p[2 * i]), Y(p[2 * i + 1]));
      }
      c.lineTo(X(state.points[2 * i]), Y(state.points[2 * i + 1]));
      c.stroke();
    }
  }

  particles(points, X, Y, ink) {
    const c = this.context;
    const n = points.length / 2;
    const size = devicePixelRatio * (n > 1500 ? 1.9 : n > 400 ? 2.6 : 3.4);
    for (let bin = 0; bin < BINS; bin++) {
      c.fillStyle = ink.dot(bin);
      c.beginPath();
      for (let i = 0; i < n; i++) {
        if (this.bins[i] !== bin) continue;
        const x = X(points[2 * i]), y = Y(points[2 * i + 1]);
        if (n > 1500) c.rect(x - size / 2, y - size / 2, size, size);
        else { c.moveTo(x + size / 2, y); c.arc(x, y, size / 2, 0, 7); }
      }
      c.fill();
    }
  }

  arrows(c, frame, X, Y, unit, ink) {
    const n = frame.n, cell = 2 * this.extent / n;
    let top = 0;
    const lengths = [];
    for (let i = 0; i < n * n; i++) {
      const length = Math.hypot(frame.field[2 * i], frame.field[2 * i + 1]);
      lengths.push(length);
      top = Math.max(top, length);
    }
    if (!(top > 0)) return;
    // The length by the square root, since fields differ by orders of magnitude over a picture.
    c.strokeStyle = ink.arrow; c.lineWidth = 1.1 * devicePixelRatio; c.lineCap = "round";
    c.beginPath();
    for (let i = 0; i < n * n; i++) {
      const share = Math.sqrt(lengths[i] / top);
      if (share < 0.04) continue;
      const u = frame.field[2 * i] / lengths[i], v = frame.field[2 * i + 1] / lengths[i];
      const x = X(-this.extent + (i % n + 0.5) * cell), y = Y(this.extent - (Math.floor(i / n) + 0.5) * cell);
      const long = 0.86 * cell * unit * share, head = Math.min(0.34 * long, 5 * devicePixelRatio);
      const ex = x + u * long / 2, ey = y - v * long / 2;
      c.moveTo(x - u * long / 2, y + v * long / 2); c.lineTo(ex, ey);
      c.moveTo(ex - head * (u + 0.55 * v), ey + head * (v - 0.55 * u));
      c.lineTo(ex, ey);
      c.lineTo(ex - head * (u - 0.55 * v), ey + head * (v + 0.55 * u));
    }
    c.stroke();
  }

  drawOwn(X, Y, unit, ink) {
    const c = this.context;
    c.lineWidth = 1.6 * devicePixelRatio;
    c.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    for (const each of this.own) {
      c.strokeStyle = ink.warm; c.fillStyle = ink.warm;
      c.beginPath(); c.arc(X(each.x), Y(each.y), Math.max(6, each.std * unit), 0, 7); c.stroke();
      c.beginPath(); c.arc(X(each.x), Y(each.y), 4 * devicePixelRatio, 0, 7); c.fill();
      c.fillText(String(each.label), X(each.x) + 8 * devicePixelRatio, Y(each.y) - 6 * devicePixelRatio);
    }
  }

  // Plane coordinates of a pointer.
  where(event) {
    const box = this.canvas.getBoundingClientRect();
    const side = 2 * this.extent;
    return {
      x: ((event.clientX - box.left) / box.width - 0.5) * side, y: (0.5 - (event.clientY - box.top) / box.height) * side,
    };
  }
}

// The colour of a particle is the direction in which it started.
function bins(points) {
  const found = new Uint8Array(points.length / 2);
  for (let i = 0; i < found.length; i++) {
    const angle = Math.atan2(points[2 * i + 1], points[2 * i]) / (2 * Math.PI) + 0.5;
    found[i] = Math.min(BINS - 1, Math.floor(angle * BINS));
  }
  return found;
}

function nearest(frames, time) {
  let found = null;
  for (const frame of frames) if (!found || Math.abs(frame.t - time) < Math.abs(found.t - time)) found = frame;
  return found;
}

let kept = null;
function colours() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  if (kept?.dark === dark) return kept;
  const hue = (bin) => (bin / BINS) * 360;
  kept = {
    dark,
    grid: dark ? "#ffffff12" : "#00000010",
    arrow: dark ? "#c9d6dc66" : "#2b3a4457",
    warm: dark ? "#f2a65a" : "#a8480f",
    dot: (bin) => `oklch(${dark ? 0.78 : 0.56} 0.13 ${hue(bin)} / 0.88)`,
    trail: (bin) => `oklch(${dark ? 0.74 : 0.58} 0.11 ${hue(bin)} / ${dark ? 0.42 : 0.36})`,
  };
  return kept;
}
