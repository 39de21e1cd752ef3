// A mask painted over a picture, by pointer or by keys.

import { rgba } from "./pictures.js";

export class Brush {
  constructor(canvas, size, erase, onChange) {
    this.canvas = canvas; this.size = size; this.erase = erase; this.onChange = onChange;
    this.context = canvas.getContext("2d");
    this.picture = null;
    this.cursor = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.down = true; this.cursor = null; this.last = null;
      this.move(event);
    });
    canvas.addEventListener("pointermove", (event) => this.down && this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { if (this.down) { this.down = false; this.onChange(); } });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
  }

  set(bytes, width, height, channels) {
    this.picture = bytes; this.width = width; this.height = height; this.channels = channels;
    this.mask = new Uint8Array(width * height);
    this.cursor = null;
    this.canvas.width = width; this.canvas.height = height;
    this.canvas.style.setProperty("--ratio", `${width} / ${height}`);
    this.draw();
  }

  clear() { if (this.mask) { this.mask.fill(0); this.draw(); this.onChange(); } }

  get empty() { return !this.mask || !this.mask.some((v) => v); }

  move(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * this.width, y = (event.clientY - box.top) / box.height * this.height;
    const [fx, fy] = this.last ?? [x, y];
    const count = Math.max(1, Math.ceil(Math.hypot(x - fx, y - fy)));
    for (let i = 1; i <= count; i++) this.dab(fx + (x - fx) * i / count, fy + (y - fy) * i / count, !this.erase.checked);
    this.last = [x, y];
    this.draw();
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    this.cursor ??= [this.width / 2, this.height / 2];
    if (event.key in steps) {
      const far = event.shiftKey ? 4 : 1;
      this.cursor[0] = Math.min(this.width, Math.max(0, this.cursor[0] + far * steps[event.key][0]));
      this.cursor[1] = Math.min(this.height, Math.max(0, this.cursor[1] + far * steps[event.key][1]));
    } else if (event.key === " " || event.key === "Enter") this.dab(...this.cursor, !this.erase.checked);
    else if (event.key === "Delete" || event.key === "Backspace") this.dab(...this.cursor, false);
    else return;
    event.preventDefault();
    this.draw();
    this.onChange();
  }

  dab(x, y, on) {
    const radius = Number(this.size.value) / 2;
    for (let j = Math.max(0, Math.floor(y - radius)); j < Math.min(this.height, y + radius); j++)
      for (let i = Math.max(0, Math.floor(x - radius)); i < Math.min(this.width, x + radius); i++)
        if (Math.hypot(i + 0.5 - x, j + 0.5 - y) <= Math.max(0.71, radius)) this.mask[j * this.width + i] = on ? 255 : 0;
  }

  draw() {
    if (!this.picture) return;
    const image = rgba(this.picture, 0, this.width * this.height, this.channels);
    for (let i = 0; i < this.mask.length; i++) {
      if (!this.mask[i]) continue;
      image[4 * i] = (image[4 * i] + 2 * 242) / 3; image[4 * i + 1] = (image[4 * i + 1] + 2 * 120) / 3; image[4 * i + 2] = (image[4 * i + 2] + 2 * 40) / 3;
    }
    this.context.putImageData(new ImageData(image, this.width, this.height), 0, 0);
    if (this.cursor && document.activeElement === this.canvas) {
      this.context.strokeStyle = "#f27828";
      this.context.lineWidth = 0.5;
      this.context.beginPath();
      this.context.arc(this.cursor[0], this.cursor[1], Math.max(1, Number(this.size.value) / 2), 0, 7);
      this.context.stroke();
    }
  }
}
