// The page: settings in the form and in the address, drawings by the websocket, and what is shown of them.

import { Brush } from "./brush.js";
import { Chart, escape } from "./chart.js";
import { FIRST, Own } from "./own.js";
import { base64, fromFile, Pictures, rgba } from "./pictures.js";
import { Plane } from "./plane.js";
import { bounded, DEFAULTS, fromHash, toHash, toPython } from "./settings.js";
import { Wire } from "./wire.js";

const $ = (id) => document.getElementById(id);
const form = $("controls");
const PATHS = {
  condot: "CondOT, straight lines", cosine: "Cosine", vp: "VP, linear β(t)", subvp: "sub-VP", ve: "VE", edm: "EDM",
};

let catalogue = null;
let { settings, view, given } = fromHash(location.hash);
let job = 0;              // number of the last drawing asked for
let running = null;       // {job, settings} while it is drawn
let drawn = null;         // settings of what is shown
let uploads = { picture: null, control: null };
let timer = null;
let editing = false;

const plane = new Plane($("plane"), (time, playing) => {
  $("time").value = time;
  $("time").setAttribute("aria-valuetext", `t = ${time.toFixed(2)}`);
  $("time-out").textContent = `t = ${time.toFixed(2)}`;
  $("play").classList.toggle("on", playing);
  $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  $("clock").textContent = `${clockWords(time)}`;
});
const chart = new Chart($("chart"), $("chart-table"));
const pictures = new Pictures($("pictures"), (k) => { $("use-sample").disabled = k === null || !subject()?.edit; });
const brush = new Brush($("brush"), $("brush-size"), $("brush-erase"), () => { maskNote(); changed(); });
const own = new Own($("own"), plane, (components) => { settings.components = components; changed(); });

const wire = new Wire({
  open: () => status("connected, loading models…", false),
  closed: () => {
    status("no connection, trying again…", false);
    if (running) { running.lost = true; working("the connection was lost; the drawing starts again when it is back"); }
  },
  message: receive,
  frame: (frame) => {
    if (!running || frame.job !== running.job) return;
    if (frame.pictures) { pictures.show(frame); nameTiles(); } else plane.add(frame);
    if (frame.points) progress(frame.step, frame.steps);
  },
});

// Messages.

function receive(message) {
  if (message.type === "catalogue") return ready(message.catalogue);
  if (message.type === "refused") { const first = message.refused[0]; return failed(`${first.where}: ${first.what}`); }
  if (!running || message.job !== running.job) return;
  ({
    waiting: ({ place, of }) => working(`number ${place} of ${of} in the queue`),
    started: () => working("drawing…"),
    progress: ({ done, total }) => progress(done, total),
    note: ({ note }) => { running.note = note; working(note); },
    curve: (curve) => { chart.message(curve); if (curve.calls) working("measuring the error by calls…"); },
    drawn: (about) => { plane.end(); facts(about); working(""); progress(0, 0); saving(true); },
    done: (about) => finished(about),
    cancelled: () => stopped("cancelled"),
    error: ({ error }) => failed(error),
  })[message.type]?.(message);
}

function ready(found) {
  const first = !catalogue;
  catalogue = found;
  status(`ready, on ${found.device === "cpu" ? "CPU" : found.device}`, true);
  $("status").title = `pushforward ${found.version}`;
  if (!catalogue.subjects[settings.subject] || (settings.subject === "own" && !settings.components.length && !given.has("own"))) {
    if (settings.subject !== "own") failed(`there is no ${settings.subject} here; this is ${catalogue.subjects[DEFAULTS.subject].title}`);
    if (settings.subject !== "own") settings.subject = DEFAULTS.subject; else settings.components = FIRST;
  }
  if (first) { options(); defaults(given); fill(); draw(); } else if (running?.lost) draw();
}

function subject() { return catalogue?.subjects[settings.subject]; }

// Drawing.

