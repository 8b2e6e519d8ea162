// Runs: all that was found; filter, open, or choose up to four and compare them.

import { json } from "../lib/api.js";
import { h, shown, tell } from "../lib/dom.js";

const KINDS = { prior: "Prior", scene: "Scene", result: "Result", evaluation: "Evaluation",
  ablation: "Ablation", volume: "Volume" };
// kind → rooms that can show it, the first by a click on its name
const ROOMS = {
  prior: [["patients", "Random patients"], ["sampling", "Sampling lab"], ["training", "Training"],
    ["project", "Project an X-ray"]],
  scene: [["sampling", "Sampling lab"], ["training", "Training"], ["result", "Scored views"]],
  result: [["result", "Open"]],
  evaluation: [["result", "Open"]],
  ablation: [["models", "Compare models"]],
  volume: [["result", "Open"]],
};
const MOST = 4;

export async function open(root, state, page) {
  const { entries, first } = await json("runs/list");
  if (first && !state.seen) {
    const entry = entries.find((one) => one.id === first);
    history.replaceState(null, "", "#runs?seen=1");
    if (entry && !entry.problem) return page.go(ROOMS[entry.kind][0][0], { entry: first });
  }
  const chosen = new Set((state.chosen ?? "").split(",").filter(Boolean));
  const list = h("ul", { class: "entries" }), beside = h("section", { "aria-live": "polite" });
  const search = h("input", { type: "search", placeholder: "name, kind …", value: state.filter ?? "",
    "aria-label": "Filter", oninput: () => { page.setState({ filter: search.value }); draw(); } });
  const kinds = h("select", { "aria-label": "Kind", onchange: () => {
    page.setState({ kind: kinds.value }); draw();
  } }, h("option", { value: "" }, "everything"), Object.entries(KINDS).map(([id, text]) =>
    h("option", { value: id, selected: id === state.kind }, text)));

  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fitting = entries.filter((entry) => (!kinds.value || entry.kind === kinds.value)
      && words.every((word) => `${entry.name} ${KINDS[entry.kind]}`.toLowerCase().includes(word)));
    list.replaceChildren(...fitting.map(card));
    if (!fitting.length) {
      list.append(h("li", { class: "soft" }, entries.length ? "Nothing fits this filter."
        : "There are no runs here yet: `mednerf-kit project --xray …` or `train` makes some."));
    }
  }

  function card(entry) {
    const rooms = entry.problem ? [] : ROOMS[entry.kind];
    const box = h("input", { type: "checkbox", checked: chosen.has(entry.id),
      disabled: Boolean(entry.problem), "aria-label": `Compare ${entry.name}`,
      onchange: () => choose(entry.id, box) });
    return h("li", { class: "card entry" },
      entry.has_picture ? h("img", { src: `runs/thumbnail/${entry.id}`, alt: "", loading: "lazy" })
        : h("div", { class: "no-picture", "aria-hidden": "true" }, KINDS[entry.kind][0]),
      h("div", {},
        h("h2", {}, rooms.length
          ? h("a", { href: `#${rooms[0][0]}?entry=${entry.id}` }, entry.name) : entry.name),
        h("p", { class: "soft" }, `${KINDS[entry.kind]} · ${when(entry.modified)}`),
        entry.problem ? h("p", { class: "problem" }, entry.problem) : null,
        h("p", {}, Object.entries(entry.numbers).map(([label, [value, unit]]) =>
          `${label} ${shown(value, unit)}`).join(" · ")),
        h("p", { class: "links" }, rooms.map(([room, text]) =>
          h("a", { href: `#${room}?entry=${entry.id}` }, text)))),
      h("label", { class: "compare" }, box, "compare"));
  }

  function choose(id, box) {
    if (box.checked && chosen.size >= MOST) {
      box.checked = false;
      tell(`At most ${MOST} stand side by side: take another away first.`);
      return;
    }
    tell("");
    if (box.checked) chosen.add(id);
    else chosen.delete(id);
    page.setState({ chosen: [...chosen].join(",") });
    compare();
  }

  function compare() {
    const those = [...chosen].map((id) => entries.find((entry) => entry.id === id)).filter(Boolean);
    if (!those.length) return beside.replaceChildren();
    const labels = [...new Set(those.flatMap((entry) => Object.keys(entry.numbers)))];
    beside.replaceChildren(h("div", { class: "card scroll" }, h("h2", {}, "Side by side"),
      h("table", {},
        h("thead", {}, h("tr", {}, h("td", {}), those.map((entry) =>
          h("th", { scope: "col" }, entry.name)))),
        h("tbody", {},
          h("tr", {}, h("th", { scope: "row" }, "picture"), those.map((entry) => h("td", {},
            entry.has_picture ? h("img", { src: `runs/thumbnail/${entry.id}`, width: 160,
              alt: `of ${entry.name}` }) : "–"))),
          labels.map((label) => h("tr", {}, h("th", { scope: "row" }, label), those.map((entry) =>
            h("td", {}, label in entry.numbers ? shown(...entry.numbers[label]) : "–"))))))));
  }

  root.append(h("h1", {}, "Runs and results"),
    h("div", { class: "row" }, h("label", { class: "field" }, "Filter", search),
      h("label", { class: "field" }, "Kind", kinds)), beside, list);
  draw();
  compare();
}

function when(seconds) {
  return new Date(seconds * 1000).toLocaleString(undefined,
    { dateStyle: "medium", timeStyle: "short" });
}
