// Training: the curves of a run, its sheets of samples, its log, what it was started with.

import { json } from "../lib/api.js";
import { choice, download, h, shown, slider, toggle } from "../lib/dom.js";
import { COLOURS, key, plot } from "../lib/plot.js";
import { sheet } from "../lib/sheet.js";
import { svgPicture } from "../lib/svgpicture.js";

const REFRESH_MS = 2500, COLUMN = 420;
const STATES = { running: "running", ended: "finished", stopped: "stopped before its end" };
// columns → what they are
const MEANINGS = {
  rate: "learning rate", ray_mse: "error of rays", volume_mse: "error of volumes",
  d_loss: "loss of the discriminator", g_loss: "loss of the generator",
  r_t: "overfitting of the discriminator (r_t)", r1: "gradient penalty (R1)",
  p: "probability of augmentation", kimg: "thousand pictures seen", loss: "loss",
  psnr_db: "PSNR in dB", mse: "error of rays", density_l1: "mean density of the grid",
  evals_per_ray: "evaluations of the field per ray", restarts: "starts anew after a failure",
};

export async function open(root, state, page) {
  const entries = await page.entries("prior", "scene");
  root.append(h("link", { rel: "stylesheet", href: "rooms/training.css" }),
    h("h1", {}, "Training"));
  if (!entries.length) {
    root.append(h("p", { class: "soft" },
      "There are no runs here yet: `mednerf-kit train` makes one."));
    return {};
  }
  const entry = entries.find((one) => one.id === state.entry) ?? entries[0];
  const runs = entries.filter((one) => !one.name.startsWith("bundled:"));
  const other = runs.find((one) => one.id === state.other && one.id !== entry.id);
  const isRun = runs.includes(entry);
  root.append(h("div", { class: "row" },
    choice({ label: "Run", options: entries.map((one) => [one.id, one.name]), value: entry.id,
      onchange: (id) => page.go("training", { ...page.state, entry: id }) }),
    isRun ? choice({ label: "Compare with", value: other?.id ?? "",
      options: [["", "nothing"], ...runs.filter((one) => one !== entry)
        .map((one) => [one.id, one.name])],
      onchange: (id) => page.go("training", { ...page.state, other: id }) }) : null));
  const body = h("div", { style: "margin-top: 14px" });
  root.append(body);
  const { card, problem } = await json(`training/card/${entry.id}`);
  const cardNode = cardOf(card, problem);
  if (!isRun) {
    body.append(cardNode);
    return {};
  }
  return run(body, entry, other, page, cardNode);
}

async function run(body, entry, other, page, cardNode) {
  let timer, closed = false, drawn = "";
  let isLog = page.state.log === "1";
  const facts = h("div", { "aria-live": "polite" }), curves = h("div", { class: "curves" });
  const names = other ? [entry.name, other.name] : [entry.name];
  const log = h("pre", { role: "region", tabindex: 0, "aria-label": "The end of the log" });
  const samples = new Samples(entry);
  body.append(
    h("section", { class: "card", "aria-label": "State" }, facts),
    h("section", { class: "card", "aria-label": "Curves" },
      h("div", { class: "row" }, h("h2", {}, "Curves"),
        toggle({ label: "Logarithmic", pressed: isLog, onchange: (on) => {
          isLog = on;
          page.setState({ log: on ? "1" : "" });
          drawn = "";
          refresh();
        } }), h("button", { type: "button", onclick: save }, "Save picture")),
      other ? key(names.map((name) => ({ name }))) : null, curves),
    samples.node,
    h("div", { class: "pair" },
      h("div", {}, h("section", { class: "card", "aria-label": "Log" }, h("h2", {}, "Log"), log),
        cardNode),
      h("section", { class: "card", "aria-label": "Configuration" }, h("h2", {}, "Configuration"),
        await configuration(entry, other))));

  async function save() {
    const [width, height] = [1.5 * COLUMN, 330];
    const parts = await Promise.all([...curves.querySelectorAll("figure")].map(async (figure) => ({
      picture: await svgPicture(figure.querySelector("svg"), width, height),
      title: figure.querySelector("h3").textContent })));
    download(sheet(parts, [names.join(" (first), ")], { width, height, columns: 2 }), "curves.png");
  }

  const theirs = other ? await json(`training/curves/${other.id}`) : {};

  async function refresh() {
    clearTimeout(timer);
    let told;
    try {
      told = await json(`training/run/${entry.id}`);
      facts.replaceChildren(...factsOf(told));
      const text = told.log.join("\n");
      if (log.textContent !== text) {
        log.textContent = text;
        log.scrollTop = log.scrollHeight;
      }
      samples.show(told.sheets);
      if (drawn !== `${told.step} ${isLog}`) {
        drawn = `${told.step} ${isLog}`;
        const mine = await json(`training/curves/${entry.id}`);
        curves.replaceChildren(...curvesOf(mine, theirs, isLog, names));
      }
    } catch (error) {
      facts.replaceChildren(h("p", { class: "problem", role: "alert" }, error.message));
    }
    if (!closed && told?.state !== "ended") timer = setTimeout(refresh, REFRESH_MS);
  }

  await refresh();
  return { close() { closed = true; clearTimeout(timer); } };
}

