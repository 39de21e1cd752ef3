// Settings: their defaults, and their short form in the address of the page.

export const DEFAULTS = {
  subject: "8gaussians", components: [], path: "condot", solver: "heun", grid: "auto", calls: 20, guidance: 1,
  label: null, prompt: "", negative: "", seed: 0, second: 1, mix: 0, num: 600, show: "velocity", strength: 0.6,
  control_strength: 1,
};
// Seen by this page alone.
export const VIEW = { layers: "pwfd" };

const NUMBERS = new Set(["calls", "guidance", "seed", "second", "mix", "num", "strength", "control_strength"]);
const WHOLE = new Set(["calls", "seed", "second", "num"]);
const RANGES = {
  calls: [1, 200], guidance: [0, 30], seed: [0, 2 ** 32 - 1], second: [0, 2 ** 32 - 1], mix: [0, 1], num: [1, 4000],
  strength: [0, 1], control_strength: [0, 3],
};

export function toHash(settings, view) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...settings, ...view })) {
    const usual = { ...DEFAULTS, ...VIEW }[name];
    if (name === "components") {
      if (settings.subject === "own") query.set("own", value.map((c) => [c.x, c.y, c.std, c.weight, c.label].join("_")).join("~"));
    } else if (value !== usual && value !== null && value !== undefined) query.set(name, value);
  }
  return query.toString();
}

// What is wrong or unknown in an address is passed over.
export function fromHash(hash) {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const settings = { ...DEFAULTS };
  const view = { ...VIEW };
  const given = new Set();
  for (const [name, text] of query) {
    if (name === "own") {
      settings.components = text.split("~").slice(0, 12).map((part) => {
        const [x, y, std, weight, label] = part.split("_").map(Number);
        return component({ x, y, std, weight, label });
      });
    } else if (name === "label") {
      const label = Number(text);
      if (Number.isInteger(label)) settings.label = label;
    } else if (name in VIEW) view[name] = text.slice(0, 8);
    else if (NUMBERS.has(name)) {
      const value = Number(text);
      if (text !== "" && Number.isFinite(value)) settings[name] = bounded(name, value);
    } else if (name in DEFAULTS && name !== "components") settings[name] = text.slice(0, 400);
    given.add(name);
  }
  return { settings, view, given };
}

export function bounded(name, value) {
  const [low, high] = RANGES[name];
  const inside = Math.min(high, Math.max(low, value));
  return WHOLE.has(name) ? Math.round(inside) : inside;
}

export function component({ x = 0, y = 0, std = 0.4, weight = 1, label = 0 }) {
  const number = (value, low, high, usual) => (Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : usual);
  const round = (value) => Math.round(value * 1000) / 1000;
  return {
    x: round(number(x, -20, 20, 0)), y: round(number(y, -20, 20, 0)), std: round(number(std, 0.02, 10, 0.4)),
    weight: round(number(weight, 0.001, 1000, 1)), label: Math.round(number(label, 0, 11, 0)),
  };
}

// The same drawing in Python.
export function toPython(s, subject) {
  const own = s.subject === "own";
  const lines = ["import pushforward as pf", ""];
  const guided = s.guidance !== 1;
  if (subject.exact) {
    lines.push("from pushforward.recipes.choices import PATHS, SOLVERS, grid", "from pushforward.serve import laws", "");
    lines.push(`path = PATHS[${q(s.path)}].make()`);
    if (own) {
      lines.push("law = pf.GaussianMixture(");
      const total = s.components.reduce((sum, c) => sum + c.weight, 0);
      lines.push(`    [${s.components.map((c) => `[${c.x}, ${c.y}]`).join(", ")}],`);
      lines.push(`    [${s.components.map((c) => `${c.std}**2`).join(", ")}],`);
      lines.push(`    [${s.components.map((c) => `${c.weight} / ${total}`).join(", ")}],`);
      lines.push(`    labels=[${s.components.map((c) => c.label).join(", ")}],`, ")");
    } else lines.push(`law = laws.LAWS[${q(s.subject)}].make()`);
    lines.push("model = law.field(path)");
  } else {
    lines.push("from pushforward.recipes.choices import SOLVERS, grid", "");
    lines.push(`model = pf.load("runs/${s.subject.slice(4)}")`);
    lines.push("path = model.path");
  }
  const args = [`${s.num}`, `nfe=${s.calls}`, `seed=${s.seed}`];
  if (s.solver !== "auto") args.push(`solver=SOLVERS[${q(s.solver)}].make(path=path)`);
  if (s.grid !== "auto") args.push(`grid=grid(${q(s.grid)})`);
  if (s.label !== null) args.push(`label=${s.label}`);
  if (s.prompt) args.push(`prompt=${q(s.prompt)}`);
  if (guided) args.push(`guidance=${s.guidance}`);
  if (guided && s.negative) args.push(`negative={"prompt": ${q(s.negative)}}`);
  lines.push("x = pf.generate(", ...["model", ...args].map((a) => `    ${a},`), ")");
  return lines.join("\n");
}

const q = (text) => JSON.stringify(text);
