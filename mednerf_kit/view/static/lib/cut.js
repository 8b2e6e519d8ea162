// Slices cut out of voxels that are at hand, as the server cuts them: for a page without a server.

import { table } from "./frames.js";

// What a NIfTI of the workbench holds: 16-bit levels, x fastest, to the left, back and head.
function read(bytes) {
  const header = new DataView(bytes);
  const [slope, inter] = [112, 116].map((at) => header.getFloat32(at, true));
  const [w, d, h] = [42, 44, 46].map((at) => header.getInt16(at, true));
  const levels = new Int16Array(bytes, header.getFloat32(108, true));
  return { w, d, h, at: (x, y, z) => levels[(z * d + y) * w + x] * slope + inter };
}

// Rows, columns, and the voxel at each of a plane's slice.
const PLANES = {
  axial: ({ w, d, at }, k) => [d, w, (row, col) => at(col, row, k)],
  coronal: ({ w, h, at }, k) => [h, w, (row, col) => at(col, k, h - 1 - row)],
  sagittal: ({ d, h, at }, k) => [h, d, (row, col) => at(k, col, h - 1 - row)],
};

const share = (value, [low, high]) => Math.min(Math.max((value - low) / (high - low), 0), 1);

// → slice({name, index}, {range, overlay, strength}), the address of a picture.
export function cutter(about, colours, voxels) {
  const kept = {};
  const volume = (name) => (kept[name] ??= voxels(name).then(read));
  return async ({ name, index }, { range, overlay, strength }) => {
    const [rows, cols, value] = PLANES[name](await volume("volume"), index);
    const [, , above] = overlay ? PLANES[name](await volume(overlay), index) : [];
    const { limit, clear, colours: scale } = about.overlays[overlay] ?? {};
    const hue = overlay && table(colours[scale]);
    const canvas = Object.assign(document.createElement("canvas"), { width: cols, height: rows });
    const context = canvas.getContext("2d"), image = context.createImageData(cols, rows);
    for (let row = 0, o = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++, o += 4) {
        const grey = 255 * share(value(row, col), range);
        image.data.fill(grey, o, o + 3);
        image.data[o + 3] = 255;
        if (!overlay) continue;
        const over = above(row, col), k = Math.round(255 * share(over, limit));
        const cover = Math.abs(over) < clear * limit[1] ? 0 : strength;
        for (let c = 0; c < 3; c++) image.data[o + c] = (1 - cover) * grey + cover * hue[3 * k + c];
      }
    }
    context.putImageData(image, 0, 0);
    return canvas.toDataURL();
  };
}

// → value(voxel, overlay), the values there of the volume and of what is laid over it.
export function reader(voxels) {
  const at = async (name, voxel) => (name ? read(await voxels(name)).at(...voxel) : null);
  return async (voxel, overlay) => [await at("volume", voxel), await at(overlay, voxel)];
}
