// Where the X-ray source stands, seen from the feet: the patient's left is on the right.
// dial({inputs_deg, onpick}) → an <svg> with set(angle_deg).

import { h } from "./dom.js";

const point = (deg, r) => {
  const a = (deg * Math.PI) / 180;
  return [(r * Math.cos(a)).toFixed(2), (-r * Math.sin(a)).toFixed(2)];
};

export function dial({ inputs_deg, onpick }) {
  const hand = h("line", { x1: 0, y1: 0, stroke: "var(--accent)", "stroke-width": 3,
    "stroke-linecap": "round" });
  const knob = h("circle", { r: 5, fill: "var(--accent)" });
  const svg = h("svg", { class: "dial", viewBox: "-70 -70 140 140", role: "img" },
    h("circle", { r: 50, fill: "none", stroke: "var(--line)", "stroke-width": 2 }),
    h("ellipse", { rx: 26, ry: 17, fill: "var(--ground)", stroke: "var(--soft)" }),
    [["L", 62, 4], ["R", -62, 4], ["A", 0, -59], ["P", 0, 69]].map(([letter, x, y]) =>
      h("text", { x, y, "text-anchor": "middle", "font-size": 12, fill: "var(--soft)" }, letter)),
    inputs_deg.map((deg) => {
      const [x, y] = point(deg, 50);
      return h("circle", { cx: x, cy: y, r: 6.5, fill: "none", stroke: "var(--b)",
        "stroke-width": 3 });
    }), hand, knob);
  svg.set = (deg) => {
    const [x, y] = point(deg, 50);
    hand.setAttribute("x2", x);
    hand.setAttribute("y2", y);
    knob.setAttribute("cx", x);
    knob.setAttribute("cy", y);
    svg.setAttribute("aria-label", `The X-ray source stands at ${deg.toFixed(0)}°; given views: ${
      inputs_deg.map((one) => `${one.toFixed(0)}°`).join(", ") || "none"}`);
  };
  if (onpick) {
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      const x = event.clientX - box.left - box.width / 2, y = event.clientY - box.top - box.height / 2;
      onpick(((Math.atan2(-y, x) * 180) / Math.PI + 360) % 360);
    });
  }
  return svg;
}
