// Result: one result, evaluation or volume of the list.

import { address, ask, json } from "../lib/api.js";
import { choice, h } from "../lib/dom.js";
import { show } from "../lib/shown.js";

const KINDS = ["result", "evaluation", "volume", "scene"];

// What is asked of the server about one entry.
function served(about) {
  const { id } = about;
  return {
    about,
    frames: async (kind) => new Uint16Array(
      await (await ask(`result/frames/${id}/${kind}`)).arrayBuffer()),
    volume: () => json(`result/volume/${id}`),
    voxels: async (name) => (await ask(`result/voxels/${id}/${name}.nii`)).arrayBuffer(),
    slice: async ({ name, index }, { range, overlay, strength }) =>
      address(`result/slice/${id}/${name}/${index}.png`,
        { low: range[0], high: range[1], overlay, strength }),
    value: (voxel, overlay) => json(`result/value/${id}/${voxel.join("/")}`, { overlay }),
    picture: (name) => `runs/file/${id}/${about.inside}${name}`,
  };
}

export async function open(root, state, page) {
  root.append(h("link", { rel: "stylesheet", href: "rooms/result.css" }));
  const entries = (await page.entries(...KINDS)).filter((entry) => !entry.problem);
  if (!entries.length) {
    root.append(h("h1", {}, "Result"), h("p", {}, "There is no result here yet: ",
      h("code", {}, "mednerf-kit project --xray film.png"), " makes one."));
    return;
  }
  const first = entries.find((entry) => entry.kind === "result") ?? entries[0];
  const id = entries.some((entry) => entry.id === state.entry) ? state.entry : first.id;
  page.setState({ entry: id });
  root.append(h("div", { class: "row" }, choice({ label: "Result", value: id,
    options: entries.map((entry) => [entry.id, entry.name]),
    onchange: (entry) => page.go("result", { entry, angle: page.state.angle }) })));
  const about = await json(`result/about/${id}`);
  const room = await show(root, served(about), state, page.setState);
  return { key: room.key, close: room.close };
}
