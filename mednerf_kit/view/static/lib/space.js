// Points and lines in space, seen from far away (orthographic), turned by drag or arrow keys.
//
// space({label, azimuthDeg, elevationDeg, height}) → a canvas with .show(items, centre, reach):
// items are {points: [[x, y, z], …], line, dots (radii in px), colour (a CSS variable), width}.

import { h } from "./dom.js";

const TURN_DEG = 6;

export function space({ label, azimuthDeg = 35, elevationDeg = 22, height = 260 }) {
  const canvas = h("canvas", { class: "space", tabindex: 0, role: "application",
    "aria-label": `${label}. Arrow keys turn it.` });
  let azimuth = azimuthDeg, elevation = elevationDeg, shown = null, held = null;

  function turn(right, up) {
    azimuth = (azimuth + right) % 360;
    elevation = Math.max(-90, Math.min(90, elevation + up));
    draw();
  }

  function draw() {
    if (!shown || !canvas.isConnected) return;
    const style = getComputedStyle(canvas), ratio = devicePixelRatio || 1;
    const wide = canvas.clientWidth;
    canvas.width = wide * ratio;
    canvas.height = height * ratio;
    const g = canvas.getContext("2d");
    g.scale(ratio, ratio);
    const { items, centre, reach } = shown;
    const a = (azimuth * Math.PI) / 180, e = (elevation * Math.PI) / 180;
    const size = (0.47 * Math.min(wide, height)) / reach;
    const right = [-Math.sin(a), Math.cos(a), 0];
    const up = [-Math.cos(a) * Math.sin(e), -Math.sin(a) * Math.sin(e), Math.cos(e)];
    const at = (p) => {
      const q = p.map((v, i) => v - centre[i]);
      const along = (v) => v[0] * q[0] + v[1] * q[1] + v[2] * q[2];
      return [wide / 2 + size * along(right), height / 2 - size * along(up)];
    };
    for (const item of items) {
      g.strokeStyle = g.fillStyle = style.getPropertyValue(item.colour ?? "--soft");
      const points = item.points.map(at);
      if (item.line !== false) {
        g.lineWidth = item.width ?? 1;
        g.beginPath();
        points.forEach(([x, y], i) => (i ? g.lineTo(x, y) : g.moveTo(x, y)));
        g.stroke();
      }
      if (item.dots) {
        points.forEach(([x, y], i) => {
          g.beginPath();
          g.arc(x, y, Array.isArray(item.dots) ? item.dots[i] : item.dots, 0, 2 * Math.PI);
          g.fill();
        });
      }
    }
  }

  canvas.style.height = `${height}px`;
  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    turn(-0.5 * (event.clientX - held[0]), 0.5 * (event.clientY - held[1]));
    held = [event.clientX, event.clientY];
  });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [TURN_DEG, 0], ArrowRight: [-TURN_DEG, 0], ArrowUp: [0, TURN_DEG],
      ArrowDown: [0, -TURN_DEG] }[event.key];
    if (!step) return;
    event.preventDefault();
    turn(...step);
  });
  canvas.show = (items, centre, reach) => { shown = { items, centre, reach }; draw(); };
  canvas.redraw = draw;
  return canvas;
}

// The twelve edges of a box [[x, y, z], [x, y, z]].
export function edges([low, high]) {
  const corner = (k) => [0, 1, 2].map((i) => ((k >> i) & 1 ? high[i] : low[i]));
  const found = [];
  for (let k = 0; k < 8; k++) {
    for (let i = 0; i < 3; i++) {
      if (!((k >> i) & 1)) found.push({ points: [corner(k), corner(k | (1 << i))] });
    }
  }
  return found;
}
