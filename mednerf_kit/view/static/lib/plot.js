// Curves as SVG. plot({series: [{name, x, y, colour, ticks}], x, y, log, mark, onpick}) → <svg>,
// whose mark(x) moves the mark.

import { h } from "./dom.js";

const H = 220, LEFT = 54, RIGHT = 12, TOP = 10, BOTTOM = 34;
export const COLOURS = ["var(--a)", "var(--b)", "var(--c)", "var(--d)", "var(--e)", "var(--f)"];

// Round numbers between two values, about n of them.
export function ticks(low, high, n = 5) {
  if (!(high > low)) return [low];
  const rough = (high - low) / n, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= rough);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) {
    found.push(Number(v.toPrecision(12)));
  }
  return found;
}

function scale(values, log, from, to) {
  const usable = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  let low = Math.min(...usable), high = Math.max(...usable);
  if (!usable.length) [low, high] = log ? [0.1, 1] : [0, 1];
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  const f = log ? Math.log10 : (v) => v;
  const at = (v) => from + ((f(v) - f(low)) / (f(high) - f(low))) * (to - from);
  const back = (p) => {
    const v = f(low) + ((p - from) / (to - from)) * (f(high) - f(low));
    return log ? 10 ** v : v;
  };
  const marks = log
    ? ticks(Math.floor(f(low)), Math.ceil(f(high)), 5).map((k) => 10 ** k)
      .filter((v) => v >= low * 0.999 && v <= high * 1.001)
    : ticks(low, high);
  return { at, back, marks };
}

// A number on an axis.
const short = (v) => (v !== 0 && (Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3)
  ? v.toExponential(0) : String(Number(v.toPrecision(4))));

// label: what a screen reader says; x, y: names of the axes; logX, logY; mark: a vertical line at
// this x; low: smallest y that is shown at least; onpick(x): a click or a tap; width: in units of
// its letters, less where it stands in a narrow column.
export function plot({ series, label, x = "", y = "", logX = false, logY = false, mark, low,
  onpick, width: W = 640 }) {
  const xs = series.flatMap((s) => [...s.x]), ys = series.flatMap((s) => [...s.y]);
  if (low !== undefined) ys.push(low);
  const sx = scale(xs, logX, LEFT, W - RIGHT), sy = scale(ys, logY, H - BOTTOM, TOP);
  const usable = (s, i) => Number.isFinite(s.y[i]) && (!logY || s.y[i] > 0)
    && (!logX || s.x[i] > 0);
  const svg = h("svg", { class: "plot", viewBox: `0 0 ${W} ${H}`, role: "img",
    "aria-label": label });
  for (const v of sx.marks) {
    svg.append(h("line", { class: "axis", x1: sx.at(v), x2: sx.at(v), y1: TOP, y2: H - BOTTOM }),
      h("text", { x: sx.at(v), y: H - BOTTOM + 14, "text-anchor": "middle" }, short(v)));
  }
  for (const v of sy.marks) {
    svg.append(h("line", { class: "axis", x1: LEFT, x2: W - RIGHT, y1: sy.at(v), y2: sy.at(v) }),
      h("text", { x: LEFT - 6, y: sy.at(v) + 4, "text-anchor": "end" }, short(v)));
  }
  svg.append(h("text", { x: (LEFT + W - RIGHT) / 2, y: H - 4, "text-anchor": "middle" }, x),
    h("text", { x: 12, y: (TOP + H - BOTTOM) / 2, "text-anchor": "middle",
      transform: `rotate(-90 12 ${(TOP + H - BOTTOM) / 2})` }, y));
  series.forEach((s, k) => {
    const colour = s.colour ?? COLOURS[k % COLOURS.length];
    const points = [...s.x].map((v, i) => (usable(s, i) ? `${sx.at(v).toFixed(1)},${
      sy.at(s.y[i]).toFixed(1)}` : null)).filter((p) => p !== null);
    if (points.length > 1 && !s.ticks) {
      svg.append(h("polyline", { points: points.join(" "), fill: "none", stroke: colour,
        "stroke-width": 1.8, "stroke-dasharray": s.dash }));
    }
    if (s.ticks || s.dots || points.length === 1) {
      for (const point of points) {
        const [px, py] = point.split(",");
        svg.append(s.ticks
          ? h("line", { x1: px, x2: px, y1: H - BOTTOM, y2: py, stroke: colour, "stroke-width": 1 })
          : h("circle", { cx: px, cy: py, r: 3, fill: colour }));
      }
    }
  });
  if (mark !== undefined && mark !== null) {
    const line = h("line", { class: "mark", y1: TOP, y2: H - BOTTOM, stroke: "var(--ink)",
      "stroke-dasharray": "3 3" });
    svg.append(line);
    svg.mark = (value) => ["x1", "x2"].forEach((end) => line.setAttribute(end, sx.at(value)));
    svg.mark(mark);
  }
  if (onpick) {
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      onpick(sx.back(((event.clientX - box.left) / box.width) * W));
    });
  }
  return svg;
}

// The names of the curves with their colours.
export function key(series) {
  return h("p", {}, series.map((s, k) => h("span", { class: "key" },
    h("i", { style: `background:${s.colour ?? COLOURS[k % COLOURS.length]}` }), s.name)));
}
