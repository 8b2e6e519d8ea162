// One result: views, slices, words. The page of the room and the page that is saved both show it.
// show(root, source, state, setState) → {key(event), close()}; source: {about, frames(kind),
// volume(), voxels(name), slice(plane, choice), picture(name)}.

import { h, shown } from "./dom.js";
import { orbit } from "./orbit.js";
import { rendered } from "./rendered.js";
import { slices } from "./slices.js";

const MEASURED = (one) => `${shown(one.mean, one.unit)}${one.bounds_90
  ? ` (${shown(one.bounds_90[0])} to ${shown(one.bounds_90[1])})` : ""}`;

// A text that begins with a capital, unless it begins with the name of a file.
const sentence = (text) => (/^\S*[._]/.test(text) ? text : text[0].toUpperCase() + text.slice(1));

export async function show(root, source, state, setState) {
  const { about } = source;
  root.append(h("h1", {}, about.name));
  for (const text of about.warnings) {
    root.append(h("p", { class: "problem" }, `${sentence(text)}.`));
  }
  const parts = [];
  if (about.frames) parts.push(await orbit(source, state, setState));
  else if (about.rendered) parts.push(rendered(source, state, setState));
  if (parts.length) root.append(parts[0].node);
  if (about.has_volume) {
    const place = h("div", {}, h("p", { class: "soft" }, "Reading the volume …"));
    root.append(place);
    parts.push(await slices(place, source, state, setState));
  }
  const texts = words(about, source);
  root.append(...texts);
  if (!parts.length && !texts.length) {
    root.append(h("p", {}, "There are no views and no volume here yet: ",
      h("code", {}, "mednerf-kit evaluate --run RUN"), " makes some of a run."));
  }
  return {
    key: (event) => parts.some((part) => part.key?.(event)),
    close: () => parts.forEach((part) => part.close?.()),
  };
}

function words(about, source) {
  const found = [];
  if (about.measures.length) {
    found.push(h("section", { class: "card" }, h("h2", {}, "Measures"), h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "what"),
        h("th", { scope: "col" }, "mean (bounds that hold for nine patients in ten)"))),
      h("tbody", {}, about.measures.map((one) => h("tr", {},
        h("th", { scope: "row" }, one.name), h("td", {}, MEASURED(one))))))));
  }
  if (about.sentences.length) {
    found.push(h("section", { class: "card" }, h("h2", {}, "What this rests on"),
      about.sentences.map((text) => h("p", {}, text))));
  }
  if (about.pictures.length) {
    found.push(h("section", { class: "card" }, h("h2", {}, "Pictures"),
      h("div", { class: "columns" }, about.pictures.map(([name, title]) => h("figure", {},
        h("img", { class: "picture", src: source.picture(name), alt: title }),
        h("figcaption", {}, title))))));
  }
  return found;
}