function asked() {
  const sent = {};
  for (const name of Object.keys(DEFAULTS)) sent[name] = settings[name];
  const what = subject();
  if (settings.subject !== "own") sent.components = [];
  if (!what.prompt) { sent.prompt = ""; sent.negative = ""; }
  if (!what.exact || what.kind !== "plane") sent.path = DEFAULTS.path;
  if (!what.guidance || (!what.prompt && settings.label === null) || (what.prompt && !settings.prompt)) sent.guidance = 1;
  if (sent.guidance === 1) sent.negative = "";
  if (what.kind === "plane") { sent.strength = DEFAULTS.strength; sent.curve = true; } else sent.curve = false;
  if (what.edit && editing && uploads.picture) {
    sent.picture = base64(uploads.picture);
    if (!brush.empty) sent.mask = base64(brush.mask);
  }
  if (what.control && uploads.control) sent.control = base64(uploads.control);
  return sent;
}

function draw() {
  clearTimeout(timer);
  if (!catalogue) return;
  const what = subject();
  if (what.control && !uploads.control) return stopped(`choose a hint (${what.control}) that steers the drawing`);
  const sent = asked();
  const before = drawn;
  job += 1;
  running = { job, settings: sent };
  drawn = { ...sent };
  message("");
  if (!wire.send({ type: "start", job, settings: sent })) { running.lost = true; return working("no connection yet"); }
  working("asked…");
  if (what.kind === "plane") {
    const same = before && ["subject", "path"].every((n) => before[n] === sent[n]);
    if (!same) chart.clear();
    plane.begin(what.extent, same && !plane.playing && plane.frames.length > 0);
    chart.calls = sent.calls;
    chart.begin(curveName(sent));
  }
  $("draw").classList.remove("changed");
  $("cancel").disabled = false;
  saving(false);
  describe();
}

function cancel() { if (running) wire.send({ type: "cancel", job: running.job }); }

function finished(about) {
  if (subject().kind === "plane") plane.end();
  facts(about);
  const note = running.note;
  stopped(note ?? "");
  saving(true);
}

function stopped(words) {
  running = null;
  progress(0, 0);
  working(words);
  $("cancel").disabled = true;
}

function failed(words) { stopped(""); message(words); }

function curveName(s) {
  const parts = [s.solver === "auto" ? "best known" : s.solver];
  if (s.grid !== "auto") parts.push(`${s.grid} times`);
  if (s.guidance !== 1) parts.push(`guidance ${s.guidance}`);
  return parts.join(", ");
}

// The form.

function options() {
  const groups = { "Exact laws": [], Runs: [] };
  for (const [name, each] of Object.entries(catalogue.subjects)) groups[each.exact ? "Exact laws" : "Runs"].push([name, each.title]);
  form.elements.subject.replaceChildren(...Object.entries(groups).filter(([, l]) => l.length).map(([title, list]) => group(title, list)));
  form.elements.path.replaceChildren(...catalogue.paths.map((name) => new Option(PATHS[name] ?? name.replace("ddpm-", "DDPM, "), name)));
  const solvers = Object.entries(catalogue.solvers);
  const words = ([name, s]) => [name, `${name}${s.calls === 0 ? " · adaptive" : s.calls > 1 ? ` · ${s.calls} calls a step` : ""}`];
  form.elements.solver.replaceChildren(
    new Option("auto · the best known", "auto"),
    group("Along the flow", solvers.filter(([, s]) => !s.stochastic).map(words)),
    group("With noise", solvers.filter(([, s]) => s.stochastic).map(words)),
  );
  form.elements.grid.replaceChildren(new Option("auto · the solver's own", "auto"), ...catalogue.grids.map((g) => new Option(g, g)));
}

function group(title, list) {
  const found = document.createElement("optgroup");
  found.label = title;
  found.append(...list.map(([value, text]) => new Option(text, value)));
  return found;
}

