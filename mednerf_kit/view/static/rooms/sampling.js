// Sampling lab: a pixel is picked, its ray shown in space and along its length, and what every
// strategy of sampling makes of it.

import { address, json } from "../lib/api.js";
import { choice, download, h, slider, tell, toggle } from "../lib/dom.js";
import { newest } from "../lib/newest.js";
import { key, plot } from "../lib/plot.js";
import { edges, space } from "../lib/space.js";
import { MODELS, STRATEGIES, present, sheet } from "./sampling_sheet.js";
import { steps } from "./sampling_steps.js";

// what the address may say, and what holds without it
const START = { what: "chest", patient: 0, view: null, row: null, col: null, mode: null, coarse: 32,
  fine: 64, seed: 0, jitter: 0, near: 0, far: 1, threshold: 5e-4, kappa: 0.4, octaves: 1,
  directions: 1, strategy: "importance" };
const WORDS = new Set(["what", "mode", "strategy"]);
const SUBJECT = ["what", "patient", "octaves", "directions"];
const OPTIONS = ["coarse", "fine", "seed", "jitter", "near", "far", "threshold", "kappa"];

const SHARP_PX = 512; // of a picture's canvas, at least

// The orbit's plane.
const circle = () => Array.from({ length: 61 }, (_, i) => [Math.cos((i * Math.PI) / 30),
  Math.sin((i * Math.PI) / 30), 0]);

function parsed(state) {
  const found = { ...START };
  for (const [name, value] of Object.entries(state)) {
    if (WORDS.has(name)) found[name] = value;
    else if (name in START && Number.isFinite(Number(value))) found[name] = Number(value);
  }
  if (state.entry) found.what = state.entry;
  if (!(found.strategy in STRATEGIES)) found.strategy = START.strategy;
  if (!(found.mode in MODELS) && found.mode !== "both") found.mode = null;
  return found;
}

