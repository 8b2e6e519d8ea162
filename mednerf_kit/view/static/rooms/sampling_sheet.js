// What happens along one ray: the curves of the reference, then every strategy's samples.

import { h, shown } from "../lib/dom.js";

export const MODELS = { line_integral: "X-ray", emission_absorption: "Emission and absorption" };
export const STRATEGIES = {
  stratified: ["Stratified", "--a", "one in each of equal parts"],
  importance: ["Importance", "--b", "more where coarse ones weigh"],
  local: ["Local (L-NeRF)", "--c", "finer where coarse ones pass"],
  guided: ["Depth-guided", "--d", "half of them at a known depth"],
  occupancy: ["Occupancy", "--f", "none in cells known as empty"],
};
const W = 600, CURVE = 46, STRIP = 30;

// A pixel: a grey value with four places, a colour with two each.
export const written = (channels) =>
  channels.map((v) => v.toFixed(channels.length > 1 ? 2 : 4)).join(" ");
// What is really there: a sampler marks the rest by a length of 0.
export const present = (level) => level.t.map((t, i) => ({ t, dt: level.dt[i], tau: level.tau[i],
  w: level.w[i] })).filter((one) => one.dt > 0);

const most = (values) => Math.max(...values, 1e-12);

function strip(height, ...inside) {
  return h("svg", { class: "strip", height, viewBox: `0 0 ${W} ${height}`,
    preserveAspectRatio: "none", "aria-hidden": "true" },
  h("line", { x1: 0, x2: W, y1: height, y2: height, stroke: "var(--line)" }), inside.flat());
}

function curve(x, ts, values, top) {
  const points = values.map((v, i) => `${x(ts[i]).toFixed(1)},${
    (CURVE - (CURVE - 2) * Math.min(v / top, 1)).toFixed(1)}`);
  const [first] = points[0].split(","), [last] = points.at(-1).split(",");
  return [
    h("polygon", { points: `${first},${CURVE} ${points.join(" ")} ${last},${CURVE}`,
      fill: "var(--soft)", opacity: 0.16 }),
    h("polyline", { points: points.join(" "), fill: "none", stroke: "var(--soft)",
      "stroke-width": 1.5 })];
}

function swatch(channels) {
  if (channels.length < 3) return null;
  const bytes = channels.map((v) => Math.round(255 * Math.max(0, Math.min(1, v))));
  return h("i", { class: "swatch", style: `background: rgb(${bytes.join(" ")})` });
}

// {model, answer, subject, chosen, choose(name), cut: [near, far] in t} → a table.
export function sheet({ model, answer, subject, chosen, choose, cut }) {
  const { near, far, curves: c } = answer;
  const x = (t) => ((t - near) / Math.max(far - near, 1e-9)) * W;
  // what near and far leave out is dimmed
  const dim = (height) => [[near, cut[0]], [cut[1], far]].filter(([a, b]) => b > a)
    .map(([a, b]) => h("rect", { x: x(a), width: x(b) - x(a), y: 0, height,
      fill: "var(--ground)" }));
  const isXray = model === "line_integral";
  const rows = [
    ["Density σ", `up to ${shown(most(c.sigma))} per unit`, c.sigma, most(c.sigma)],
    ["Transmittance T", "light still there, 1 to 0", c.T, 1],
    ["Weight w", isXray ? "share of the line integral" : "share of the pixel", c.w, most(c.w)],
  ].map(([name, text, values, top]) => h("tr", {},
    h("th", { scope: "row" }, name, h("small", {}, text)),
    h("td", {}, strip(CURVE, dim(CURVE), curve(x, c.t, values, top))), h("td", { colspan: 3 })));
  const axis = h("tr", {}, h("td", {}), h("td", {}, h("div", { class: "axis-row" },
    [0, 0.5, 1].map((s) => h("span", {}, shown(near + s * (far - near)))))),
  h("td", { colspan: 3, class: "soft" }, `t, ${subject.unit}`));
  const reference = h("tr", { "data-strategy": "reference" },
    h("th", { scope: "row" }, "Reference", h("small", {}, "dense, even")), h("td", {}),
    h("td", { class: "number", "data-value": answer.reference.join(" ") },
      swatch(answer.reference), written(answer.reference)),
    h("td", { class: "number" }, "–"),
    h("td", { class: "number" }, String(answer.reference_evaluations)));
  const strategies = Object.entries(STRATEGIES).map(([name, [title, colour, text]]) => {
    const one = answer.strategies[name], level = present(one.levels.at(-1));
    const top = most(level.map(({ w, dt }) => w / dt));
    const marks = level.map(({ t, w, dt }) => h("line", { x1: x(t), x2: x(t), y1: STRIP,
      y2: (22 - 21 * Math.min(w / dt / top, 1)).toFixed(1), stroke: `var(${colour})` }));
    return h("tr", { "data-strategy": name, "data-chosen": String(name === chosen) },
      h("th", { scope: "row" }, h("button", { type: "button", onclick: () => choose(name),
        "aria-pressed": String(name === chosen), style: `--mine: var(${colour})` }, title),
      h("small", {}, text)),
      h("td", {}, strip(STRIP, dim(STRIP), marks)),
      h("td", { class: "number", "data-value": one.value.join(" ") }, swatch(one.value),
        written(one.value)),
      h("td", { class: "number", "data-value": one.error }, one.error.toExponential(1)),
      h("td", { class: "number" }, String(one.evaluations)));
  });
  return h("section", { class: "card scroll", "aria-label": `Along the ray: ${MODELS[model]}` },
    h("h2", {}, `Along the ray: ${MODELS[model]}`),
    h("table", { class: "sheet" },
      h("colgroup", {}, ["136px", "auto", answer.reference.length > 1 ? "128px" : "86px", "62px",
        "82px"].map((width) => h("col", { style: `width: ${width}` }))),
      h("thead", {}, h("tr", {}, ["", "", isXray === (subject.image_model === "line_integral")
        ? subject.quantity : isXray ? "line integral" : "opacity", "error", "evaluations"].map(
        (text, i) => h(i > 1 ? "th" : "td", { scope: i > 1 ? "col" : null,
          class: i > 1 ? "number" : null }, text)))),
      h("tbody", {}, rows, axis, reference, strategies)),
    h("p", { class: "soft" }, depthOf(answer), " The occupancy grid has 32³ cells; those are left "
      + "out in which a step has next to no optical depth."));
}

function depthOf({ depth, is_depth_exact: exact }) {
  if (depth === null) return "Nothing is hit here: depth-guided sampling is even.";
  return `Depth-guided sampling is told t = ${shown(depth)}, ${exact ? "where the surface is"
    : "before which half of the reference's weight lies"}.`;
}