// What fits another subject: so many samples, its own calls, and its best solver.
function defaults(kept = new Set()) {
  const what = subject();
  if (!kept.has("num")) settings.num = what.kind === "plane" ? 600 : Math.min(16, what.most, Math.max(1, what.present?.length || 16));
  if (!kept.has("calls")) settings.calls = what.exact ? 20 : Math.min(what.calls, 30);
  if (!kept.has("solver")) settings.solver = what.exact ? "heun" : "auto";
  if (!kept.has("label")) settings.label = null;
  if (!kept.has("prompt") && what.prompt) settings.prompt = "a red circle";
  if (!kept.has("guidance")) settings.guidance = what.prompt ? 2 : 1;
  if (what.kind !== "plane") settings.num = Math.min(settings.num, what.most);
}

function fill() {
  const what = subject();
  const shown = {
    law: what.exact, prompt: what.prompt, classes: what.classes.length > 0, guidance: what.guidance, control: !!what.control,
    edit: !!what.edit, plane: what.kind === "plane", noise: !what.source,
  };
  for (const each of document.querySelectorAll("[data-for]")) each.hidden = !shown[each.dataset.for];
  $("conditions").hidden = !(shown.prompt || shown.classes || shown.guidance || shown.control);
  $("plane-stage").hidden = what.kind !== "plane";
  $("pictures").hidden = what.kind === "plane";
  form.elements.num.max = what.kind === "plane" ? catalogue.limits.points : what.most;
  form.elements.num.step = what.kind === "plane" ? 50 : 1;
  form.elements.num.min = what.kind === "plane" ? 50 : 1;
  form.elements.calls.max = what.kind === "plane" ? 100 : 100;
  const classes = settings.subject === "own" ? [...new Set(settings.components.map((c) => String(c.label)))].sort() : what.classes;
  const numbers = settings.subject === "own" ? classes.map(Number) : classes.map((_, k) => k);
  form.elements.label.replaceChildren(
    new Option(what.exact ? "any" : "all in turn", ""), ...(what.exact ? [] : [new Option("none", "-1")]),
    ...classes.map((name, k) => new Option(name, numbers[k])),
  );
  if (settings.label !== null && settings.label >= 0 && !numbers.includes(settings.label)) settings.label = null;
  for (const [name, value] of Object.entries(settings)) {
    const input = form.elements[name];
    if (input) input.value = value ?? "";
  }
  for (const input of form.querySelectorAll(".range input")) outputOf(input);
  for (const box of document.querySelectorAll("[data-layer]")) box.checked = view.layers.includes(box.dataset.layer);
  plane.layers = view.layers;
  $("about-subject").textContent = about(what);
  $("control-name").textContent = what.control ? `(${what.control})` : "";
  own.show(settings.subject === "own", settings.components);
  $("about-guidance").textContent = !what.prompt && settings.label === null ? "Guidance acts once a class is chosen." : "1 is none; more is stronger.";
  form.elements.guidance.disabled = !what.prompt && settings.label === null;
  describe();
}

function outputOf(input) {
  const text = { num: (v) => v, calls: (v) => v, mix: (v) => `${Math.round(100 * v)} %`, strength: (v) => `${Math.round(100 * v)} %` }[input.name];
  const output = input.parentElement.querySelector("output");
  if (output) output.textContent = text ? text(Number(input.value)) : Number(input.value).toFixed(input.step === "0.05" ? 2 : 1);
}

function about(what) {
  if (what.exact) return "Velocity, score and density are known in closed form.";
  const parts = [];
  if (what.kind === "pictures") parts.push(`pictures of ${what.pixels[2]} × ${what.pixels[1]}`);
  if (what.path) parts.push(`trained on ${what.path}`);
  if (what.map) parts.push("a flow map: one call, or a few");
  if (what.source) parts.push(`from ${what.source}`);
  return `${parts.join(", ")}.`;
}

