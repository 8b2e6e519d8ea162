// The scored views of a scene: truth | rendering | error | depth, with their numbers.
// rendered(source, state, setState) → {node, key(event), close()}.

import { download, h, later, shown } from "./dom.js";
import { player } from "./player.js";
import { plot } from "./plot.js";
import { sheet } from "./sheet.js";

const NUMBERS = [["psnr_db", "PSNR", "dB"], ["ssim", "SSIM", ""], ["lpips", "LPIPS", ""]];

export function rendered(source, state, setState) {
  const { kinds, rows } = source.about.rendered, { means } = source.about;
  const panels = Object.entries(kinds).map(([title, names]) => {
    const image = h("img", { class: "picture", alt: title });
    return { title, names, image, node: h("figure", {}, image, h("figcaption", {}, title)) };
  });
  const numbers = h("dl", { class: "numbers", "aria-label": "Numbers of this view" });
  const keep = later(setState);
  const count = rows.length, first = Math.min(Math.max(Number(state.view ?? 0), 0), count - 1) || 0;
  const curve = plot({ series: [{ name: "PSNR", x: rows.map((_, k) => k),
    y: rows.map((row) => row.psnr_db ?? NaN), dots: true }], label: "PSNR of every view, in dB",
    x: "view", y: "dB", mark: first, onpick: (x) => steps.set(Math.min(Math.max(Math.round(x), 0),
      count - 1)) });

  function show(k) {
    for (const { names, image } of panels) image.src = source.picture(names[k]);
    const lines = [["view", rows[k].stem], ...NUMBERS.filter(([key]) => rows[k][key] != null)
      .map(([key, title, unit]) => [title, shown(rows[k][key], unit, 4)])];
    if (means.psnr_db !== null) lines.push(["mean PSNR", shown(means.psnr_db, "dB", 4)]);
    if (means.ssim !== null) lines.push(["mean SSIM", shown(means.ssim, "", 4)]);
    numbers.replaceChildren(...lines.flatMap(([name, value]) =>
      [h("dt", {}, name), h("dd", {}, value)]));
    curve.mark(k);
    keep({ view: k });
  }

  const steps = player({ count, title: "View", k: first, label: (k) => rows[k].stem,
    onchange: show });
  function picture() {
    const { naturalWidth: width, naturalHeight: height } = panels[0].image;
    return sheet(panels.map(({ image, title }) => ({ picture: image, title })),
      [`${source.about.name}, ${rows[steps.at()].stem}`], { width, height });
  }

  const node = h("section", { class: "card" }, h("h2", {}, "Every scored view"),
    h("div", { class: "orbit" },
      h("div", { class: `panels of-${panels.length}` }, panels.map((panel) => panel.node)),
      h("div", { class: "aside" }, numbers)),
    h("div", { class: "row" }, steps,
      h("button", { type: "button", onclick: () => download(picture(), "views.png") },
        "Save picture")), curve);
  show(first);
  return { node, key: steps.key, close: () => { steps.close(); keep.cancel(); } };
}
