// An X-ray on a canvas: grey values from the red channel of a PNG, what is left out of a fit in red
// (green channel), a window, and a rectangle that a pointer draws.

import { h } from "./dom.js";

export class Picture {
  // label: of the canvas; oncrop([left, top, width, height]): a rectangle was drawn, in pixels of
  // the whole picture.
  constructor({ label, oncrop }) {
    this.canvas = h("canvas", { role: "img", "aria-label": label, width: 1, height: 1 });
    this.node = h("div", { class: "view" }, this.canvas);
    this.low = 0;
    this.high = 1;
    this.rectangle = null;
    this.isCropping = false;
    if (oncrop) this._listen(oncrop);
  }

  // cols, rows: of the whole picture, of which the PNG may be a smaller one.
  async show(address, cols, rows) {
    if (!address) {
      this.pixels = null;
      this.canvas.width = this.canvas.height = 1;
      return;
    }
    const image = new Image();
    image.src = address;
    await image.decode();
    this.canvas.width = image.width;
    this.canvas.height = image.height;
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    this.pixels = context.getImageData(0, 0, image.width, image.height);
    this.cols = cols ?? image.width;
    this.rows = rows ?? image.height;
    this._draw();
  }

  window(low, high) {
    this.low = low;
    this.high = high;
    this._draw();
  }

  cropping(on) {
    this.isCropping = on;
    this.node.classList.toggle("cropping", on);
    this._draw();
  }

  // The rectangle, or a new one.
  box(rectangle) {
    if (rectangle) this.rectangle = rectangle;
    this._draw();
    return this.rectangle;
  }

  _draw() {
    if (!this.pixels) return;
    const { width, height, data } = this.pixels, shown = new ImageData(width, height);
    const range = 255 * (this.high - this.low), base = 255 * this.low;
    for (let k = 0; k < data.length; k += 4) {
      const grey = Math.min(255, Math.max(0, ((data[k] - base) / range) * 255));
      const kept = data[k + 1] / 255;
      shown.data[k] = grey * (0.5 + 0.5 * kept) + 110 * (1 - kept);
      shown.data[k + 1] = shown.data[k + 2] = grey * (0.5 + 0.5 * kept);
      shown.data[k + 3] = 255;
    }
    const context = this.canvas.getContext("2d");
    context.putImageData(shown, 0, 0);
    if (!this.isCropping || !this.rectangle) return;
    const [x, y, w, t] = this.rectangle.map((v, i) => v * (i % 2 ? height / this.rows
      : width / this.cols));
    context.fillStyle = "rgb(0 0 0 / 55%)";
    context.fillRect(0, 0, width, y);
    context.fillRect(0, y + t, width, height - y - t);
    context.fillRect(0, y, x, t);
    context.fillRect(x + w, y, width - x - w, t);
    context.strokeStyle = "#ffd666";
    context.lineWidth = Math.max(2, width / 300);
    context.strokeRect(x, y, w, t);
  }

  _listen(oncrop) {
    let from = null;
    const at = (event) => {
      // the picture is fitted into the canvas's box, with bars on two sides
      const box = this.canvas.getBoundingClientRect();
      const scale = Math.min(box.width / this.cols, box.height / this.rows);
      const clip = (v, most) => Math.round(Math.min(Math.max(v / scale + most / 2, 0), most));
      return [clip(event.clientX - box.left - box.width / 2, this.cols),
        clip(event.clientY - box.top - box.height / 2, this.rows)];
    };
    const between = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]),
      Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1])];
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.isCropping || !this.pixels) return;
      from = at(event);
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (from) this.box(between(from, at(event)));
    });
    this.canvas.addEventListener("pointerup", (event) => {
      if (!from) return;
      const drawn = between(from, at(event));
      from = null;
      if (drawn[2] >= 8 && drawn[3] >= 8) oncrop(drawn);
    });
  }
}
