// Slices as pictures from elsewhere, for browsers without WebGL, in the radiological convention.
// flat(host, volume, source, {onplace}) → {show(…)}; source.slice(plane, index, choice) → address.

import { h, slider } from "./dom.js";

const TITLES = { axial: "Axial", coronal: "Coronal", sagittal: "Sagittal" };
// what runs through each plane's slices: 0 the patient's left, 1 the back, 2 the head
const AXIS = { axial: 2, coronal: 1, sagittal: 0 };

export async function flat(host, volume, source, { onplace }) {
  let chosen;
  host.classList.add("flat");
  const planes = Object.entries(volume.planes).map(([name, { count, size_mm, letters }]) => {
    const image = h("img", { alt: `${TITLES[name]} slice`, class: "picture",
      style: `aspect-ratio: ${size_mm[0]} / ${size_mm[1]}` });
    const plane = { name, index: count >> 1, image };
    const input = slider({ label: `${TITLES[name]} slice`, min: 0, max: count - 1,
      value: plane.index, oninput: (value) => { plane.index = value; draw(plane); place(); } });
    host.append(h("figure", {}, h("div", { class: "slice" }, image,
      ["left", "right", "top", "bottom"].map((side, i) =>
        h("span", { class: `letter ${side}`, "aria-hidden": "true" }, letters[i]))), input));
    return plane;
  });

  function draw(plane) {
    return source.slice(plane, chosen).then((address) => { plane.image.src = address; });
  }
  function place() {
    const mm = [0, 0, 0];
    for (const { name, index } of planes) {
      const axis = AXIS[name];
      mm[axis] = volume.origin_mm[axis] + index * volume.spacing_mm[axis];
    }
    onplace(mm, null, null);
  }

  return {
    async show(next) {
      chosen = next;
      await Promise.all(planes.map(draw));
      place();
    },
  };
}
