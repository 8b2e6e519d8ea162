// The page of one result that was saved as a file: everything is in its own content.

import { cutter, reader } from "./cut.js";
import { show } from "./shown.js";

const content = JSON.parse(document.getElementById("content").textContent);

async function unpacked(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// The levels of views from their differences along the rows, high bytes first.
async function levels(kind) {
  const { cols } = content.about.frames, bytes = new Uint8Array(await unpacked(content.frames[kind]));
  const count = bytes.length / 2, found = new Uint16Array(count);
  for (let i = 0; i < count; i++) {
    const step = bytes[i] * 256 + bytes[count + i];
    found[i] = i % cols ? found[i - 1] + step : step;
  }
  return found;
}

const kept = {};
const voxels = (name) => (kept[name] ??= unpacked(content.voxels[name]));
const source = {
  about: content.about,
  frames: levels,
  volume: async () => content.volume,
  voxels,
  slice: cutter(content.volume, content.about.colours, voxels),
  value: reader(voxels),
  picture: (name) => content.pictures[name],
};

const state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
function setState(changes) {
  Object.assign(state, changes);
  history.replaceState(null, "", `#${new URLSearchParams(state)}`);
}

document.getElementById("theme").addEventListener("click", () => {
  const { dataset } = document.documentElement;
  dataset.theme = dataset.theme === "dark" ? "light" : "dark";
});
const room = await show(document.getElementById("main"), source, state, setState);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (!event.target.closest("input:not([type=checkbox]), select, textarea, [role=application]")) room.key(event);
});
document.body.dataset.ready = "result";
