// Models: the same patient, or the same seed, by several models at the same angle.

import { ask, json } from "../lib/api.js";
import { choice, download, h, later, shown } from "../lib/dom.js";
import { Frames, drawView, table } from "../lib/frames.js";
import { angleLabel, apart, nearestView } from "../lib/angles.js";
import { player } from "../lib/player.js";
import { sheet } from "../lib/sheet.js";

const GREY = table([[0, 0, 0], [255, 255, 255]]);
const RANDOM = "random patient", MOST = 6;

export async function open(root, state, page) {
  root.append(h("link", { rel: "stylesheet", href: "rooms/result.css" }),
    h("link", { rel: "stylesheet", href: "rooms/models.css" }));
  const ablations = (await page.entries("ablation")).filter((entry) => !entry.problem);
  const known = ablations.some((entry) => entry.id === state.entry);
  const from = known ? state.entry : "";
  const { models } = await json(from ? `models/list/${from}` : "models/list");
  const bodies = [...new Set(models.map((model) => model.body))];
  const chosen = { body: bodies.includes(state.body) ? state.body : bodies[0],
    patient: state.patient, seed: Math.max(0, Math.round(Number(state.seed ?? 0))) || 0,
    angle: Number(state.angle ?? 270), off: new Set((state.off ?? "").split("|").filter(Boolean)) };
  const kept = new Map(); // address → {angles, draw(canvas, k), …}: what was asked for once
  const keepAngle = later(page.setState);
  let steps = null, turn = 0;

  const patients = h("select", { "aria-label": "Patient", onchange: () =>
    pick({ patient: patients.value }) });
  const seed = h("input", { type: "number", min: 0, step: 1, value: chosen.seed,
    "aria-label": "Seed", onchange: () =>
      pick({ seed: Math.max(0, Math.round(Number(seed.value))) || 0 }) });
  const seedField = h("label", { class: "field" }, "Seed", seed);
  const which = h("fieldset", { class: "which" }), stage = h("div", { class: "stage" });
  const foot = h("div", { class: "row" });

  const mine = () => models.filter((model) => model.body === chosen.body);

  function pick(changes) {
    Object.assign(chosen, changes);
    page.setState({ body: chosen.body, patient: chosen.patient, seed: chosen.seed });
    choices();
    return draw();
  }

  // Patients whom any of these models was asked about, those with most models first.
  function choices() {
    const counts = {};
    for (const name of mine().flatMap((model) => Object.keys(model.patients))) {
      counts[name] = (counts[name] ?? 0) + 1;
    }
    const names = Object.keys(counts).sort((a, b) => counts[b] - counts[a] || a.localeCompare(b));
    if (mine().some((model) => model.run)) names.push(RANDOM);
    if (!names.includes(chosen.patient)) [chosen.patient] = names;
    patients.replaceChildren(...names.map((name) =>
      h("option", { selected: name === chosen.patient }, name)));
    seedField.hidden = chosen.patient !== RANDOM;
    const firstOff = mine().filter((model) => available(model)).slice(MOST);
    if (!state.off && !chosen.off.size) firstOff.forEach((model) => chosen.off.add(model.name));
    which.replaceChildren(h("legend", {}, "Models"), ...mine().map((model) => h("label", {},
      h("input", { type: "checkbox", checked: !chosen.off.has(model.name), onchange: (event) => {
        chosen.off[event.target.checked ? "delete" : "add"](model.name);
        page.setState({ off: [...chosen.off].join("|") });
        draw();
      } }), model.name)));
  }

  const available = (model) => (chosen.patient === RANDOM ? model.run
    : model.patients[chosen.patient]);

  function once(address, make) {
    if (!kept.has(address)) kept.set(address, make());
    return kept.get(address);
  }

  // What one model shows of the patient: {count, angles, rows, draw(canvas, k), truth, score(k)}.
  async function views(model) {
    if (chosen.patient === RANDOM) {
      const reply = await ask(`models/drawn/${model.run}`, { seed: chosen.seed });
      const [rows, cols] = ["X-Rows", "X-Cols"].map((name) => Number(reply.headers.get(name)));
      const frames = new Frames(new Uint16Array(await reply.arrayBuffer()), rows, cols);
      const angles = Array.from({ length: frames.count }, (_, k) => (360 * k) / frames.count);
      return { angles, frames, scores: [], inputs: [] };
    }
    const id = model.patients[chosen.patient];
    const about = await json(`result/about/${id}`);
    if (about.rendered) return { pictures: about.rendered, id, inside: about.inside };
    const { rows, cols, kinds, angles_deg } = about.frames ?? { kinds: [] };
    const get = async (kind) => (kinds.includes(kind) ? new Frames(new Uint16Array(
      await (await ask(`result/frames/${id}/${kind}`)).arrayBuffer()), rows, cols) : null);
    const [frames, truth] = await Promise.all([get("prediction"), get("truth")]);
    return { angles: angles_deg, frames, truth, scores: about.scores, inputs: about.inputs_deg };
  }

  async function draw() {
    const now = ++turn;
    steps?.close();
    stage.replaceChildren();
    stage.setAttribute("aria-busy", "true");
    const shownModels = mine().filter((model) => !chosen.off.has(model.name));
    const panels = shownModels.map((model) => panel(model.name));
    stage.append(...panels.map((one) => one.node));
    await Promise.all(shownModels.map(async (model, i) => {
      if (!available(model)) return panels[i].absent(model, chosen.patient);
      panels[i].say("…");
      try {
        const found = await once(`${model.name} ${model.body} ${chosen.patient} ${
          chosen.patient === RANDOM ? chosen.seed : ""}`, () => views(model));
        if (now === turn) panels[i].fill(found);
      } catch (error) {
        panels[i].say(error.message);
      }
    }));
    if (now !== turn) return;
    stage.removeAttribute("aria-busy");
    const full = panels.filter((one) => one.found);
    const withTruth = full.find((one) => one.found.truth || one.found.pictures?.kinds.Truth);
    if (withTruth) {
      const truth = panel("Truth");
      truth.fill(withTruth.found.truth ? { ...withTruth.found, frames: withTruth.found.truth,
        scores: [], isTruth: true }
        : { ...withTruth.found, isTruth: true });
      stage.prepend(truth.node);
      full.unshift(truth);
    }
    controls(full);
  }

  function controls(full) {
    foot.replaceChildren();
    if (!full.length) return;
    const { angles, pictures } = full[0].found;
    const label = (k) => (angles ? angleLabel(angles[k]) : pictures.rows[k].stem);
    const at = (k) => {
      if (angles) {
        chosen.angle = angles[k];
        keepAngle({ angle: angles[k] });
      }
      full.forEach((one) => one.show(angles ? angles[k] : k));
    };
    const first = angles ? nearestView(angles, chosen.angle) : 0;
    steps = player({ count: angles ? angles.length : pictures.rows.length, label, k: first,
      title: angles ? "Angle" : "View", onchange: at });
    foot.append(steps, h("button", { type: "button", onclick: () =>
      download(picture(full, label(steps.at())), "models.png") },
    "Save picture"));
    at(first);
  }

  root.append(h("h1", {}, "Models side by side"),
    h("div", { class: "row" },
      choice({ label: "From", value: from, options: [["", "the priors and results here"],
        ...ablations.map((entry) => [entry.id, entry.name])],
      onchange: (entry) => page.go("models", { entry, angle: chosen.angle }) }),
      choice({ label: "Body part", value: chosen.body, options: bodies.map((one) => [one, one]),
        onchange: (body) => { chosen.off.clear(); pick({ body }); } }),
      h("label", { class: "field" }, "Patient", patients), seedField),
    which, h("section", { class: "card", "aria-label": "Views" }, stage, foot));
  if (!models.length) {
    stage.append(h("p", {}, "This ablation has no cells yet."));
    return {};
  }
  choices();
  draw(); // what takes long appears when it is there; a panel says what went wrong with it
  return { key: (event) => steps?.key(event), close: () => { steps?.close(); keepAngle.cancel(); } };
}

