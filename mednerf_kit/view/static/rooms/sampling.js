// Sampling lab: a pixel is picked, its ray shown in space and along its length, and what every
// strategy of sampling makes of it.

import { address, json } from "../lib/api.js";
import { choice, download, h, shown, slider, tell, toggle } from "../lib/dom.js";
import { newest } from "../lib/newest.js";
import { key, plot } from "../lib/plot.js";
import { edges, space } from "../lib/space.js";

const MODELS = { line_integral: "X-ray", emission_absorption: "Emission and absorption" };
const STRATEGIES = {
  stratified: ["Stratified", "--a", "one sample in each of equal parts"],
  importance: ["Importance", "--b", "more where the coarse samples weigh most"],
  local: ["Local (L-NeRF)", "--c", "finer only where a coarse sample passes the threshold"],
  guided: ["Depth-guided", "--d", "half of them near a known depth"],
  occupancy: ["Occupancy", "--f", "no samples in cells known to be empty"],
};
const START = { what: "chest", patient: 0, view: null, row: null, col: null, mode: null, coarse: 32,
  fine: 64, seed: 0, jitter: 0, near: 0, far: 1, threshold: 5e-4, kappa: 0.4,
  strategy: "importance" };
const TEXT = new Set(["what", "mode", "strategy"]);

// A pixel: a grey value with four places, a colour with two each.
const value = (channels) => channels.map((v) => v.toFixed(channels.length > 1 ? 2 : 4)).join(" ");

function parsed(state) {
  const found = { ...START };
  for (const [name, value] of Object.entries(state)) {
    if (name in START) found[name] = TEXT.has(name) ? value : Number(value);
  }
  if (state.entry) found.what = state.entry;
  return found;
}