function changed() {
  history.replaceState(null, "", `#${toHash(settings, view)}`);
  describe();
  if (!catalogue) return;
  $("draw").classList.add("changed");
  if (subject().kind !== "plane") return;
  clearTimeout(timer);
  timer = setTimeout(draw, 140);
}

function read(input) {
  const { name } = input;
  if (name === "label") settings.label = input.value === "" ? null : Number(input.value);
  else if (typeof DEFAULTS[name] === "number") {
    if (input.value === "" || !Number.isFinite(Number(input.value))) return;
    settings[name] = bounded(name, Number(input.value));
  } else settings[name] = input.value;
  if (name === "subject") {
    if (settings.subject === "own" && !settings.components.length) settings.components = FIRST;
    uploads = { picture: null, control: null };
    $("control-canvas").hidden = true;
    dropPicture();
    defaults();
    cancel();
    message("");
    fill();
    history.replaceState(null, "", `#${toHash(settings, view)}`);
    pictures.place.replaceChildren(); pictures.tiles = [];
    draw();
    return;
  }
  if (input.type === "range") outputOf(input);
  if (name === "label" || name === "prompt") {
    form.elements.guidance.disabled = !subject().prompt && settings.label === null;
    $("about-guidance").textContent = form.elements.guidance.disabled ? "Guidance acts once a class is chosen." : "1 is none; more is stronger.";
  }
  changed();
}

form.addEventListener("input", (event) => { if (event.target.name && event.target.tagName !== "SELECT") read(event.target); });
form.addEventListener("change", (event) => { if (event.target.tagName === "SELECT") read(event.target); });
document.querySelector('[name="show"]').addEventListener("change", (event) => read(event.target));
form.addEventListener("submit", (event) => { event.preventDefault(); draw(); });
$("cancel").addEventListener("click", () => { working("stopping…"); cancel(); });
window.addEventListener("hashchange", () => {
  ({ settings, view, given } = fromHash(location.hash));
  if (!catalogue) return;
  if (!catalogue.subjects[settings.subject]) settings.subject = DEFAULTS.subject;
  if (settings.subject === "own" && !settings.components.length) settings.components = FIRST;
  defaults(given);
  fill();
  draw();
});
$("copy").addEventListener("click", async () => {
  history.replaceState(null, "", `#${toHash(settings, view)}`);
  try { await navigator.clipboard.writeText(location.href); working("the link is copied"); } catch { working("copy the address of this page: it holds all settings"); }
});

// The plane's own controls.

$("play").addEventListener("click", () => {
  if (!plane.playing && plane.time >= 0.999) plane.time = 0;
  plane.play(!plane.playing);
});
$("time").addEventListener("input", () => plane.seek(Number($("time").value)));
$("speed").addEventListener("change", () => { plane.speed = Number($("speed").value); });
for (const box of document.querySelectorAll("[data-layer]")) {
  box.addEventListener("change", () => {
    view.layers = [...document.querySelectorAll("[data-layer]")].filter((b) => b.checked).map((b) => b.dataset.layer).join("");
    plane.layers = view.layers;
    plane.dirty();
    history.replaceState(null, "", `#${toHash(settings, view)}`);
  });
}
$("pin").addEventListener("click", () => chart.pin());
$("unpin").addEventListener("click", () => chart.unpin());
document.addEventListener("keydown", (event) => {
  const busy = event.target.closest("input, select, textarea, button, summary, [role=application]");
  if (event.key === " " && !busy && subject()?.kind === "plane") { event.preventDefault(); $("play").click(); }
  if (event.key === "Escape" && running) cancel();
});

// Pictures, masks and hints.

async function take(input, channels, use) {
  const [, height, width] = subject().pixels;
  try { use(await fromFile(input.files[0], width, height, channels)); message(""); } catch (error) { message(error.message); }
}

function usePicture(bytes) {
  const [channels, height, width] = subject().pixels;
  uploads.picture = bytes;
  editing = true;
  brush.set(bytes, width, height, channels);
  $("editor").hidden = $("drop-picture").hidden = false;
  maskNote();
  changed();
}

