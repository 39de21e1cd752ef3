// Samples that are pictures: a grid of buttons, one of which may be selected.

export class Pictures {
  constructor(place, onSelect) {
    this.place = place;
    this.onSelect = onSelect;
    this.selected = null;
    this.tiles = [];
  }

  show(frame) {
    const { n, width, height, channels } = frame;
    if (this.tiles.length !== n || this.width !== width || this.height !== height) this.build(n, width, height);
    const size = width * height;
    for (let k = 0; k < n; k++) {
      const image = rgba(frame.pictures, k * size * channels, size, channels);
      this.tiles[k].context.putImageData(new ImageData(image, width, height), 0, 0);
    }
    this.bytes = frame.pictures;
    this.channels = channels;
  }

  build(n, width, height) {
    this.width = width; this.height = height;
    this.selected = null;
    const columns = columnsOf(n);
    this.place.style.setProperty("--columns", columns);
    this.place.style.setProperty("--ratio", `${width} / ${height}`);
    this.place.replaceChildren();
    this.tiles = Array.from({ length: n }, (_, k) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "tile";
      button.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-label", `Sample ${k + 1}`);
      const canvas = document.createElement("canvas");
      canvas.width = width; canvas.height = height;
      button.append(canvas);
      button.addEventListener("click", () => this.select(this.selected === k ? null : k));
      this.place.append(button);
      return { button, canvas, context: canvas.getContext("2d") };
    });
    this.onSelect(null);
  }

  name(words) { this.tiles.forEach(({ button }, k) => button.setAttribute("aria-label", `Sample ${k + 1}${words(k)}`)); }

  select(k) {
    this.selected = k;
    this.tiles.forEach(({ button }, i) => button.setAttribute("aria-pressed", String(i === k)));
    this.onSelect(k);
  }

  // The bytes (H, W, C) of a sample.
  of(k) {
    const size = this.width * this.height * this.channels;
    return this.bytes.slice(k * size, (k + 1) * size);
  }
}

// Near a square, with few places left empty.
function columnsOf(n) {
  const least = Math.min(8, Math.ceil(Math.sqrt(n)));
  let best = least;
  for (let c = least; c <= Math.min(8, least + 2); c++) if ((c - (n % c)) % c < (best - (n % best)) % best) best = c;
  return best;
}

export function rgba(bytes, from, size, channels) {
  const out = new Uint8ClampedArray(4 * size);
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) out[4 * i + c] = bytes[from + i * channels + (channels === 3 ? c : 0)];
    out[4 * i + 3] = 255;
  }
  return out;
}

// A file as bytes (H, W, C) of these sides, cut to their ratio, over white.
export async function fromFile(file, width, height, channels) {
  if (file.size > 30e6) throw new Error("the file is larger than 30 MB");
  let image;
  try { image = await createImageBitmap(file); } catch { throw new Error("this browser cannot read that file as a picture"); }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  const scale = Math.max(width / image.width, height / image.height);
  const w = image.width * scale, h = image.height * scale;
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  const data = context.getImageData(0, 0, width, height).data;
  const out = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    if (channels === 3) out.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
    else out[i] = Math.round(0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]);
  }
  return out;
}

export function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}
