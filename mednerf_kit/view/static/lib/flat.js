// Slices as pictures from elsewhere, for browsers without WebGL, in the radiological convention.
// flat(host, volume, source, {onplace, at}) → {show(…), picture()}; source.slice(plane, choice) →
// address; source.value(voxel, overlay) → [value, value of the overlay or null].

import { h, slider } from "./dom.js";
import { newest } from "./newest.js";
import { sheet } from "./sheet.js";

const TITLES = { axial: "Axial", coronal: "Coronal", sagittal: "Sagittal" };
// what runs through each plane's slices: 0 the patient's left, 1 the back, 2 the head
const AXIS = { axial: 2, coronal: 1, sagittal: 0 };
// the planes whose slices run along a picture's columns and rows; the head is at the top
const ACROSS = { axial: ["sagittal", "coronal"], coronal: ["sagittal", "axial"],
  sagittal: ["coronal", "axial"] };

export async function flat(host, volume, source, { onplace, at }) {
  const { origin_mm: origin, spacing_mm: spacing } = volume;
  let chosen;
  host.classList.add("flat");
  const planes = {};
  for (const [name, { count, size_mm, letters }] of Object.entries(volume.planes)) {
    const axis = AXIS[name];
    const first = at ? Math.round((at[axis] - origin[axis]) / spacing[axis]) : count >> 1;
    const image = h("img", { alt: `${TITLES[name]} slice`, class: "picture",
      style: `aspect-ratio: ${size_mm[0]} / ${size_mm[1]}` });
    const lines = ["column", "row"].map((kind) => h("i", { class: `cross ${kind}` }));
    const plane = { name, count, image, lines, size_mm,
      index: Math.min(Math.max(first, 0), count - 1) };
    plane.input = slider({ label: `${TITLES[name]} slice`, min: 0, max: count - 1,
      value: plane.index, oninput: (value) => go({ [name]: value }) });
    planes[name] = plane;
    host.append(h("figure", {}, h("div", { class: "slice", onclick: (event) => pick(plane, event) },
      image, lines, ["left", "right", "top", "bottom"].map((side, i) =>
        h("span", { class: `letter ${side}`, "aria-hidden": "true" }, letters[i]))), plane.input));
  }

  function go(indices) {
    for (const [name, index] of Object.entries(indices)) {
      if (planes[name].index === index) continue;
      planes[name].index = index;
      planes[name].input.set(index);
      draw(planes[name]);
    }
    place();
  }

  // A click brings the other two planes to that place.
  function pick({ name }, event) {
    const box = event.currentTarget.getBoundingClientRect();
    const shares = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    go(Object.fromEntries(ACROSS[name].map((other, k) => {
      const { count } = planes[other], share = other === "axial" ? 1 - shares[k] : shares[k];
      return [other, Math.min(Math.max(Math.floor(share * count), 0), count - 1)];
    })));
  }

  function draw(plane) {
    return source.slice(plane, chosen).then((address) => { plane.image.src = address; });
  }

  const read = newest(async (mm) => {
    const voxel = ["sagittal", "coronal", "axial"].map((name) => planes[name].index);
    onplace(mm, ...await source.value(voxel, chosen.overlay));
  }, () => {});

  function place() {
    for (const { name, lines } of Object.values(planes)) {
      ACROSS[name].forEach((other, k) => {
        const share = (planes[other].index + 0.5) / planes[other].count;
        lines[k].style[k ? "top" : "left"] = `${100 * (other === "axial" ? 1 - share : share)}%`;
      });
    }
    const mm = [0, 0, 0];
    for (const [name, axis] of Object.entries(AXIS)) {
      mm[axis] = origin[axis] + planes[name].index * spacing[axis];
    }
    onplace(mm, null, null);
    read(mm);
  }

  return {
    async show(next) {
      chosen = next;
      await Promise.all(Object.values(planes).map(draw));
      place();
    },
    picture(lines) {
      const those = Object.values(planes);
      const wide = Math.max(...those.map(({ size_mm }) => size_mm[0]));
      const high = Math.max(...those.map(({ size_mm }) => size_mm[1]));
      const scale = 384 / Math.max(wide, high);
      return sheet(those.map(({ name, image, size_mm }) => {
        const picture = h("canvas", { width: scale * wide, height: scale * high });
        const [w, d] = size_mm.map((one) => scale * one);
        picture.getContext("2d").drawImage(image, (picture.width - w) / 2,
          (picture.height - d) / 2, w, d);
        return { picture, title: `${TITLES[name]}, the patient's ${
          name === "sagittal" ? "back" : "left"} on the right` };
      }), lines, { width: Math.round(scale * wide), height: Math.round(scale * high) });
    },
  };
}
