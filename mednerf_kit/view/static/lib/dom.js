// Elements, made in one expression: h("p", {class: "soft", onclick: f}, "text", child, …).

const SVG = new Set(["svg", "g", "path", "line", "circle", "rect", "text", "polyline", "polygon",
  "title", "defs", "marker", "ellipse"]);

export function h(name, properties = {}, ...children) {
  const node = SVG.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// A number for people: 3 significant figures, or "–" where there is none.
export function shown(value, unit = "", digits = 3) {
  if (value === null || value === undefined) return "–";
  const text = Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(digits)));
  return unit ? `${text} ${unit}` : text;
}

// A slider with its label and value: {label, min, max, step, value, unit, text(value),
// oninput(value)}; text says a value in other words.
export function slider({ label, min, max, step = 1, value, unit = "", oninput,
  text = (v) => shown(v, unit) }) {
  const output = h("output", {}, text(value));
  const input = h("input", { type: "range", min, max, step, value, "aria-label": label });
  const say = () => {
    output.textContent = text(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => { say(); oninput(Number(input.value)); });
  say();
  const node = h("label", { class: "field" }, label, input, output);
  node.set = (next) => { input.value = next; say(); };
  return node;
}

// A choice of one: {label, options: [[value, text], …], value, onchange(value)}.
export function choice({ label, options, value, onchange }) {
  const select = h("select", { "aria-label": label, onchange: () => onchange(select.value) },
    options.map(([id, text]) => h("option", { value: id, selected: id === value }, text)));
  const node = h("label", { class: "field" }, label, select);
  node.select = select;
  return node;
}

// A button that is on or off: {label, pressed, onchange(pressed)}.
export function toggle({ label, pressed = false, onchange }) {
  const button = h("button", { type: "button", "aria-pressed": String(pressed) }, label);
  button.addEventListener("click", () => {
    const next = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(next));
    onchange(next);
  });
  return button;
}

// A call that waits until there was none for a while: (f, ms) → the call, with cancel().
export function later(call, ms = 150) {
  let timer;
  const waiting = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), ms);
  };
  waiting.cancel = () => clearTimeout(timer);
  return waiting;
}

// The sentence at the bottom, which screen readers read out.
export function tell(text) {
  document.getElementById("told").textContent = text;
}

// Save what is shown: a canvas, or a Blob.
export async function download(what, name) {
  const blob = what instanceof HTMLCanvasElement
    ? await new Promise((done) => what.toBlob(done, "image/png")) : what;
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
