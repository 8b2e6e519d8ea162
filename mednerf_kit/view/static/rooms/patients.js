// Patients: random patients of a prior, those between two, and those of two in layers, turning;
// beside each the training patient whose views are most like its own.

import { address, json } from "../lib/api.js";
import { choice, download, h, shown, slider, tell } from "../lib/dom.js";
import { newest } from "../lib/newest.js";
import { player } from "../lib/player.js";
import { sheet } from "../lib/sheet.js";

const TILES = 8, STOPS = 8;
const START = { entry: null, seed: 0, truncation: 1, a: 0, b: 1, share: 0.5, layer: null, k: null };

function parsed(state) {
  const found = { ...START };
  for (const [name, value] of Object.entries(state)) {
    if (name === "entry") found.entry = value;
    else if (name in START && Number.isFinite(Number(value))) found[name] = Number(value);
  }
  return found;
}

// A patient that turns: a canvas with .show(query) and .turn(k).
function turning(id, about, label) {
  const canvas = h("canvas", { width: about.cols, height: about.rows, role: "img",
    "aria-label": label });
  let image = null, at = 0;
  canvas.turn = (k) => {
    at = k;
    if (image) {
      canvas.getContext("2d").drawImage(image, k * about.cols, 0, about.cols, about.rows, 0, 0,
        about.cols, about.rows);
    }
  };
  canvas.show = (query) => new Promise((done, failed) => {
    const loading = new Image();
    loading.onload = () => {
      image = loading;
      canvas.turn(at);
      done();
    };
    loading.onerror = () => failed(new Error("This patient could not be rendered."));
    loading.src = address(`patients/sprite/${id}.png`, query);
  });
  return canvas;
}

