// Error by calls on logarithmic axes, with a legend and a table of the same numbers.

const COLOURS = [
  ["#0e5c63", "#6fd0c8"], ["#a8480f", "#f2a65a"], ["#5a3d9a", "#b9a3f5"], ["#2f6b1e", "#93cf7d"], ["#9a2a5b", "#f08dba"],
  ["#345a9c", "#8fb6f5"],
];
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 4", "10 4"];

export class Chart {
  constructor(place, table) {
    this.place = place; this.table = table;
    this.clear();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() { this.kept = []; this.live = null; this.none = null; this.calls = null; this.draw(); }

  begin(name) { this.live = { name, points: [] }; this.none = null; this.draw(); }

  message({ none, accuracy, scale, closed, calls, error }) {
    if (none) { this.none = none; this.live = null; }
    if (accuracy !== undefined) { this.accuracy = accuracy; this.scale = scale; this.closed = closed; }
    if (calls && error !== null && this.live) this.live.points.push([calls, error]);
    this.draw();
  }

  pin() {
    if (!this.live?.points.length) return;
    this.kept = [...this.kept.filter((c) => c.name !== this.live.name), this.live].slice(-5);
    this.draw();
  }

  unpin() { this.kept = []; this.draw(); }

  draw() {
    const curves = [...(this.live ? [this.live] : []), ...this.kept.filter((c) => c.name !== this.live?.name)];
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const W = 316, H = 236, left = 44, right = 8, top = 8, bottom = 32;
    const all = curves.flatMap((c) => c.points.map((p) => Math.max(p[1], 1e-12)));
    if (this.accuracy > 0) all.push(this.accuracy);
    const low = Math.floor(Math.log10(Math.min(...all, all.length ? 0.1 : 1e-4))), high = Math.ceil(Math.log10(Math.max(...all, 1)));
    const X = (calls) => left + (Math.log2(calls) / Math.log2(96)) * (W - left - right);
    const Y = (error) => top + ((high - Math.log10(Math.max(error, 1e-12))) / (high - low)) * (H - top - bottom);
    const parts = [];
    const stride = Math.ceil((high - low) / 6);
    for (let e = low; e <= high; e += stride) {
      parts.push(`<line class="grid" x1="${left}" x2="${W - right}" y1="${Y(10 ** e)}" y2="${Y(10 ** e)}"/>`);
      parts.push(`<text x="${left - 7}" y="${Y(10 ** e) + 4}" text-anchor="end">10<tspan dy="-4" font-size="9">${e < 0 ? "−" : ""}${Math.abs(e)}</tspan></text>`);
    }
    for (const calls of [1, 2, 4, 8, 16, 32, 64]) {
      parts.push(`<line class="grid" y1="${top}" y2="${H - bottom}" x1="${X(calls)}" x2="${X(calls)}"/>`);
      parts.push(`<text x="${X(calls)}" y="${H - bottom + 15}" text-anchor="middle">${calls}</text>`);
    }
    parts.push(`<text x="${(left + W - right) / 2}" y="${H - 3}" text-anchor="middle">calls of the field</text>`);
    if (this.accuracy > 0) parts.push(`<line class="floor" x1="${left}" x2="${W - right}" y1="${Y(this.accuracy)}" y2="${Y(this.accuracy)}"/>`);
    if (this.calls && this.calls <= 96) parts.push(`<line class="now" x1="${X(this.calls)}" x2="${X(this.calls)}" y1="${top}" y2="${H - bottom}"/>`);
    curves.forEach((curve, k) => {
      const line = curve.points.map(([calls, error]) => `${X(calls)},${Y(error)}`).join(" ");
      const colour = COLOURS[k % 6][+dark];
      parts.push(`<polyline points="${line}" fill="none" stroke="${colour}" stroke-width="2" stroke-dasharray="${DASHES[k % 6]}"/>`);
      for (const [calls, error] of curve.points) parts.push(`<circle cx="${X(calls)}" cy="${Y(error)}" r="2.6" fill="${colour}"/>`);
    });
    const said = this.none ?? (curves.length ? `Error by calls of ${curves.map((c) => c.name).join(", ")}` : "Error by calls");
    const svg = `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="${escape(said)}">${parts.join("")}</svg>`;
    const legend = curves.map((curve, k) => {
      const colour = COLOURS[k % 6][+dark];
      return `<li><svg viewBox="0 0 22 10" aria-hidden="true"><line x1="0" x2="22" y1="5" y2="5" stroke="${colour}" stroke-width="2.4" stroke-dasharray="${DASHES[k % 6]}"/></svg>${escape(curve.name)}</li>`;
    });
    const floor = this.closed ? "<li>The exact flow is known in closed form.</li>"
      : this.accuracy > 0 ? `<li><svg viewBox="0 0 22 10" aria-hidden="true"><line x1="0" x2="22" y1="5" y2="5" class="floor" stroke="currentColor" stroke-dasharray="3 4"/></svg>precision of the reference, ${this.accuracy.toExponential(1)}</li>` : "";
    this.place.innerHTML = this.none ? `<p class="hint">No curve: ${escape(this.none)}.</p>` + (curves.length ? svg : "") : svg;
    this.place.insertAdjacentHTML("beforeend", `<ul id="legend">${legend.join("")}${floor}</ul>`);
    this.tabulate(curves);
  }

  tabulate(curves) {
    const calls = [...new Set(curves.flatMap((c) => c.points.map((p) => p[0])))].sort((a, b) => a - b);
    const head = curves.map((c) => `<th scope="col">${escape(c.name)}</th>`).join("");
    const rows = calls.map((n) => `<tr><th scope="row">${n}</th>${curves.map((c) => {
      const found = c.points.find((p) => p[0] === n);
      return `<td>${found ? found[1].toExponential(2) : "–"}</td>`;
    }).join("")}</tr>`);
    this.table.innerHTML = `<table><thead><tr><th scope="col">calls</th>${head}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
  }
}

export function escape(text) {
  return String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