export async function open(root, state, page) {
  const now = parsed(state);
  let subject = null, answers = {}, curves = {};
  const some = (names) => Object.fromEntries(names.map((name) => [name, now[name]]));
  const models = () => (now.mode === "both" ? Object.keys(MODELS) : [now.mode]);
  const problem = h("p", { class: "problem", role: "alert", hidden: true });

  function failed(error) {
    tell("");
    root.setAttribute("aria-busy", "false");
    problem.hidden = false;
    problem.textContent = error.message;
  }

  async function ofEach(path) {
    const query = { ...some(SUBJECT), ...some(["view", "row", "col"]), ...some(OPTIONS) };
    const asked = {};
    for (const model of models()) asked[model] = await json(path, { ...query, model });
    return asked;
  }

  const askRay = newest(async () => {
    answers = await ofEach("sampling/ray");
    problem.hidden = true;
    drawRay();
    askCurves();
  }, failed);

  const askCurves = newest(async () => {
    curves = await ofEach("sampling/curves");
    drawCurves();
    root.setAttribute("aria-busy", "false");
  }, failed);

  function change(values = {}) {
    Object.assign(now, values);
    root.setAttribute("aria-busy", "true");
    page.setState({ ...now, entry: null });
    askRay();
  }

  const askSubject = newest(async () => {
    tell("Opening …");
    root.setAttribute("aria-busy", "true");
    subject = await json("sampling/subject", some(SUBJECT));
    tell("");
    const last = subject.views.length - 1;
    if (now.view === null || now.view > last) now.view = subject.first_view;
    if (now.row === null || now.row >= subject.rows) now.row = Math.floor(subject.rows / 2);
    if (now.col === null || now.col >= subject.cols) now.col = Math.floor(subject.cols / 2);
    now.mode ??= subject.image_model;
    mode.select.value = now.mode;
    drawView();
    drawSwitches();
    drawPictures();
    change();
  }, failed);

  // What is seen, and how.

  const found = await page.entries("prior", "scene");
  const whats = [["chest", "Chest phantom"], ["knee", "Knee phantom"], ["blocks", "Scene blocks"],
    ...found.filter((one) => !one.problem).map((one) => [one.id,
      `${one.name} (${one.kind === "prior" ? "random patient" : "fitted scene"})`])];
  const what = choice({ label: "What is seen", options: whats, value: now.what,
    onchange: (value) => {
      Object.assign(now, { what: value, view: null, row: null, col: null, mode: null, octaves: 1,
        directions: 1 });
      askSubject();
    } });
  const patient = h("input", { type: "number", min: 0, max: 99999, value: now.patient,
    onchange: () => {
      now.patient = Math.max(0, Math.round(Number(patient.value)) || 0);
      askSubject();
    } });
  const mode = choice({ label: "Seen as", value: now.mode, options: [...Object.entries(MODELS),
    ["both", "Both, side by side"]], onchange: (value) => {
    now.mode = value;
    drawPictures();
    change();
  } });
  const seed = h("label", { class: "field" }, "Patient (seed)", patient);
  const view = h("div", {}), switches = h("div", { class: "row" });

  function drawView() {
    const node = slider({ label: "View", min: 0, max: subject.views.length - 1, value: now.view,
      oninput: (value) => {
        now.view = value;
        named();
        drawPictures();
        change();
      } });
    const named = () => {
      node.querySelector("output").textContent = subject.views[now.view];
      node.querySelector("input").setAttribute("aria-valuetext", subject.views[now.view]);
    };
    named();
    view.replaceChildren(node);
  }

  function drawSwitches() {
    const isRun = found.some((entry) => entry.id === now.what && entry.kind === "scene");
    seed.hidden = isRun || now.what === "blocks";
    const one = (name, label) => toggle({ label, pressed: now[name] === 1,
      onchange: (pressed) => {
        now[name] = pressed ? 1 : 0;
        askSubject();
      } });
    switches.replaceChildren(...[
      subject.has_octaves || !now.octaves ? one("octaves", "Positional encoding") : null,
      subject.has_directions || !now.directions ? one("directions", "View directions") : null,
    ].filter(Boolean));
  }

  // The picture, in which a pixel is picked.

  const pictures = h("div", { class: "pictures" });
  const where = h("p", { class: "soft", "aria-live": "polite" });

  function drawPictures() {
    // a pixel of the picture is a square of the canvas, on which the cross is a thin line
    const fold = Math.ceil(SHARP_PX / Math.max(subject.cols, subject.rows));
    pictures.replaceChildren(...models().map((model) => {
      const canvas = h("canvas", { class: "pick", tabindex: 0, role: "application",
        width: subject.cols * fold, height: subject.rows * fold,
        "aria-label": `${MODELS[model]} of ${subject.name}: a click picks a pixel, `
          + "arrow keys move on" });
      const image = new Image();
      image.onload = () => { canvas.image = image; drawCross(); };
      image.onerror = () => failed(new Error("This picture could not be rendered."));
      image.src = address("sampling/picture", { ...some(SUBJECT), view: now.view, model });
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
    drawCross();
  }

  function move(row, col) {
    const within = (value, count) => Math.max(0, Math.min(count - 1, Math.round(value)));
    now.row = within(row, subject.rows);
    now.col = within(col, subject.cols);
    drawCross();
    change();
  }

  function drawCross() {
    where.textContent = `Pixel row ${now.row}, column ${now.col}`;
    for (const canvas of pictures.querySelectorAll("canvas")) {
      const g = canvas.getContext("2d"), fold = canvas.width / subject.cols;
      g.imageSmoothingEnabled = false;
      if (canvas.image) g.drawImage(canvas.image, 0, 0, canvas.width, canvas.height);
      const x = (now.col + 0.5) * fold, y = (now.row + 0.5) * fold, gap = Math.max(1.5 * fold, 9);
      g.beginPath();
      for (const [x0, y0, x1, y1] of [[x, 0, x, y - gap], [x, y + gap, x, canvas.height],
        [0, y, x - gap, y], [x + gap, y, canvas.width, y]]) {
        g.moveTo(x0, y0);
        g.lineTo(x1, y1);
      }
      for (const [colour, width] of [["#000", 4], ["#f0a25a", 2]]) {  // seen on black and on white
        g.strokeStyle = colour;
        g.lineWidth = width;
        g.stroke();
      }
    }
  }

  // The ray: in space, along its length, step by step.

  const inSpace = space({ label: "The ray and its samples in space" });
  const sheets = h("div", { class: "sheets" }), budgets = h("div", { class: "budgets" });
  const byStep = steps();

  function drawRay() {
    lab.dataset.mode = now.mode;
    sheets.replaceChildren(...models().map((model) => {
      const answer = answers[model], length = answer.far - answer.near;
      return sheet({ model, answer, subject, chosen: now.strategy, choose,
        cut: [answer.near + now.near * length, answer.near + now.far * length] });
    }));
    byStep.show({ answer: answers[models()[0]], model: models()[0], strategy: now.strategy });
    drawSpace();
  }

  function choose(name) {
    now.strategy = name;
    page.setState({ strategy: name });
    const at = document.activeElement?.closest?.("[data-strategy]");
    drawRay();
    if (at) sheets.querySelector(`[data-strategy="${name}"] button`)?.focus();
  }

  function drawSpace() {
    const answer = answers[models()[0]];
    const at = (t) => answer.origin.map((v, i) => v + t * answer.direction[i]);
    const level = present(answer.strategies[now.strategy].levels.at(-1));
    const top = Math.max(...level.map(({ w }) => w), 1e-12);
    const [low, high] = subject.box;
    const centre = low.map((v, i) => (v + high[i]) / 2);
    const reach = Math.hypot(...low.map((v, i) => (high[i] - v) / 2));
    inSpace.show([...edges(subject.box),
      { points: [at(Math.max(answer.near - 0.35 * reach, 0)), at(answer.far)], colour: "--ink",
        width: 1.5 },
      { points: level.map(({ t }) => at(t)), line: false, colour: STRATEGIES[now.strategy][1],
        dots: level.map(({ w }) => 1.2 + 3.6 * Math.sqrt(Math.max(w, 0) / top)) }],
    centre, reach);
  }

  function drawCurves() {
    budgets.replaceChildren(...models().filter((model) => curves[model]).map((model) => {
      const series = Object.entries(STRATEGIES).map(([name, [title, colour]]) => ({ name: title,
        x: curves[model][name].evaluations, y: curves[model][name].error,
        colour: `var(${colour})`, dots: true }));
      return h("section", { class: "card", "aria-label": `Error: ${MODELS[model]}` },
        h("h2", {}, `Error against evaluations: ${MODELS[model]}`),
        series.every(({ y }) => y.every((v) => !(v > 0)))
          ? h("p", {}, "Every strategy is right here, with any number of samples.")
          : plot({ series, logX: true, logY: true, x: "evaluations of the field", y: "error",
          label: `Error against evaluations, ${MODELS[model]}` }), key(series),
        h("p", { class: "soft" }, now.jitter ? "Each point is of eight draws."
          : "Without jitter a point is one quadrature: it may be right by chance."));
    }));
  }

  // Where cameras stand.

  const cameras = h("div", { class: "cameras" });
  async function drawCameras() {
    const places = await json("sampling/cameras");
    const ground = { points: circle(), colour: "--line" };
    const one = (name, title, text) => {
      const node = space({ label: title, height: 130 });
      return [h("figure", {}, node, h("figcaption", {}, h("strong", {}, `${title}.`), ` ${text}`)),
        () => node.show([ground, { points: places[name], line: false, dots: 2, colour: "--a" },
          { points: [[0, 0, -0.5], [0, 0, 0.5]], colour: "--ink", width: 2 }], [0, 0, 0], 1.1)];
    };
    const both = [
      one("spherical", "Spherical", "Photographs are taken from anywhere."),
      one("single_axis", "Single axis", "An X-ray set-up turns about the patient.")];
    cameras.replaceChildren(...both.map(([figure]) => figure));
    both.forEach(([, show]) => show());
  }

  const number = (label, name, min, max, step) => slider({ label, min, max, step,
    value: now[name], oninput: (value) => change({ [name]: value }) });
  const near = number("Near (of the ray)", "near", 0, 0.95, 0.01);
  const far = number("Far (of the ray)", "far", 0.05, 1, 0.01);
  near.addEventListener("input", () => {
    if (now.far <= now.near) { now.far = now.near + 0.05; far.set(now.far); change(); }
  });
  far.addEventListener("input", () => {
    if (now.far <= now.near) { now.near = now.far - 0.05; near.set(now.near); change(); }
  });
  const threshold = slider({ label: "Local: threshold", min: -5, max: -0.5, step: 0.1,
    value: Math.log10(Math.max(now.threshold, 1e-5)),
    text: (value) => (10 ** value).toExponential(1),
    oninput: (value) => change({ threshold: 10 ** value }) });
  const lab = h("div", { class: "lab" },
    h("div", { class: "side" },
      h("section", { class: "card", "aria-label": "Picture" }, pictures, where,
        h("button", { type: "button", onclick: save }, "Save picture")),
      h("section", { class: "card", "aria-label": "In space" }, h("h2", {}, "The ray in space"),
        inSpace, h("p", { class: "soft" }, "Drag it, or use the arrow keys, to turn it.")),
      h("section", { class: "card", "aria-label": "Cameras" }, h("h2", {}, "Where cameras stand"),
        cameras)),
    h("div", { class: "main" }, sheets, budgets, byStep));

  async function save() {
    for (const [i, canvas] of [...pictures.querySelectorAll("canvas")].entries()) {
      await download(canvas, `${subject.name} ${models()[i]} research use only.png`);
    }
  }

  root.append(h("link", { rel: "stylesheet", href: "rooms/sampling.css" }),
    h("h1", {}, "Sampling lab"), problem,
    h("div", { class: "row card" }, what, seed, mode, view, switches),
    h("section", { class: "card", "aria-label": "Sampling" }, h("div", { class: "controls" },
      number("Coarse samples", "coarse", 2, 256), number("Fine samples", "fine", 2, 256),
      toggle({ label: "Jitter", pressed: now.jitter === 1,
        onchange: (pressed) => change({ jitter: pressed ? 1 : 0 }) }),
      number("Seed of the jitter", "seed", 0, 99), near, far, threshold,
      number("Local: κ", "kappa", 0.05, 1, 0.05))), lab);
  const redraw = () => {
    drawCross();
    for (const canvas of root.querySelectorAll("canvas.space")) canvas.redraw();
  };
  document.addEventListener("theme", redraw);
  addEventListener("resize", redraw);
  await askSubject();
  drawCameras().catch(failed);
  return { close() {
    byStep.stop();
    document.removeEventListener("theme", redraw);
    removeEventListener("resize", redraw);
  } };
}
