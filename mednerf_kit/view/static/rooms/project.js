// Project: give an X-ray, see it as it will be read, choose the prior, and follow the job.

import { ask, json, latest } from "../lib/api.js";
import { choice, h, slider, tell, toggle } from "../lib/dom.js";
import { jobList } from "../lib/jobs.js";
import { Picture } from "../lib/xray.js";

const VIEWS = [["", "what the file says, else PA"], ["PA", "PA"], ["AP", "AP"],
  ["lateral", "lateral (0°)"], ["left-lateral", "left lateral (180°)"], ["angle", "an angle …"]];
const KINDS = [["auto", "find out"], ["display", "film prepared for display"],
  ["line-integral", "line integrals (a DRR)"], ["transmission", "transmission"]];
const FITS = [["pad", "pad to a square"], ["crop", "cut to a square"]];
const CROPS = [["auto", "leave borders and letters out"], ["none", "take all of it"],
  ["box", "a rectangle …"]];
const ACCEPT = ".png,.jpg,.jpeg,.jfif,.bmp,.dib,.pgm,.pbm,.pnm,.pfm,.tif,.tiff,.npy,.dcm,.dicom,.ima";

export async function open(root, state, page) {
  const priors = (await page.entries("prior")).filter((entry) => !entry.problem);
  const jobs = await jobList(page);
  const first = priors.find((entry) => entry.id === state.entry)
    ?? priors.find((entry) => entry.name === "bundled:chest") ?? priors[0];
  const reading = { prior: first?.id, view: "", input_kind: "auto", rotate: 0, flip: false,
    invert: false, crop: "auto", fit: "pad" };
  let id = null;

  const drop = dropZone(give, () => jobs.mostBytes);
  const desk = h("div", { hidden: true });
  root.append(h("link", { rel: "stylesheet", href: "rooms/project.css" }),
    h("h1", {}, "Project an X-ray"),
    h("section", { class: "card", "aria-label": "X-ray" }, drop, desk),
    h("section", { "aria-label": "Jobs" }, h("h2", {}, "Jobs"), jobs.node));

  const whole = new Picture({ label: "The X-ray as it is read", oncrop: cropped });
  const taken = new Picture({ label: "The X-ray as the prior takes it" });
  const facts = h("p", { class: "soft" }), sentences = h("div", { "aria-live": "polite" });
  const angle = h("input", { type: "number", min: -360, max: 720, step: "any", value: 270,
    "aria-label": "Angle in degrees", onchange: () => change({ view: angle.value }) });
  const angleField = h("label", { class: "field", hidden: true }, "Angle (°)", angle);
  const box = ["Left", "Top", "Width", "Height"].map((name) => h("input", { type: "number", min: 0,
    step: 1, value: 0, "aria-label": `${name} of the rectangle in pixels`,
    onchange: () => change({ crop: box.map((one) => one.value || 0).join(",") }) }));
  const boxField = h("div", { class: "box", hidden: true }, ["Left", "Top", "Width", "Height"].map(
    (name, k) => h("label", { class: "field" }, `${name} (px)`, box[k])));
  const crop = choice({ label: "Field", options: CROPS, value: "auto", onchange: (value) => {
    boxField.hidden = value !== "box";
    whole.cropping(value === "box");
    if (value !== "box") change({ crop: value });
    else cropped(whole.box() ?? [0, 0, whole.cols, whole.rows]);
  } });
  const low = slider({ label: "Shown as black up to", min: 0, max: 99, value: 0, unit: "%",
    oninput: () => windowed() });
  const high = slider({ label: "Shown as white from", min: 1, max: 100, value: 100, unit: "%",
    oninput: () => windowed() });
  const name = h("input", { type: "text", maxlength: 60, placeholder: "by date and time",
    "aria-label": "Name of the result" });
  const samples = h("input", { type: "number", min: 1, max: 16, value: 4,
    "aria-label": "Random patients" });
  const minutes = h("input", { type: "number", min: 0, step: "any", placeholder: "no limit",
    "aria-label": "Minutes at most" });
  const seed = h("input", { type: "number", min: 0, step: 1, value: 0, "aria-label": "Seed" });
  const size = h("input", { type: "number", min: 16, max: 512, placeholder: "the prior's",
    "aria-label": "Pixels of a view" });
  const update = h("input", { type: "checkbox", checked: true });
  const start = h("button", { type: "button", class: "main", disabled: true,
    onclick: begin }, "Start");

  desk.append(
    h("div", { class: "looks" },
      h("figure", {}, whole.node,
        h("figcaption", {}, "As it will be read. Red is left out of the fit."),
        h("div", { class: "window" }, low, high)),
      h("div", {}, h("figure", {}, taken.node, h("figcaption", {}, "As the prior takes it.")),
        facts, sentences)),
    h("div", { class: "columns" },
      h("fieldset", {}, h("legend", {}, "How it lies"),
        h("div", { class: "buttons" },
          h("button", { type: "button", onclick: () => turn(270) }, "↺ Turn left"),
          h("button", { type: "button", onclick: () => turn(90) }, "↻ Turn right"),
          toggle({ label: "Mirror", onchange: (flip) => change({ flip }) }),
          toggle({ label: "Invert", onchange: (invert) => change({ invert }) })),
        crop, boxField),
      h("fieldset", {}, h("legend", {}, "What it is"),
        choice({ label: "View", options: VIEWS, value: "", onchange: (value) => {
          angleField.hidden = value !== "angle";
          change({ view: value === "angle" ? angle.value : value });
        } }), angleField,
        choice({ label: "Grey values", options: KINDS, value: "auto",
          onchange: (input_kind) => change({ input_kind }) }),
        choice({ label: "Shape", options: FITS, value: "pad", onchange: (fit) => change({ fit }) })),
      h("fieldset", {}, h("legend", {}, "What is done"),
        choice({ label: "Prior", options: priors.map((entry) => [entry.id, entry.name]),
          value: first?.id, onchange: (prior) => change({ prior }) }),
        h("div", { class: "pairs" },
          h("label", { class: "field" }, "Random patients", samples),
          h("label", { class: "field" }, "Minutes at most", minutes),
          h("label", { class: "field" }, "Name of the result", name),
          h("label", { class: "field" }, "Seed", seed),
          h("label", { class: "field" }, "Pixels of a view", size)),
        h("label", { class: "tick" }, update, "Follow the X-ray beyond the prior"),
        h("p", { class: "hint" }, "Random patients that explain the X-ray as well stand beside ",
          "the best guess: what they differ by is the uncertainty."))),
    h("div", { class: "buttons" }, start,
      h("button", { type: "button", onclick: putAway }, "Another X-ray")));

  async function give(file) {
    tell("");
    try {
      const suffix = /\.[A-Za-z]+$/.exec(file.name)?.[0] ?? "";
      const reply = await ask("project/xray", { suffix }, { method: "POST", body: file });
      id = (await reply.json()).id;
    } catch (error) {
      return drop.complain(error.message);
    }
    drop.hidden = true;
    desk.hidden = false;
    await look();
  }

  const looks = latest((signal) => json(`project/look/${id}`, reading, { signal }));

  async function look() {
    facts.textContent = "Reading …";
    start.disabled = true;
    let seen;
    try {
      seen = await looks();
    } catch (error) {
      facts.textContent = "";
      sentences.replaceChildren(h("p", { class: "problem", role: "alert" }, error.message));
      return undefined;
    }
    if (seen === undefined) return undefined;
    const [rows, cols] = seen.shape;
    facts.textContent = `${cols}×${rows} pixels of ${seen.bits} bits, ${
      KINDS.find(([kind]) => kind === seen.kind)[1]}${seen.view ? `, view ${seen.view}${
      seen.mirrored ? ", mirrored," : ""} at ${Number(seen.angle_deg.toFixed(1))}°` : ""}.`;
    sentences.replaceChildren(
      seen.problem ? h("p", { class: "problem", role: "alert" }, seen.problem) : "",
      ...seen.warnings.map((text) => h("p", { class: "problem" }, `${text}.`)),
      h("details", {}, h("summary", {}, `What was read, done and assumed (${seen.notes.length})`),
        h("ul", { class: "told" }, seen.notes.map((text) => h("li", {}, `${text}.`)))));
    await whole.show(seen.whole, cols, rows);
    await taken.show(seen.taken);
    windowed();
    start.disabled = Boolean(seen.problem);
    return undefined;
  }

  function change(changes) {
    Object.assign(reading, changes);
    return look();
  }

  function turn(degrees) {
    crop.select.value = "auto";
    boxField.hidden = true;
    whole.cropping(false);
    // a mirrored picture turns the other way before it is mirrored
    const before = reading.flip ? 360 - degrees : degrees;
    change({ rotate: (reading.rotate + before) % 360, crop: "auto" });
  }

  function cropped(rectangle) {
    rectangle.forEach((value, k) => { box[k].value = value; });
    whole.box(rectangle);
    change({ crop: rectangle.join(",") });
  }

  function windowed() {
    const [from, to] = [low, high].map((one) => Number(one.querySelector("input").value) / 100);
    whole.window(from, Math.max(to, from + 0.01));
  }

  async function begin() {
    start.disabled = true;
    try {
      const body = JSON.stringify({ ...reading, name: name.value, samples: samples.value,
        max_minutes: minutes.value || null, seed: seed.value || 0, size: size.value || null,
        update: update.checked });
      const job = await json(`project/start/${id}`, {}, { method: "POST", body });
      page.setState({ job: job.id });
      await jobs.refresh();
      putAway();
    } catch (error) {
      sentences.prepend(h("p", { class: "problem", role: "alert" }, error.message));
      start.disabled = false;
    }
  }

  function putAway() {
    id = null;
    desk.hidden = true;
    drop.hidden = false;
    drop.complain("");
    drop.querySelector("input").value = "";
  }

  return { close: () => jobs.close(), change: () => {} };
}

