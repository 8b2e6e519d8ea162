// Steps through views: a slider, back, play, on, speed. player({count, label(k), title, k, onchange})
// → an element with at(), set(k), start(), key(event) and close().

import { choice, h } from "./dom.js";

const SPEEDS = [["2", "slow"], ["8", "normal"], ["20", "fast"]]; // views per second

export function player({ count, label, title = "Angle", k = 0, onchange }) {
  let at = k, timer = null;
  const output = h("output", {});
  const input = h("input", { type: "range", min: 0, max: count - 1, value: k, "aria-label": title,
    oninput: () => go(Number(input.value)) });
  const play = h("button", { type: "button", onclick: () => (timer ? stop() : start()) }, "Play");
  const speed = choice({ label: "Speed", options: SPEEDS, value: "8", onchange: () => {
    if (timer) { stop(); start(); }
  } });

  function say() {
    input.value = at;
    output.textContent = label(at);
    input.setAttribute("aria-valuetext", label(at));
  }
  function go(next) {
    at = (next + count) % count;
    say();
    onchange(at);
  }
  function start() {
    timer = setInterval(() => go(at + 1), 1000 / Number(speed.select.value));
    play.textContent = "Stop";
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }
  const step = (by) => () => { stop(); go(at + by); };
  const node = h("div", { class: "player", role: "group", "aria-label": title },
    h("button", { type: "button", "aria-label": "Back", onclick: step(-1) }, "◀"), play,
    h("button", { type: "button", "aria-label": "On", onclick: step(1) }, "▶"),
    h("label", { class: "field along" }, title, input, output), speed);
  node.at = () => at;
  node.set = go;
  node.start = start;
  node.close = stop;
  node.key = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) step(by)();
    else if (event.key === " " && !event.target.closest("button, a, summary")) {
      event.preventDefault();
      play.click();
    } else return false;
    return true;
  };
  say();
  return node;
}
