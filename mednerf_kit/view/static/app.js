// The frame of the page: which room is open, and its state in the address (#room?key=value).
//
// A room is rooms/NAME.js with an async open(main, state, page). It draws into main and may return
// {close(), key(event), change(state)}: what ends it, what it does with a key pressed nowhere in
// particular, and how it follows a new state; without change it is opened again.
// page: {entries(), setState({…}), go(room, state), state}.

import { json } from "./lib/api.js";
import { h, tell } from "./lib/dom.js";

const ROOMS = {
  runs: "Runs", sampling: "Sampling lab", models: "Models", result: "Result", project: "Project",
  patients: "Patients", training: "Training",
};
// what takes keys for itself
const TYPED = "input:not([type=checkbox]), select, textarea, [role=slider], [role=application]";
const main = document.getElementById("main");
let open = { name: null, room: null }, turn = 0, found = null;

function parsed() {
  const [name, query = ""] = location.hash.slice(1).split("?");
  return { name: name in ROOMS ? name : null, state: Object.fromEntries(new URLSearchParams(query)) };
}

function written(name, state) {
  const words = Object.entries(state).filter(([, v]) => v !== undefined && v !== null && v !== "");
  return `#${name}${words.length ? `?${new URLSearchParams(words)}` : ""}`;
}

const page = {
  state: {},
  // Everything that was found: [{id, kind, name, numbers, …}], of these kinds where some are given.
  async entries(...kinds) {
    const { entries } = await json("runs/list");
    found = new Set(entries.map((entry) => entry.id));
    return kinds.length ? entries.filter((entry) => kinds.includes(entry.kind)) : entries;
  },
  // Keep something in the address; the room stays as it is.
  setState(changes) {
    page.state = { ...page.state, ...changes };
    try {
      history.replaceState(null, "", written(open.name, page.state));
    } catch { /* some browsers take a hundred a minute: the next change brings this one along */ }
  },
  go(name, state = {}) {
    location.hash = written(name, state);
  },
};

async function show() {
  const mine = ++turn;
  const { name, state } = parsed();
  if (name === null) return page.go("runs");
  if (name === open.name && open.room?.change) {
    page.state = state;
    return open.room.change(state);
  }
  open.room?.close?.();
  open = { name, room: null };
  page.state = state;
  document.title = `${ROOMS[name]} – mednerf-kit`;
  for (const link of document.querySelectorAll("nav a")) {
    link.toggleAttribute("aria-current", false);
    if (link.dataset.room === name) link.setAttribute("aria-current", "page");
  }
  delete document.body.dataset.ready;
  tell("");
  // a room that is still opening draws into a root of its own, which nobody sees any more
  const root = h("div", { class: `room ${name}` });
  main.replaceChildren(root);
  try {
    const module = await import(`./rooms/${name}.js`);
    const room = await module.open(root, state, page);
    if (mine !== turn) return room?.close?.();
    open.room = room ?? {};
    const isGone = state.entry && found && !found.has(state.entry);
    if (isGone && !root.querySelector("[role=alert]:not([hidden])")) {
      root.prepend(h("p", { class: "problem", role: "alert" },
        "What this address names is not here (any more): something else is shown."));
    }
  } catch (error) {
    root.append(h("p", { class: "problem", role: "alert" }, error.message));
  }
  if (mine === turn) document.body.dataset.ready = name;
}

function theme(next) {
  document.documentElement.dataset.theme = next;
  try { localStorage.setItem("theme", next); } catch { /* a browser that keeps nothing */ }
  document.dispatchEvent(new CustomEvent("theme"));
}

function firstTheme() {
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* as above */ }
  return kept ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

document.getElementById("rooms").append(...Object.entries(ROOMS).map(([name, title]) =>
  h("li", {}, h("a", { href: `#${name}`, "data-room": name }, title))));
document.getElementById("theme").addEventListener("click", () =>
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest(TYPED)) return;
  open.room?.key?.(event);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
theme(firstTheme());
addEventListener("hashchange", show);
show();