export async function open(root, state, page) {
  root.append(h("link", { rel: "stylesheet", href: "rooms/sampling.css" }));
  const now = parsed(state);
  const found = await page.entries("prior", "scene");
  const whats = [["chest", "Chest phantom"], ["knee", "Knee phantom"], ["blocks", "Scene “blocks”"],
    ...found.filter((one) => !one.problem).map((one) => [one.id,
      `${one.name} (${one.kind === "prior" ? "random patient" : "fitted scene"})`])];
  let subject = null, answers = {}, curves = {};

  const sheets = h("div", { class: "sheets" }), pictures = h("div", { class: "pictures" });
  const ray3d = space({ label: "The ray and its samples in space" });
  const budget = h("section", { class: "card", "aria-label": "Error against evaluations" });
  const seen = h("div", {}), problem = h("p", { class: "problem", role: "alert", hidden: true });
  const where = h("p", { class: "soft", "aria-live": "polite" });

  const models = () => (now.mode === "both" ? Object.keys(MODELS) : [now.mode]);
  const query = (model) => ({ what: now.what, patient: now.patient, view: now.view, row: now.row,
    col: now.col, model, coarse: now.coarse, fine: now.fine, seed: now.seed, jitter: now.jitter,
    near: now.near, far: now.far, threshold: now.threshold, kappa: now.kappa });

  function failed(error) {
    problem.hidden = false;
    problem.textContent = error.message;
  }

  const askRay = newest(async () => {
    root.setAttribute("aria-busy", "true");
    const asked = {};
    for (const model of models()) asked[model] = await json("sampling/ray", query(model));
    problem.hidden = true;
    answers = asked;
    drawSheets();
    drawSpace();
    askCurves();
  }, failed);

  const askCurves = newest(async () => {
    const asked = {};
    for (const model of models()) asked[model] = await json("sampling/curves", query(model));
    curves = asked;
    drawBudget();
    root.setAttribute("aria-busy", "false");
  }, failed);

  function change(values) {
    Object.assign(now, values);
    root.setAttribute("aria-busy", "true");
    page.setState({ ...now, entry: null });
    askRay();
  }

  // The subject and its pictures.
  const askSubject = newest(async () => {
    tell("Opening …");
    subject = await json("sampling/subject", { what: now.what, patient: now.patient });
    tell("");
    const last = subject.views.length - 1;
    if (now.view === null || now.view > last) now.view = subject.first_view;
    if (now.row === null || now.row >= subject.rows) now.row = Math.floor(subject.rows / 2);
    if (now.col === null || now.col >= subject.cols) now.col = Math.floor(subject.cols / 2);
    if (now.mode === null) now.mode = subject.image_model;
    drawChoice();
    drawPictures();
    change({});
  }, failed);

  function drawChoice() {
    const view = slider({ label: "View", min: 0, max: subject.views.length - 1, value: now.view,
      oninput: (value) => { now.view = value; named(); drawPictures(); change({}); } });
    const named = () => { view.querySelector("output").textContent = subject.views[now.view]; };
    named();
    seen.replaceChildren(view);
    mode.select.value = now.mode;
  }

  function drawPictures() {
    pictures.replaceChildren(...models().map((model) => {
      const canvas = h("canvas", { class: "pick", tabindex: 0, role: "application",
        width: subject.cols, height: subject.rows, "data-model": model,
        "aria-label": `${MODELS[model]} of ${subject.name}: a click picks a pixel, `
          + "arrow keys move it" });
      const image = new Image();
      image.onload = () => { canvas.image = image; drawCross(); };
      image.onerror = () => failed(new Error("This picture could not be rendered."));
      image.src = address("sampling/picture",
        { what: now.what, patient: now.patient, view: now.view, model });
      canvas.addEventListener("click", (event) => {
        const box = canvas.getBoundingClientRect();
        move(((event.clientY - box.top) / box.height) * subject.rows - 0.5,
          ((event.clientX - box.left) / box.width) * subject.cols - 0.5);
      });
      canvas.addEventListener("keydown", (event) => {
        const by = event.shiftKey ? 8 : 1;
        const step = { ArrowUp: [-by, 0], ArrowDown: [by, 0], ArrowLeft: [0, -by],
          ArrowRight: [0, by] }[event.key];
        if (!step) return;
        event.preventDefault();
        move(now.row + step[0], now.col + step[1]);
      });
      return h("figure", {}, canvas, h("figcaption", {}, MODELS[model]));
    }));
  }

  function move(row, col) {
    const within = (value, count) => Math.max(0, Math.min(count - 1, Math.round(value)));
    now.row = within(row, subject.rows);
    now.col = within(col, subject.cols);
    drawCross();
    change({});
  }

  function drawCross() {
    where.textContent = `Pixel row ${now.row}, column ${now.col}`;
    for (const canvas of pictures.querySelectorAll("canvas")) {
      const g = canvas.getContext("2d");
      if (canvas.image) g.drawImage(canvas.image, 0, 0, canvas.width, canvas.height);
      g.fillStyle = getComputedStyle(root).getPropertyValue("--b");
      const gap = 2;
      g.fillRect(now.col, 0, 1, now.row - gap);
      g.fillRect(now.col, now.row + gap + 1, 1, subject.rows);
      g.fillRect(0, now.row, now.col - gap, 1);
      g.fillRect(now.col + gap + 1, now.row, subject.cols, 1);
    }
  }

  // The ray in space: the box of what is there, the ray, and the chosen strategy's samples.
  function drawSpace() {
    const answer = answers[models()[0]];
    if (!answer) return;
    const at = (t) => answer.origin.map((v, i) => v + t * answer.direction[i]);
    const level = answer.strategies[now.strategy].levels.at(-1);
    const here = level.t.map((t, i) => [t, level.dt[i], level.w[i]]).filter(([, dt]) => dt > 0);
    const most = Math.max(...here.map(([, , w]) => w), 1e-12);
    const [low, high] = subject.box;
    const centre = low.map((v, i) => (v + high[i]) / 2);
    const reach = Math.hypot(...low.map((v, i) => (high[i] - v) / 2));
    ray3d.show([...edges(subject.box),
      { points: [at(Math.max(answer.near - 0.35 * reach, 0)), at(answer.far)], colour: "--ink",
        width: 1.5 },
      { points: here.map(([t]) => at(t)), line: false, colour: STRATEGIES[now.strategy][1],
        dots: here.map(([, , w]) => 1.5 + 4 * Math.sqrt(Math.max(w, 0) / most)) }],
    centre, reach);
  }

  // Along the ray: density, transmittance and weight, then the samples of every strategy.
  function drawSheets() {
    sheets.replaceChildren(...models().map((model) => sheet(model, answers[model])));
  }

  function sheet(model, answer) {
    const { near, far, curves: c } = answer, W = 600;
    const x = (t) => ((t - near) / Math.max(far - near, 1e-9)) * W;
    const strip = (height, ...inside) => h("svg", { class: "strip", height,
      viewBox: `0 0 ${W} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    h("line", { x1: 0, x2: W, y1: height, y2: height, stroke: "var(--line)" }), inside.flat());
    const curve = (values, most, colour) => {
      const points = values.map((v, i) => `${x(c.t[i]).toFixed(1)},${
        (56 - 54 * Math.min(v / most, 1)).toFixed(1)}`);
      return [h("polygon", { points: `${points[0].split(",")[0]},56 ${points.join(" ")} ${
        points.at(-1).split(",")[0]},56`, fill: colour, opacity: 0.16 }),
      h("polyline", { points: points.join(" "), fill: "none", stroke: colour,
        "stroke-width": 1.5 })];
    };
    const most = (values) => Math.max(...values, 1e-12);
    const rows = [
      ["Density σ", `per unit; up to ${shown(most(c.sigma))}`, c.sigma, most(c.sigma), "var(--soft)"],
      ["Transmittance T", "share of light still there; 1 to 0", c.T, 1, "var(--soft)"],
      ["Weight w", model === "line_integral" ? "share of the line integral"
        : "share of the pixel's colour", c.w, most(c.w), "var(--soft)"],
    ].map(([name, text, values, top, colour]) => h("tr", {},
      h("th", { scope: "row" }, name, h("small", {}, text)),
      h("td", {}, strip(56, curve(values, top, colour))), h("td", { colspan: 3 })));
    const reference = h("tr", { "data-reference": "" },
      h("th", { scope: "row" }, "Reference", h("small", {}, "dense even samples")), h("td", {}),
      h("td", { class: "number", "data-value": answer.reference.join(" ") },
        value(answer.reference)), h("td", { class: "number" }, "–"),
      h("td", { class: "number" }, String(answer.reference_evaluations)));
    const strategies = Object.entries(STRATEGIES).map(([name, [title, colour, text]]) => {
      const one = answer.strategies[name], level = one.levels.at(-1);
      const density = level.w.map((w, i) => (level.dt[i] > 0 ? w / level.dt[i] : 0));
      const top = most(density);
      const marks = level.t.map((t, i) => (level.dt[i] > 0 ? h("line", { x1: x(t), x2: x(t),
        y1: 30, y2: (22 - 22 * Math.min(density[i] / top, 1)).toFixed(1), stroke: `var(${colour})`,
        "stroke-width": 1 }) : null));
      return h("tr", { "data-strategy": name, "data-chosen": String(name === now.strategy),
        onclick: () => choose(name) },
      h("th", { scope: "row" }, h("button", { type: "button",
        "aria-pressed": String(name === now.strategy), style: `color: var(${colour})` }, title),
      h("small", {}, text)),
      h("td", {}, strip(30, marks)),
      h("td", { class: "number", "data-value": one.value.join(" ") }, value(one.value)),
      h("td", { class: "number", "data-value": one.error }, one.error.toExponential(1)),
      h("td", { class: "number" }, String(one.evaluations)));
    });
    return h("section", { class: "card scroll", "aria-label": `Along the ray: ${MODELS[model]}` },
      h("h2", {}, `Along the ray: ${MODELS[model]}`),
      h("table", { class: "sheet" },
        h("colgroup", {}, ["132px", "auto", "84px", "70px", "86px"].map((width) =>
          h("col", { style: `width: ${width}` }))),
        h("thead", {}, h("tr", {}, ["Strategy", "samples, taller where they weigh more",
          subject.quantity, "error", "evaluations"].map((text, i) => h("th", { scope: "col",
          class: i > 1 ? "number" : undefined }, text)))),
        h("tbody", {}, rows, h("tr", {}, h("td", {}), h("td", {}, h("div", { class: "axis-row" },
          [0, 0.25, 0.5, 0.75, 1].map((s) => h("span", {}, shown(near + s * (far - near)))))),
        h("td", { colspan: 3, class: "soft" }, `t, ${subject.unit}`)), reference, strategies)));
  }

  function choose(name) {
    now.strategy = name;
    page.setState({ strategy: name });
    drawSheets();
    drawSpace();
  }

  function drawBudget() {
    budget.replaceChildren(h("h2", {}, "Error against evaluations"),
      ...models().filter((model) => curves[model]).map((model) => {
        const series = Object.entries(STRATEGIES).map(([name, [title, colour]]) => ({ name: title,
          x: curves[model][name].evaluations, y: curves[model][name].error,
          colour: `var(${colour})`, dots: true }));
        return h("figure", {}, plot({ series, logX: true, logY: true, x: "evaluations of the field",
          y: "error", label: `Error against evaluations, ${MODELS[model]}` }), key(series),
        models().length > 1 ? h("figcaption", {}, MODELS[model]) : null);
      }));
  }

  const what = choice({ label: "What is seen", options: whats, value: now.what,
    onchange: (value) => {
      Object.assign(now, { what: value, view: null, row: null, col: null, mode: null });
      askSubject();
    } });
  const patient = h("input", { type: "number", min: 0, max: 99999, value: now.patient,
    "aria-label": "Patient", onchange: () => {
      now.patient = Math.max(0, Number(patient.value) || 0);
      askSubject();
    } });
  const mode = choice({ label: "Seen as", value: now.mode, options: [...Object.entries(MODELS),
    ["both", "Both, side by side"]], onchange: (value) => {
    now.mode = value;
    drawPictures();
    change({});
  } });
  const number = (label, name, min, max, step) => slider({ label, min, max, step,
    value: now[name], oninput: (value) => change({ [name]: value }) });
  const jitter = toggle({ label: "Jitter", pressed: now.jitter === 1,
    onchange: (pressed) => change({ jitter: pressed ? 1 : 0 }) });
  const logarithmic = slider({ label: "Local: threshold, as a power of ten", min: -5, max: -1,
    step: 0.1, value: Math.log10(now.threshold),
    oninput: (value) => change({ threshold: 10 ** value }) });

  root.append(h("h1", {}, "Sampling lab"), problem,
    h("div", { class: "row card" }, what, h("label", { class: "field" }, "Patient (seed)", patient),
      mode, seen),
    h("div", { class: "lab" },
      h("div", { class: "side" },
        h("section", { class: "card", "aria-label": "Picture" }, pictures, where,
          h("button", { type: "button", onclick: () => download(pictures.querySelector("canvas"),
            "picture.png") }, "Save picture")),
        h("section", { class: "card", "aria-label": "In space" }, ray3d,
          h("p", { class: "soft" }, "Drag, or arrow keys, to turn."))),
      h("div", { class: "sheets" }, sheets, budget),
      h("section", { class: "card controls-card", "aria-label": "Sampling" },
        h("div", { class: "controls" },
          number("Coarse samples", "coarse", 4, 256), number("Fine samples", "fine", 4, 256),
          jitter, number("Seed of the jitter", "seed", 0, 99),
          number("Near, share of the ray", "near", 0, 0.9, 0.01),
          number("Far, share of the ray", "far", 0.1, 1, 0.01),
          logarithmic, number("Local: κ, share of the fine samples", "kappa", 0.05, 1, 0.05)))));
  const redraw = () => { drawCross(); ray3d.redraw(); };
  document.addEventListener("theme", redraw);
  await askSubject();
  return { close: () => document.removeEventListener("theme", redraw) };
}