function factsOf(told) {
  const rows = [["State", STATES[told.state]],
    ["Step", told.steps ? `${told.step} of ${told.steps}` : String(told.step)],
    ["Time of the steps", duration(told.seconds)],
    ["A step takes", told.step_seconds === null ? "–" : shown(told.step_seconds * 1000, "ms")],
    ["Time left", told.left_seconds === null ? "–" : `about ${duration(told.left_seconds)}`],
    ["Snapshots", String(told.snapshots)]];
  return [h("dl", { class: "facts" }, rows.map(([label, text]) =>
    h("div", {}, h("dt", {}, label), h("dd", {}, text)))),
  told.steps && told.state !== "ended" ? h("progress", { max: told.steps, value: told.step, "aria-label": "Steps done" }) : "",
  ...told.remarks.map((text) => h("p", { class: "problem" }, text))];
}

function curvesOf(mine, theirs, isLog, names) {
  const columns = [...new Set([...Object.keys(mine), ...Object.keys(theirs)])];
  if (!columns.length) return [h("p", { class: "soft" }, "No step was written down yet.")];
  return columns.map((column) => {
    const series = [mine[column], theirs[column]].map((points, k) => points && {
      name: names[k], x: points.x, y: points.y, colour: COLOURS[k],
    }).filter(Boolean);
    const title = MEANINGS[column] ? `${column}: ${MEANINGS[column]}` : column;
    // a curve that is zero or less somewhere has no logarithm there
    const logY = isLog && series.every((one) => one.y.some((v) => v > 0));
    return h("figure", {}, h("h3", {}, title),
      plot({ series, label: `${title} over the steps`, x: "step", logY, width: COLUMN }));
  });
}

// Sheets of one name over the steps, the last of them shown first.
class Samples {
  constructor(entry) {
    this.entry = entry;
    this.image = h("img", { alt: "Random samples of the run" });
    this.caption = h("figcaption", {});
    this.controls = h("div", { class: "row" });
    this.node = h("section", { class: "card sheet", "aria-label": "Samples", hidden: true },
      h("h2", {}, "Samples"), this.controls, h("figure", {}, this.image, this.caption));
    this.text = "";
  }

  show(sheets) {
    const text = JSON.stringify(sheets);
    if (text === this.text) return;
    this.text = text;
    this.node.hidden = !sheets.length;
    const names = [...new Set(sheets.map((sheet) => sheet.name))];
    if (!names.includes(this.name)) this.name = names.find((name) => name === "samples") ?? names[0];
    const those = sheets.filter((sheet) => sheet.name === this.name);
    this.controls.replaceChildren(
      names.length > 1 ? choice({ label: "Sheet", value: this.name,
        options: names.map((name) => [name, name]), onchange: (name) => {
          this.name = name;
          this.text = "";
          this.show(sheets);
        } }) : "",
      those.length > 1 ? slider({ label: "Sheet number", min: 1, max: those.length,
        value: those.length, oninput: (k) => this.pick(those[k - 1]) }) : "");
    if (those.length) this.pick(those.at(-1));
  }

  pick(sheet) {
    this.image.src = `runs/file/${this.entry.id}/${sheet.file}`;
    this.caption.textContent = sheet.step === null ? `${sheet.name}, at the end of the training`
      : `${sheet.name}, step ${sheet.step}`;
  }
}

async function configuration(entry, other) {
  const { configuration: rows, differences } = await json(`training/configuration/${entry.id}`,
    { other: other?.id });
  const whole = h("details", { open: !other }, h("summary", {}, "All of it"),
    h("div", { class: "scroll" }, h("table", { class: "card-rows" }, h("tbody", {}, rows.map(
      ([name, text]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, text)))))));
  if (!other) return whole;
  const table = differences.length ? h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, h("td", {}), [entry, other].map((one) =>
      h("th", { scope: "col" }, one.name)))),
    h("tbody", {}, differences.map(([name, mine, theirs]) => h("tr", {},
      h("th", { scope: "row" }, name), h("td", {}, mine ?? "not there"),
      h("td", {}, theirs ?? "not there"))))))
    : h("p", {}, "Both were started with the same.");
  return h("div", {}, h("h3", {}, "What differs"), table, whole);
}

function cardOf(rows, problem) {
  if (!rows.length && !problem) return "";
  return h("section", { class: "card", "aria-label": "Model card" }, h("h2", {}, "Model card"),
    problem ? h("p", { class: "problem" }, problem) : null,
    h("table", { class: "card-rows" }, h("tbody", {}, rows.map(([label, text]) =>
      h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, text))))));
}

// Seconds as people say them.
function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
