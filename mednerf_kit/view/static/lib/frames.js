// Views over angles as 16-bit levels, drawn on canvases: grey, signed error, or on a colour scale.

// levels: Uint16Array [V, rows, cols].
export class Frames {
  constructor(levels, rows, cols) {
    Object.assign(this, { levels, rows, cols, count: levels.length / (rows * cols) });
  }

  // The levels of view k.
  view(k) {
    const size = this.rows * this.cols;
    return this.levels.subarray(k * size, (k + 1) * size);
  }

  // The mean of view k in [0, 1].
  mean(k) {
    return this.view(k).reduce((sum, level) => sum + level, 0) / (this.rows * this.cols * 65535);
  }

  // The value that a share of all pixels of all views do not exceed, in [0, 1].
  quantile(share) {
    const counts = new Uint32Array(65536);
    for (const level of this.levels) counts[level]++;
    let rest = share * this.levels.length, level = 0;
    while (level < 65535 && (rest -= counts[level]) > 0) level++;
    return level / 65535;
  }
}

// 256 colours between equally spaced stops, as [r, g, b, r, …].
export function table(stops) {
  const found = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (stops.length - 1), k = Math.min(Math.floor(at), stops.length - 2);
    for (let c = 0; c < 3; c++) {
      found[3 * i + c] = stops[k][c] + (at - k) * (stops[k + 1][c] - stops[k][c]);
    }
  }
  return found;
}

const sheets = new WeakMap(); // canvas → its pixels, made once

// The pixels of a canvas of this size: its ImageData, and the same four bytes at a time.
function sheet(canvas, rows, cols) {
  let known = sheets.get(canvas);
  if (!known || canvas.width !== cols || canvas.height !== rows) {
    Object.assign(canvas, { width: cols, height: rows });
    const image = new ImageData(cols, rows);
    known = { image, words: new Uint32Array(image.data.buffer) };
    sheets.set(canvas, known);
  }
  return known;
}

const scales = new WeakMap(); // table → the same, a pixel a word

function words(colours) {
  if (!scales.has(colours)) {
    const bytes = new Uint8ClampedArray(1024).fill(255);
    for (let i = 0; i < 256; i++) bytes.set(colours.subarray(3 * i, 3 * i + 3), 4 * i);
    scales.set(colours, new Uint32Array(bytes.buffer));
  }
  return scales.get(colours);
}

// View k in the colours of a table, full at `top` in (0, 1].
export function drawView(canvas, frames, k, colours, top = 1) {
  const view = frames.view(k), by = 255 / (65535 * top), scale = words(colours);
  const { image, words: pixels } = sheet(canvas, frames.rows, frames.cols);
  for (let i = 0; i < view.length; i++) {
    const place = (view[i] * by + 0.5) | 0;
    pixels[i] = scale[place > 255 ? 255 : place];
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// View k of `frames` less that of `truth`: the middle colour where they agree, the ends at ±limit.
export function drawError(canvas, frames, truth, k, colours, limit) {
  const a = frames.view(k), b = truth.view(k), by = 127.5 / (65535 * limit), scale = words(colours);
  const { image, words: pixels } = sheet(canvas, frames.rows, frames.cols);
  for (let i = 0; i < a.length; i++) {
    const place = (128 + (a[i] - b[i]) * by) | 0;
    pixels[i] = scale[place < 0 ? 0 : place > 255 ? 255 : place];
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