function dropPicture() {
  uploads.picture = null;
  editing = false;
  $("picture-file").value = "";
  $("editor").hidden = $("drop-picture").hidden = true;
}

function maskNote() { $("mask-note").textContent = brush.empty ? "No mask: the whole picture changes." : "Only what is painted changes."; }

$("picture-file").addEventListener("change", (event) => event.target.files[0] && take(event.target, subject().pixels[0], usePicture));
$("use-sample").addEventListener("click", () => usePicture(pictures.of(pictures.selected)));
$("drop-picture").addEventListener("click", () => { dropPicture(); changed(); });
$("mask-clear").addEventListener("click", () => brush.clear());
$("control-file").addEventListener("change", (event) => event.target.files[0] && take(event.target, 1, (bytes) => {
  const [, height, width] = subject().pixels;
  uploads.control = bytes;
  const canvas = $("control-canvas");
  canvas.width = width; canvas.height = height; canvas.hidden = false;
  canvas.getContext("2d").putImageData(new ImageData(rgba(bytes, 0, width * height, 1), width, height), 0, 0);
  changed();
  draw();
}));

function nameTiles() {
  const what = subject();
  const classes = what.present ?? [];
  const label = running?.settings.label ?? null;
  pictures.name((k) => {
    if (running?.settings.prompt) return `, ${running.settings.prompt}`;
    if (label !== null) return label < 0 ? "" : `, class ${what.classes[label]}`;
    return classes.length ? `, class ${what.classes[classes[k % classes.length]]}` : "";
  });
}

// Files.

for (const kind of ["png", "npz"]) {
  $(`save-${kind}`).addEventListener("click", async () => {
    const button = $(`save-${kind}`);
    button.disabled = true;
    working(`writing the ${kind.toUpperCase()} file…`);
    try {
      const answer = await fetch(`/api/draw?form=${kind}`, {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(drawn),
      });
      if (!answer.ok) throw new Error((await answer.json()).error ?? `the server answered ${answer.status}`);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await answer.blob());
      link.download = `${drawn.subject.replace(/[^\w.-]+/g, "-")}-${drawn.seed}.${kind}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      working("");
    } catch (error) { message(error.message); working(""); }
    button.disabled = false;
  });
}

// Words.

function status(words, on) { $("status").textContent = words; $("status").classList.toggle("on", on); }
function working(words) { $("work").textContent = words; }
function message(words) { $("message").textContent = words; $("message").hidden = !words; }
function saving(on) { $("save-png").disabled = $("save-npz").disabled = !on; }
function progress(done, total) {
  $("progress").classList.toggle("on", total > 0 && done < total);
  $("progress").max = total || 1;
  $("progress").value = done;
}
function clockWords(time) { return time <= 0.001 ? "t = 0, noise" : time >= 0.999 ? "t = 1, data" : `t = ${time.toFixed(2)}`; }
function facts(about) {
  const rows = [];
  if (about.calls) rows.push(["Calls of the field", about.calls]);
  if (about.steps) rows.push(["Steps", about.steps]);
  if (about.seconds !== undefined) rows.push(["Time", about.seconds < 1 ? `${Math.round(1000 * about.seconds)} ms` : `${about.seconds.toFixed(1)} s`]);
  if (about.log_p !== undefined) {
    rows.push(["Mean ln p of the samples", signed(about.log_p)], ["of the law's own", signed(about.log_p_law)]);
  }
  if (about.off) rows.push(["Samples off the law", `${(100 * about.off).toFixed(1)} %`]);
  if (rows.length) $("facts").innerHTML = rows.map(([name, value]) => `<dt>${escape(name)}</dt><dd>${escape(value)}</dd>`).join("");
}
function signed(value) { return value.toFixed(3).replace("-", "−"); }
function describe() { if (catalogue) $("code").textContent = toPython(settings, subject()); }
