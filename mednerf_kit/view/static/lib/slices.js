// A volume: axial, coronal, sagittal and 3-D by NiiVue, or flat slices made elsewhere where the
// browser has no WebGL. slices(place, source, state, setState) → {close()}.

import { choice, download, h, later, slider } from "./dom.js";
import { flat } from "./flat.js";
import { mount, webGl } from "./niivue.js";

const UNIT = { hu: "HU", relative: "relative attenuation", mu_per_mm: "per mm" };
const LAYOUTS = { planes: "three planes", all: "three planes and 3-D", axial: "axial",
  coronal: "coronal", sagittal: "sagittal", body: "3-D" };
const TITLES = { lung: "lung", mediastinum: "mediastinum", bone: "bone", everything: "everything" };

const brief = (value) => Number(value.toPrecision(3));

export async function slices(place, source, state, setState) {
  const volume = await source.volume();
  const webgl = webGl();
  const unit = UNIT[volume.quantity] ?? volume.quantity;
  const windows = Object.entries(volume.windows);
  const chosen = {
    window: state.window in volume.windows ? state.window : volume.quantity === "hu" ? "lung"
      : "everything",
    overlay: state.overlay in volume.overlays ? state.overlay : "",
    strength: Number(state.strength ?? 0.5),
    // in three dimensions only where that is quick, or where it is asked for
    planes: state.planes in LAYOUTS ? state.planes : webgl === "hardware" ? "all" : "planes",
  };
  const reading = h("output", { class: "reading", "aria-label": "Value at the crosshair" });
  const host = h("div", { class: "volume" });
  const overlays = Object.fromEntries(source.about.overlays);
  // the place under the crosshair: millimetres to the left, back and head
  const said = (state.at ?? "").split(",").map(Number);
  const at = said.length === 3 && said.every(Number.isFinite) ? said : null;
  const keep = later(setState);
  let view;
  const draw = () => view.show({ range: volume.windows[chosen.window], ...chosen });
  const change = (changes) => {
    Object.assign(chosen, changes);
    setState(changes);
    return draw();
  };
  const strength = slider({ label: "Opacity", min: 0, max: 1, step: 0.05, value: chosen.strength,
    oninput: (value) => change({ strength: value }) });
  const words = () => {
    const [low, high] = volume.windows[chosen.window].map(brief);
    return [source.about.name, reading.textContent, `Window ${TITLES[chosen.window]}: ${low} to ${
      high} ${unit}`, legend.textContent].filter(Boolean);
  };
  const legend = h("p", { class: "soft" });
  const explain = () => {
    const over = volume.overlays[chosen.overlay];
    strength.hidden = !over;
    legend.textContent = over ? `Colours of ${overlays[chosen.overlay]}: from ${
      brief(over.limit[0])} to ${brief(over.limit[1])}; where it is less than ${
      Math.round(100 * over.clear)} % of that, nothing is drawn.` : "";
  };
  const node = h("section", { class: "card" }, h("h2", {}, "Slices"),
    h("div", { class: "row" },
      choice({ label: "Window", value: chosen.window, options: windows.map(([name, [low, high]]) =>
        [name, `${TITLES[name]} (${Number(low.toPrecision(3))} to ${Number(high.toPrecision(3))})`]),
        onchange: (window) => change({ window }) }),
      webgl ? choice({ label: "Show", value: chosen.planes, options: Object.entries(LAYOUTS),
        onchange: (planes) => change({ planes }) }) : null,
      Object.keys(volume.overlays).length ? choice({ label: "Overlay", value: chosen.overlay,
        options: [["", "none"], ...Object.keys(volume.overlays).map((k) => [k, overlays[k]])],
        onchange: (overlay) => { change({ overlay }); explain(); } }) : null,
      strength, h("button", { type: "button", onclick: () => download(view.picture(words()),
        "slices.png") }, "Save picture")),
    host, h("p", {}, reading), legend,
    h("p", { class: "soft" }, volume.quantity === "hu" ? ""
      : "The scale is not known: values are relative attenuation, and the windows stand where the "
        + "volume's own soft tissue lies."),
    webgl ? null : h("p", { class: "soft" }, "This browser offers no WebGL, so that the slices are "
      + "pictures made beforehand or by the server; there is no 3-D view."),
    volume.remarks.map((text) => h("p", { class: "soft" }, text)));
  explain();
  place.replaceChildren(node); // a viewer has to know how large it is
  view = await (webgl ? mount : flat)(host, volume, source, {
    webgl, at,
    // with the values there, as far as they are known
    onplace(mm, value, over) {
      const [x, y, z] = mm.map((one) => Math.round(one) || 0);
      keep({ at: mm.map((one) => Number(one.toFixed(1))).join(",") });
      const words = [`left ${x}, back ${y}, up ${z} mm`];
      if (value !== null) words.push(`${Number(value.toPrecision(4))} ${unit}`);
      if (over !== null) words.push(`${overlays[chosen.overlay]} ${brief(over)}`);
      reading.textContent = words.join(" · ");
    },
  });
  await draw();
  return { close() { view.close?.(); keep.cancel(); } };
}
