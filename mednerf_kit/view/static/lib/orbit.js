// Truth | prediction | signed error | spread at one angle, with a dial, numbers and their curve.
// orbit(source, state, setState) → {node, key(event), close()}.

import { angleLabel, apart, nearestView } from "./angles.js";
import { dial } from "./dial.js";
import { download, h, later, shown } from "./dom.js";
import { Frames, drawError, drawView, table } from "./frames.js";
import { player } from "./player.js";
import { plot } from "./plot.js";
import { sheet } from "./sheet.js";

const ERROR_LIMIT = 0.2;

export async function orbit(source, state, setState) {
  const { frames: found, inputs_deg, scores, means, colours } = source.about;
  const { rows, cols, angles_deg, kinds } = found;
  const views = Object.fromEntries(await Promise.all(kinds.map(async (kind) =>
    [kind, new Frames(await source.frames(kind), rows, cols)])));
  const grey = table(colours.grey), signed = table(colours.signed), heat = table(colours.heat);
  const top = views.spread ? Math.max(views.spread.quantile(0.995), 1e-4) : 1;
  const panels = [
    views.truth && ["Truth", (canvas, k) => drawView(canvas, views.truth, k, grey)],
    views.prediction && ["Prediction", (canvas, k) => drawView(canvas, views.prediction, k, grey)],
    views.truth && views.prediction && [`Error: blue too dark, red too bright (±${ERROR_LIMIT})`,
      (canvas, k) => drawError(canvas, views.prediction, views.truth, k, signed, ERROR_LIMIT)],
    views.spread && [`Spread: 0 to ${shown(top)} (standard deviation)`,
      (canvas, k) => drawView(canvas, views.spread, k, heat, top)],
  ].filter(Boolean).map(([title, draw]) => {
    const canvas = h("canvas", { class: "picture", role: "img", "aria-label": title });
    return { title, draw, canvas, node: h("figure", {}, canvas, h("figcaption", {}, title)) };
  });
  const nearest = (deg) => nearestView(angles_deg, deg);
  const first = nearest(Number(state.angle ?? inputs_deg[0] ?? 270));
  const label = (k) => angleLabel(angles_deg[k]);
  const numbers = h("dl", { class: "numbers", "aria-label": "Numbers at this angle" });
  const curve = h("div", { class: "curves" });
  const clock = dial({ inputs_deg, onpick: (deg) => steps.set(nearest(deg)) });
  // what is steady is in the address: a browser takes only so many changes a second
  const keep = later(setState);
  const meanSpread = views.spread && angles_deg.map((_, k) => views.spread.mean(k));
  let at = first;

  function show(k) {
    at = k;
    for (const { draw, canvas } of panels) draw(canvas, k);
    clock.set(angles_deg[k]);
    keep({ angle: angles_deg[k] });
    count(k);
  }

  // Numbers at this angle, as the evaluation found them.
  function count(k) {
    const row = scores.find((one) => apart(one.angle_deg, angles_deg[k]) < 0.01);
    const given = inputs_deg.some((deg) => apart(deg, angles_deg[k]) < 0.5);
    const lines = [["angle", label(k)]];
    if (row) {
      lines.push(["PSNR", given ? "given view" : shown(row.psnr_db, "dB", 4)],
        ["SSIM", given ? "given view" : shown(row.ssim, "", 4)]);
    } else if (given) lines.push(["", "near the given view"]);
    if (means.psnr_db !== null && scores.length) {
      lines.push(["mean PSNR", shown(means.psnr_db, "dB", 4)], ["mean SSIM", shown(means.ssim, "", 4)]);
    }
    if (meanSpread) lines.push(["mean spread", shown(meanSpread[k])]);
    numbers.replaceChildren(...lines.flatMap(([name, value]) =>
      [h("dt", {}, name), h("dd", {}, value)]));
    curve.querySelectorAll("svg").forEach((svg) => svg.mark?.(angles_deg[k]));
  }

  function curves() {
    const series = (key) => ({ name: key, x: scores.map((row) => row.angle_deg),
      y: scores.map((row) => row[key] ?? NaN) });
    const drawn = scores.length
      ? [["PSNR over angles, in dB", [series("psnr_db")], "dB"],
        ["SSIM over angles", [series("ssim")], ""]]
      : views.spread ? [["Mean spread over angles", [{ name: "spread", x: angles_deg,
        y: meanSpread }], ""]] : [];
    curve.replaceChildren(...drawn.map(([title, lines, y]) => h("figure", {},
      plot({ series: lines, label: title, x: "angle in degrees", y, mark: angles_deg[at],
        width: drawn.length > 1 ? 480 : 960, onpick: (deg) => steps.set(nearest(deg)) }), h("figcaption", {}, title))));
  }

  const steps = player({ count: angles_deg.length, label, k: first, onchange: show });
  const save = h("button", { type: "button", onclick: () => download(picture(), "views.png") },
    "Save picture");

  // The panels side by side, with what they are.
  function picture() {
    const scale = Math.max(1, Math.round(384 / cols));
    return sheet(panels.map(({ canvas, title }) => ({ picture: canvas, title })),
      [`${source.about.name}, ${label(at)}`], { width: cols * scale, height: rows * scale });
  }

  const node = h("section", { class: "card" }, h("h2", {}, "Every view"),
    h("div", { class: `orbit of-${panels.length}` },
      h("div", { class: "panels" }, panels.map((panel) => panel.node)),
      h("div", { class: "aside" }, clock, numbers)),
    h("div", { class: "row" }, steps, save), curve);
  curves();
  show(first);
  return { node, key: steps.key, close: () => { steps.close(); keep.cancel(); } };
}