// Where a file is dropped or chosen. complain(sentence) shows what is wrong with it.
function dropZone(give, mostBytes) {
  const input = h("input", { type: "file", accept: ACCEPT, "aria-label": "X-ray file",
    onchange: () => input.files[0] && check(input.files[0]) });
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const node = h("div", { class: "drop" }, h("strong", {}, "Drop an X-ray here, or choose a file"),
    input, h("span", {}, "DICOM, PNG, TIFF, JPEG, NPY and others; it stays on this machine, ",
      "and its name is not kept."), problem);
  node.complain = (text) => {
    problem.textContent = text;
    problem.hidden = !text;
  };
  const check = (file) => {
    node.complain("");
    if (file.size <= mostBytes()) return give(file);
    return node.complain(`got a file of ${Math.round(file.size / 2 ** 20)} MB; wanted at most ${
      mostBytes() / 2 ** 20} MB: cut the picture, or save it with 16 bits a pixel.`);
  };
  const over = (event) => {
    event.preventDefault();
    node.classList.toggle("over", event.type === "dragover");
  };
  node.addEventListener("dragover", over);
  node.addEventListener("dragleave", over);
  node.addEventListener("drop", (event) => {
    over(event);
    if (event.dataTransfer.files[0]) check(event.dataTransfer.files[0]);
  });
  return node;
}