// One model's figure: a picture with its numbers, or in words why there is none.
function panel(name) {
  const canvas = h("canvas", { class: "picture", role: "img", "aria-label": name, hidden: true });
  const image = h("img", { class: "picture", alt: name, hidden: true });
  const words = h("p", { class: "absent" }), numbers = h("p", { class: "soft numbers" });
  const node = h("figure", { "aria-label": name }, canvas, image, words,
    h("figcaption", {}, h("strong", {}, name), numbers));
  const self = {
    name, node, found: null,
    shown: () => (canvas.hidden ? image : canvas),
    say(text) { words.textContent = text; words.hidden = false; },
    absent(model, patient) {
      const isFilm = model.project && /\.[a-z]+$/i.test(patient);
      const typed = /^[\w.-]+$/.test(patient) ? patient : `'${patient.replaceAll("'", "'\\''")}'`;
      const command = isFilm ? `${model.project} ${typed}` : model.command;
      words.replaceChildren(h("strong", {}, model.status === "done" ? "not run" : model.status),
        model.status === "done" ? h("span", {}, `for ${patient}`) : model.why,
        command ? h("span", {}, "This runs it:") : "", command ? h("code", {}, command) : "");
    },
    fill(found) {
      if (!found.frames && !found.pictures) return self.say("no views were kept");
      self.found = found;
      words.hidden = true;
      canvas.hidden = !found.frames;
      image.hidden = !found.pictures;
    },
    // At an angle, or of scenes the number of a view.
    show(at) {
      const { frames, angles, pictures, scores, inputs, id, inside, isTruth } = self.found;
      let row, given = false;
      if (frames) {
        drawView(canvas, frames, nearestView(angles, at), GREY);
        row = scores.find((one) => apart(one.angle_deg, at) < 0.01);
        given = inputs.some((deg) => apart(deg, at) < 0.5);
      } else {
        const k = Math.min(at, pictures.rows.length - 1);
        image.src = `runs/file/${id}/${inside}${pictures.kinds[isTruth ? "Truth" : "Prediction"][k]}`;
        row = isTruth ? null : pictures.rows[k];
      }
      numbers.textContent = !row ? (given && !isTruth ? "near the given view" : "")
        : given ? "given view"
          : `PSNR ${shown(row.psnr_db, "dB", 4)} · SSIM ${shown(row.ssim, "", 4)}`;
    },
  };
  return self;
}

// What is shown, side by side.
function picture(panels, label) {
  return sheet(panels.map((one) => ({ picture: one.shown(), title: one.name })), [label],
    { width: 256, height: 256, smooth: true });
}
