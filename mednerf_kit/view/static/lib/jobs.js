// The list of projections: waiting, running and ended, asked for anew as long as one goes on.

import { json } from "./api.js";
import { h } from "./dom.js";
import { plot } from "./plot.js";

const STAGES = [["read", "read"], ["invert", "search"], ["predict", "project"], ["write", "write"]];
const STATES = { waiting: "waiting", running: "running", done: "done", failed: "failed",
  stopped: "stopped" };
const PARTS = { codes: "patients of the prior", pivot: "this patient in detail",
  latents: "patients of the prior", networks: "this patient's own network" };
const BUSY_MS = 700, QUIET_MS = 5000;

// → {node, mostBytes, refresh(), close()}
export async function jobList(page) {
  const list = h("ul", { class: "jobs" }), cards = new Map();
  const told = { node: list, mostBytes: Infinity, refresh, close: () => clearTimeout(timer) };
  let timer, closed = false;
  told.close = () => { closed = true; clearTimeout(timer); };

  async function refresh() {
    clearTimeout(timer);
    let jobs = null;
    try {
      const answer = await json("project/jobs");
      told.mostBytes = answer.most_bytes;
      jobs = answer.jobs;
      draw(jobs);
    } catch (error) {
      list.replaceChildren(h("li", { class: "problem", role: "alert" }, error.message));
      cards.clear();
    }
    const busy = jobs?.some((job) => job.state === "running" || job.state === "waiting");
    clearTimeout(timer);
    if (!closed) timer = setTimeout(refresh, busy ? BUSY_MS : QUIET_MS);
  }

  function draw(jobs) {
    const kept = new Set(jobs.map((job) => job.id));
    for (const id of cards.keys()) if (!kept.has(id)) cards.delete(id);
    for (const job of jobs) {
      if (!cards.has(job.id)) cards.set(job.id, new Card(act));
      cards.get(job.id).show(job, job.id === page.state.job);
    }
    const nodes = jobs.map((job) => cards.get(job.id).node);
    if (!nodes.length) nodes.push(h("li", { class: "soft" }, "No X-ray was projected yet."));
    // nodes that stay are not moved, so that what has the focus keeps it
    if (nodes.length !== list.children.length
      || nodes.some((node, k) => node !== list.children[k])) list.replaceChildren(...nodes);
  }

  async function act(what, id) {
    try {
      await json(`project/${what}/${id}`, {}, { method: "POST" });
    } catch (error) {
      cards.get(id)?.complain(error.message);
    }
    await refresh();
  }

  await refresh();
  return told;
}

class Card {
  constructor(act) {
    this.act = act;
    this.title = h("h3", {});
    this.state = h("span", { class: "state" });
    this.buttons = h("span", { class: "buttons" });
    this.bar = h("progress", { "aria-label": "Progress of this stage" });
    this.stages = h("ol", { class: "stages" });
    this.says = h("p", { class: "soft", role: "status" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.image = h("img", { alt: "X-ray, projection and signed error beside each other" });
    this.curve = h("div", {});
    this.live = h("div", { class: "live", hidden: true },
      h("figure", {}, this.image, h("figcaption", { class: "thirds" },
        h("span", {}, "X-ray"), h("span", {}, "projection"), h("span", {}, "error: red too bright"))),
      h("figure", {}, this.curve, h("figcaption", {}, "Fit of pixels of the X-ray that are kept ",
        "aside, in dB. It is no accuracy of other views.")));
    this.node = h("li", { class: "card job" },
      h("div", { class: "head" }, this.title, this.state, this.says, this.buttons),
      this.problem, this.bar, this.stages, this.live);
  }

  complain(text) {
    this.problem.textContent = text;
    this.problem.hidden = !text;
  }

  show(job, isChosen) {
    const told = job.progress, text = JSON.stringify([job, isChosen]);
    if (text === this.text) return;
    this.text = text;
    this.node.dataset.state = job.state;
    this.title.textContent = job.name;
    this.state.textContent = STATES[job.state];
    this.state.className = `state ${job.state}`;
    this.says.textContent = this.sentence(job);
    this.complain(job.state === "failed" ? job.problem : "");
    this.bar.hidden = this.stages.hidden = job.state !== "running";
    if (told.steps) {
      this.bar.max = told.steps;
      this.bar.value = told.step;
    } else this.bar.removeAttribute("value");
    const began = told.stages ?? [], now = began.length - 1;
    this.stages.replaceChildren(...STAGES.map(([id, name]) => {
      const k = began.findIndex((stage) => stage.name === id), done = k >= 0 && k < now;
      return h("li", { class: k === now && k >= 0 ? "now" : "" },
        `${done ? "✓ " : ""}${name}${done ? ` ${began[k].seconds} s` : ""}`);
    }));
    this.live.hidden = !(told.pictures > 0 && (job.state === "running" || isChosen));
    if (!this.live.hidden) {
      const address = `project/picture/${job.id}?n=${job.created}-${told.pictures}`;
      if (this.image.getAttribute("src") !== address) this.image.src = address;
      this.curve.replaceChildren(curveOf(told.curve ?? []));
    }
    this.setButtons(job);
  }

  sentence(job) {
    const told = job.progress;
    if (job.state === "waiting") {
      return job.position === 1 ? "next in the queue" : `${job.position} before it in the queue`;
    }
    if (job.state === "stopped") return job.problem;
    if (job.state === "done") {
      const seconds = (told.stages ?? []).reduce((sum, stage) => sum + (stage.seconds ?? 0), 0);
      return `by ${job.prior} in ${Math.round(seconds)} s`;
    }
    if (job.state !== "running") return "";
    if (!told.stages) return `by ${job.prior}: starting`;
    if (!told.steps) return `by ${job.prior}`;
    return `by ${job.prior}: ${PARTS[told.part] ?? told.part}, step ${told.step} of ${told.steps}`;
  }

  setButtons(job) {
    const wanted = { waiting: ["stop"], running: ["stop"], done: ["open", "remove"],
      failed: ["again", "remove"], stopped: ["again", "remove"] }[job.state];
    const text = wanted.join() + (job.entry ?? "");
    if (text === this.offered) return;
    this.offered = text;
    const button = (label, what) => h("button", { type: "button", "aria-label":
      `${label} ${job.name}`, onclick: () => this.act(what, job.id) }, label);
    const make = { stop: () => button("Stop", "stop"), again: () => button("Start again", "again"),
      remove: () => button("Remove from the list", "remove"),
      open: () => h("a", { href: `#result?entry=${job.entry}` }, "Open the result") };
    this.buttons.replaceChildren(...wanted.map((what) => make[what]()));
  }
}

// PSNR over the steps of all parts, one after the other.
function curveOf(points) {
  let before = 0, last = null, end = 0;
  const x = [], y = [];
  for (const [part, step, psnr] of points) {
    if (last !== null && part !== last) before = end;
    last = part;
    end = before + step;
    x.push(end);
    y.push(psnr);
  }
  return plot({ series: [{ name: "fit", x, y }], label: "Fit of held-out pixels over the steps",
    x: "step", y: "dB" });
}