export async function open(root, state, page) {
  const now = parsed(state);
  const there = await page.entries("prior");
  const priors = there.filter((entry) => !entry.problem);
  const broken = there.find((entry) => entry.id === now.entry && entry.problem);
  root.append(h("link", { rel: "stylesheet", href: "rooms/patients.css" }),
    h("h1", {}, "Patients"));
  if (!priors.length) {
    root.append(h("p", {}, "There is no prior here: train one with `mednerf-kit train`."));
    return {};
  }
  const problem = h("p", { class: "problem", role: "alert", hidden: !broken },
    broken ? `${broken.name}: ${broken.problem}` : "");
  // one that has a snapshot, which a training that has just begun has not
  const first = priors.find((entry) => entry.numbers.patients) ?? priors[0];
  if (!priors.some((entry) => entry.id === now.entry)) now.entry = first.id;
  const which = choice({ label: "Prior", value: now.entry,
    options: priors.map((entry) => [entry.id, entry.name]),
    onchange: (value) => page.go("patients", { entry: value }) });
  root.append(problem, h("div", { class: "row card" }, which, h("div", { class: "row place" })));
  tell("Opening the prior …");
  const about = await json(`patients/about/${now.entry}`);
  tell("");
  now.layer ??= Math.ceil(about.layers / 2);
  now.k ??= Math.round((270 / 360) * about.views) % about.views;
  const all = new Set();
  let open = true, pending = 0;

  function failed(error) {
    problem.hidden = false;
    problem.textContent = error.message;
  }

  function patient(label) {
    const canvas = turning(now.entry, about, label);
    canvas.turn(now.k);
    all.add(canvas);
    return canvas;
  }

  const keep = () => page.setState(now);
  const busy = (by) => {
    pending += by;
    root.setAttribute("aria-busy", String(pending > 0));
  };
  async function during(work) {
    busy(1);
    try {
      await work();
    } finally {
      busy(-1);
    }
  }

  // Training patients are rendered once, a few at a time, while everything else goes on.
  const progress = h("progress", { max: about.training.length || 1, value: 0,
    "aria-label": "Training patients rendered" });
  const rendering = h("p", { class: "soft" });
  const waiting = h("div", { hidden: true }, rendering, progress);
  let known = null;
  async function renderTraining() {
    for (;;) {
      const { rendered, patients } = await json(`patients/training/${now.entry}`);
      progress.value = rendered;
      rendering.textContent = `To find the nearest, training patients are rendered: ${rendered} of ${
        patients}.`;
      waiting.hidden = rendered === patients;
      if (rendered === patients || !open) return;
    }
  }

  // Beside every patient, the training patient that is nearest.
  const drawNearest = newest(() => during(async () => {
    if (!about.training.length) return;
    await (known ??= renderTraining());
    for (const one of [...shownTiles, between, mixed]) {
      if (!open || drawNearest.isAwaited()) return;
      if (one.query && one.found !== one.query) await nearest(one);
    }
  }), (error) => { known = null; failed(error); });

  async function nearest(one) {
    const { query, title } = one;
    const found = await json(`patients/nearest/${now.entry}`, query);
    if (one.query !== query) return;
    await one.near.show({ training: found.index });
    one.found = query;
    one.near.setAttribute("aria-label", `Training patient ${found.patient}`);
    const ratio = found.ratio === null ? "" : ` (${shown(found.ratio, "", 2)} ×)`;
    one.caption.replaceChildren(h("strong", {}, title), h("br"),
      `Nearest: ${found.patient}, RMSE ${shown(found.rmse, "", 2)}${ratio}`);
  }

  async function show(one, query, title) {
    Object.assign(one, { query, title });
    await one.canvas.show(query);
    one.caption.replaceChildren(h("strong", {}, title));
  }

  function tile(title, label) {
    const parts = { canvas: patient(label), near: patient("Nearest training patient"),
      caption: h("figcaption", { "aria-live": "polite" }, title), title };
    parts.near.hidden = !about.training.length;
    parts.node = h("figure", { class: "tile" },
      h("div", { class: "pair" }, parts.canvas, parts.near), parts.caption);
    return parts;
  }

  // Random patients.

  const tiles = h("div", { class: "tiles" });
  let shownTiles = [];
  const drawTiles = newest(() => during(async () => {
    for (const { canvas, near } of shownTiles) { all.delete(canvas); all.delete(near); }
    shownTiles = Array.from({ length: TILES }, (_, i) => {
      const seed = now.seed + i, one = tile(`Seed ${seed}`, `Random patient of seed ${seed}`);
      const take = (end) => h("button", { type: "button",
        "aria-label": `Take seed ${seed} as ${end.toUpperCase()}`,
        onclick: () => { now[end] = seed; keep(); drawEnds(); } }, `as ${end.toUpperCase()}`);
      one.node.append(h("div", { class: "row" }, take("a"), take("b")));
      one.wanted = { a: seed, truncation: now.truncation };
      return one;
    });
    tiles.replaceChildren(...shownTiles.map(({ node }) => node));
    for (const one of shownTiles) {
      if (!open || drawTiles.isAwaited()) return;
      await show(one, one.wanted, one.title);
    }
    drawNearest();
  }), failed);

  const seed = h("input", { type: "number", min: 0, max: 999999, value: now.seed,
    onchange: () => go(Math.max(0, Math.round(Number(seed.value)) || 0)) });
  function go(first) {
    now.seed = Math.max(0, first);
    seed.value = now.seed;
    keep();
    drawTiles();
  }
  const truncation = slider({ label: "Truncation", min: 0, max: 1.5, step: 0.1,
    value: now.truncation, oninput: (value) => {
      now.truncation = value;
      keep();
      drawTiles();
      drawEnds();
    } });

  // Between two, and of two.

  const ends = ["a", "b"].map((end) => [end, ["walk", "mix"].map(() =>
    patient(`Patient ${end.toUpperCase()}`))]);
  const endCaptions = { a: [], b: [] };
  const between = tile("Between", "The patient between A and B");
  const mixed = tile("Mixed", "The patient mixed of A and B");
  const drawBetween = newest(() => during(async () => {
    await show(between, { a: now.a, b: now.b, share: now.share, truncation: now.truncation },
      `${shown(100 * now.share)} % of the way to B`);
    drawNearest();
  }), failed);
  const drawMixed = newest(() => during(async () => {
    await show(mixed, { a: now.a, b: now.b, layer: now.layer, truncation: now.truncation },
      `${now.layer} layers of A, ${about.layers - now.layer} of B`);
    drawNearest();
  }), failed);
  const drawEnds = newest(() => during(async () => {
    for (const [end, canvases] of ends) {
      for (const caption of endCaptions[end]) {
        caption.textContent = `${end.toUpperCase()}: seed ${now[end]}`;
      }
      for (const canvas of canvases) {
        await canvas.show({ a: now[end], truncation: now.truncation });
      }
    }
    drawBetween();
    drawMixed();
  }), failed);

  const end = (name, place) => {
    const caption = h("figcaption", {});
    endCaptions[name].push(caption);
    const canvas = ends.find(([one]) => one === name)[1][place];
    return h("figure", { class: "tile" }, canvas, caption);
  };
  const share = slider({ label: "Share of B", min: 0, max: 1, step: 1 / STOPS, value: now.share,
    text: (value) => `${shown(100 * value)} %`,
    oninput: (value) => { now.share = value; keep(); drawBetween(); } });
  const layer = slider({ label: "Layers from A", min: 0, max: about.layers, value: now.layer,
    text: (value) => `${value} of ${about.layers}`,
    oninput: (value) => { now.layer = value; keep(); drawMixed(); } });
  const walk = h("section", { class: "card", "aria-label": "Between two" },
    h("h2", {}, "Between two"),
    h("div", { class: "trio" }, end("a", 0), between.node, end("b", 0)), share,
    h("p", { class: "soft" }, "The way is a great circle through the random numbers of both."));
  const mix = h("section", { class: "card", "aria-label": "Style mix" }, h("h2", {}, "Style mix"),
    h("div", { class: "trio" }, end("a", 1), mixed.node, end("b", 1)), layer,
    h("p", { class: "soft" }, "The first layers of the field's network are A's, the others B's."));

  // Turning, and a picture of what is shown.

  const steps = player({ count: about.views, k: now.k,
    label: (k) => `${shown((360 * k) / about.views, "", 4)}°`,
    onchange: (k) => { now.k = k; for (const canvas of all) canvas.turn(k); } });
  const save = h("button", { type: "button", onclick: () => download(picture(), "patients.png") },
    "Save picture");

  function picture() {
    const name = priors.find((entry) => entry.id === now.entry).name;
    return sheet(shownTiles.map(({ canvas, title }) => ({ picture: canvas, title })),
      [`${name}, random patients, truncation ${now.truncation}`],
      { width: 2 * about.cols, height: 2 * about.rows, columns: 3, smooth: true });
  }

  root.querySelector(".place").replaceWith(
    h("label", { class: "field" }, "First seed", seed),
    h("button", { type: "button", onclick: () => go(now.seed - TILES) }, "Before"),
    h("button", { type: "button", onclick: () => go(now.seed + TILES) }, "More"),
    about.truncates ? truncation : h("p", { class: "soft" },
      "Truncation has no effect on this generator: it only sees the direction of its numbers."),
    h("div", { class: "row turning" }, steps, save));
  root.append(h("section", { class: "card", "aria-label": "Random patients" },
    h("h2", {}, "Random patients"), h("p", { class: "soft" }, about.training.length
      ? "Beside each, smaller: the training patient whose views are most like its own, as the prior "
        + "has learned it. RMSE is over eight views of image values from 0 to 1; × is in relation to "
        + "the distance from one training patient to the next. Copies would be near 0 ×."
      : "This prior keeps no codes of its training patients: none can be shown beside."), waiting, tiles),
  h("div", { class: "two" }, walk, mix));
  keep();
  drawTiles().then(drawEnds);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) steps.start();
  return { key: steps.key, close() { open = false; steps.close(); } };
}
