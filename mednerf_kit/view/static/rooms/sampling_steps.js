// One ray step by step: bins, jitter, density, weights, resampling, pixel.

import { h, shown } from "../lib/dom.js";
import { STRATEGIES, present, written } from "./sampling_sheet.js";

const W = 900, H = 190, BASE = 150, TOP = 14;
const STEPS = {
  bins: "The ray is cut into bins, one for each sample of the first level.",
  jitter: "Every bin gets a sample: its middle, or with jitter a random place.",
  density: "The field is asked for its density at each sample.",
  weights: "Density times length, dimmed by what lies before it, is the sample's weight.",
  resampling: "A second level puts its samples where the weights are large.",
  pixel: "The weighted samples add up to the pixel, from the near end to the far one.",
};
const ABOUT_XRAY = "Density times length is the sample's share of the line integral; nothing dims it.";
const ONE_LEVEL = "This strategy has one level: nothing is resampled.";

// steps() → a section with .show({answer, model, strategy}).
export function steps() {
  const names = Object.keys(STEPS);
  const list = h("ol", { class: "steps" }, names.map((name) => h("li", {}, name)));
  const picture = h("div", {}), text = h("p", { "aria-live": "polite" });
  const next = h("button", { type: "button", onclick: () => go(at + 1) }, "Step");
  const play = h("button", { type: "button", onclick: () => (timer ? stop() : start()) }, "Play");
  const title = h("h2", {}, "Step by step");
  const root = h("section", { class: "card", "aria-label": "Step by step" }, title, list, picture,
    text, h("div", { class: "row" }, next, play));
  let at = 0, shownNow = null, timer = null;

  function go(step) {
    at = step % names.length;
    draw();
  }

  function start() {
    play.textContent = "Pause";
    timer = setInterval(() => {
      if (!root.isConnected || at === names.length - 1) return stop();
      go(at + 1);
    }, 1400);
    go(at === names.length - 1 ? 0 : at + 1);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  function draw() {
    if (!shownNow) return;
    const { answer, model, strategy } = shownNow;
    const [name, colour] = STRATEGIES[strategy], one = answer.strategies[strategy];
    title.textContent = `Step by step: ${name}`;
    [...list.children].forEach((item, i) => {
      item.toggleAttribute("aria-current", false);
      if (i === at) item.setAttribute("aria-current", "step");
    });
    const here = names[at], twoLevels = one.levels.length > 1;
    text.textContent = here === "weights" && model === "line_integral" ? ABOUT_XRAY
      : here === "resampling" && !twoLevels ? ONE_LEVEL
        : here === "pixel" ? `${STEPS.pixel} It is ${written(one.value)} after ${
          one.evaluations} evaluations.` : STEPS[here];
    picture.replaceChildren(drawn(here, answer, one, `var(${colour})`, twoLevels));
  }

  root.show = (what) => { shownNow = what; draw(); };
  root.stop = stop;
  return root;
}

function drawn(step, answer, one, colour, twoLevels) {
  const { near, far } = answer;
  const x = (t) => (((t - near) / Math.max(far - near, 1e-9)) * (W - 20) + 10).toFixed(1);
  const svg = h("svg", { class: "stage", viewBox: `0 0 ${W} ${H}`, role: "img",
    "aria-label": `The ray at the step ${step}` },
  h("line", { x1: 10, x2: W - 10, y1: BASE, y2: BASE, stroke: "var(--soft)" }));
  const bins = one.bins.t.map((t, i) => [t - one.bins.dt[i] / 2, t + one.bins.dt[i] / 2,
    one.bins.dt[i]]).filter(([, , dt]) => dt > 0);
  const first = present(one.levels[0]), last = present(one.levels.at(-1));
  const line = (t, y1, y2, stroke, width = 1) => h("line", { x1: x(t), x2: x(t), y1, y2, stroke,
    "stroke-width": width });
  const dots = (level, y, fill) => level.map(({ t }) => h("circle", { cx: x(t), cy: y, r: 2.6,
    fill }));
  const bars = (level, height) => {
    const top = Math.max(...level.map(height), 1e-12);
    return level.map((one) => line(one.t, BASE, BASE - (BASE - TOP) * (height(one) / top), colour,
      2));
  };
  const density = ({ tau, dt }) => tau / dt;
  if (step !== "pixel" && step !== "resampling") {
    svg.append(...bins.flatMap(([a, b]) => [line(a, BASE, BASE + 14, "var(--soft)"),
      line(b, BASE, BASE + 14, "var(--soft)")]));
  }
  if (step === "jitter") svg.append(...dots(first, BASE - 8, colour));
  if (step === "density") svg.append(...bars(first, density));
  if (step === "weights" || (step === "resampling" && !twoLevels)) {
    svg.append(...bars(first, ({ w }) => w));
  }
  if (step === "resampling" && twoLevels) {
    const old = new Set(first.map(({ t }) => t));
    svg.append(...bars(first, ({ w }) => w), ...last.filter(({ t }) => !old.has(t))
      .map(({ t }) => line(t, BASE + 4, BASE + 24, "var(--ink)")));
  }
  if (step === "pixel") {
    let sum = 0;
    const total = last.reduce((before, { w }) => before + w, 0);
    const points = last.map(({ t, w }) => {
      sum += w;
      return `${x(t)},${(BASE - (BASE - TOP) * (sum / Math.max(total, 1e-12))).toFixed(1)}`;
    });
    svg.append(h("polyline", { points: `10,${BASE} ${points.join(" ")} ${W - 10},${TOP}`,
      fill: "none", stroke: colour, "stroke-width": 2 }), ...last.map(({ t }) =>
      line(t, BASE + 2, BASE + 12, "var(--soft)")));
  }
  svg.append(h("text", { x: 10, y: H - 6 }, shown(near)), h("text", { x: W - 10, y: H - 6,
    "text-anchor": "end" }, shown(far)));
  return svg;
}
