// A law of the user's own: Gaussians placed by pointer on the plane, or by numbers in a table.

import { component } from "./settings.js";

const FIELDS = [["x", "x", -20, 20, 0.1], ["y", "y", -20, 20, 0.1], ["std", "spread", 0.02, 10, 0.05], ["weight", "weight", 0.001, 1000, 0.1], ["label", "class", 0, 11, 1]];

export class Own {
  constructor(place, plane, onChange) {
    this.place = place; this.plane = plane; this.onChange = onChange;
    this.components = [];
    const canvas = plane.canvas;
    canvas.addEventListener("pointerdown", (event) => this.active && this.down(event));
    canvas.addEventListener("pointermove", (event) => this.held !== null && this.active && this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { this.held = null; });
    this.held = null;
  }

  show(active, components) {
    this.active = active;
    this.components = components;
    this.place.hidden = !active;
    this.plane.own = active ? components : null;
    this.plane.canvas.classList.toggle("placing", active);
    this.plane.dirty();
    if (active) this.table();
  }

  down(event) {
    const here = this.plane.where(event);
    const near = this.components.findIndex((c) => Math.hypot(c.x - here.x, c.y - here.y) < Math.max(0.25, Math.min(c.std, 0.7)));
    if (near >= 0) this.held = near;
    else if (this.components.length < 12) {
      this.change([...this.components, component({ ...here, label: this.components.length % 12 })]);
      this.held = this.components.length - 1;
    }
    this.plane.canvas.setPointerCapture(event.pointerId);
  }

  move(event) {
    const next = [...this.components];
    next[this.held] = component({ ...next[this.held], ...this.plane.where(event) });
    this.change(next, true);
  }

  change(components) {
    this.components = components;
    this.plane.own = components;
    this.plane.dirty();
    this.table();
    this.onChange(components);
  }

  table() {
    const focused = document.activeElement?.dataset?.cell;
    const head = FIELDS.map(([, title]) => `<th scope="col">${title}</th>`).join("");
    const rows = this.components.map((c, k) => `<tr>${FIELDS.map(([name, title, low, high, step]) =>
      `<td><input type="number" data-cell="${k}-${name}" aria-label="${title} of Gaussian ${k + 1}" min="${low}" max="${high}" step="${step}" value="${c[name]}"></td>`).join("")}<td><button type="button" class="quiet" data-drop="${k}" aria-label="Remove Gaussian ${k + 1}">×</button></td></tr>`);
    this.place.innerHTML = `<p class="hint">Click in the plane to add a Gaussian, drag to move it.</p><table><thead><tr>${head}<td></td></tr></thead><tbody>${rows.join("")}</tbody></table><button type="button" class="quiet" data-add>Add a Gaussian</button>`;
    for (const input of this.place.querySelectorAll("input")) {
      input.addEventListener("change", () => {
        const [k, name] = input.dataset.cell.split("-");
        const next = [...this.components];
        next[k] = component({ ...next[k], [name]: Number(input.value) });
        this.change(next);
      });
    }
    for (const button of this.place.querySelectorAll("[data-drop]")) {
      button.disabled = this.components.length < 2;
      button.addEventListener("click", () => { this.change(this.components.filter((_, k) => k !== Number(button.dataset.drop))); this.place.querySelector("[data-add]").focus(); });
    }
    const add = this.place.querySelector("[data-add]");
    add.disabled = this.components.length >= 12;
    add.addEventListener("click", () => {
      const k = this.components.length;
      this.change([...this.components, component({ x: 3 * Math.cos(k * 2.4), y: 3 * Math.sin(k * 2.4), label: k })]);
      this.place.querySelector("[data-add]").focus();
    });
    if (focused) this.place.querySelector(`[data-cell="${focused}"]`)?.focus();
  }
}

export const FIRST = [[-2.2, -0.6, 0.5, 1, 0], [1.8, 1.4, 0.35, 1, 1], [1.2, -2, 0.25, 0.6, 2]].map(
  ([x, y, std, weight, label]) => component({ x, y, std, weight, label }));
