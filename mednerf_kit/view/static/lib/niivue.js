// NiiVue (vendor/niivue.umd.js) behind one function, in the radiological convention: the patient's
// left is on the right of the picture. mount(host, volume, source, {onplace, webgl, at}) →
// {show(…), picture(lines), close()}.

import { h } from "./dom.js";
import { table } from "./frames.js";
import { sheet } from "./sheet.js";

// How WebGL is computed: "" where there is none, else "software" or "hardware".
export function webGl() {
  const context = document.createElement("canvas").getContext("webgl2");
  if (!context) return "";
  const named = context.getExtension("WEBGL_debug_renderer_info");
  const name = named ? context.getParameter(named.UNMASKED_RENDERER_WEBGL) : "";
  context.getExtension("WEBGL_lose_context")?.loseContext();
  return /swiftshader|llvmpipe|software/i.test(name) ? "software" : "hardware";
}

let loading;
function library() {
  loading ??= globalThis.niivue ? Promise.resolve() : new Promise((done, failed) => {
    document.head.append(h("script", { src: "vendor/niivue.umd.js", onload: done,
      onerror: () => failed(new Error("the viewer of volumes could not be loaded")) }));
  });
  return loading;
}

// A colour scale as NiiVue takes it: see-through where the magnitude is below a share of the end.
function colourMap(stops, clear, twoSided) {
  const colours = table(stops), at = Array.from({ length: 256 }, (_, i) => i);
  const size = (i) => (twoSided ? Math.abs(i / 127.5 - 1) : i / 255);
  const channel = (c) => at.map((i) => colours[3 * i + c]);
  return { R: channel(0), G: channel(1), B: channel(2),
    A: at.map((i) => (size(i) < clear ? 0 : 255)), I: at };
}

// Grey in a window; where it is less than floor there is nothing to be seen in three dimensions.
function greyMap([low, high], floor) {
  const at = Array.from({ length: 256 }, (_, i) => i), share = (floor - low) / (high - low);
  return { R: at, G: at, B: at, A: at.map((i) => (i <= 255 * share ? 0 : i >> 1)), I: at };
}

// how far above the lower end of the window for lungs the air outside a body ends: at -700 HU
const AIR = 650 / 1500;
const GRID = 2, ROW = 3; // NiiVue's layouts of several planes
// axial, coronal, sagittal: what lies left, right, up and down in the picture
const LETTERS = ["RLAP", "RLSI", "APSI"];

export async function mount(host, volume, source, { onplace, webgl, at }) {
  await library();
  const { Niivue } = globalThis.niivue;
  const canvas = h("canvas", { tabindex: "0", role: "application",
    "aria-label": "Slices and 3-D view: arrow keys and the mouse move the crosshair" });
  host.classList.add("niivue");
  host.append(canvas);
  const nv = new Niivue({ backColor: [0, 0, 0, 1], isRadiologicalConvention: true, isSliceMM: true,
    isCornerOrientationText: false, sagittalNoseLeft: true, crosshairGap: 4, crosshairWidth: 0.4,
    crosshairColor: [0.95, 0.7, 0.2, 1], multiplanarShowRender: 0, dragAndDropEnabled: false,
    isResizeCanvas: true, loadingText: "", multiplanarPadPixels: 12,
    fontMinPx: 15, fontColor: [1, 0.82, 0.4, 1],
    // a processor that stands in for a graphics card computes fewer pixels
    forceDevicePixelRatio: webgl === "software" ? 0.6 : 0 });
  nv.onLocationChange = ({ mm, values }) => onplace([-mm[0], -mm[1], mm[2]],
    values[0]?.value ?? null, values[1]?.value ?? null);
  // beside the crosshair's lines, which in the middle would strike the letters out
  nv.drawSliceOrientationText = ([left, top, width, height], plane) => {
    const x = left + width / 2 + nv.fontPx, y = top + height / 2 - nv.fontPx;
    nv.gl.viewport(0, 0, canvas.width, canvas.height);
    nv.drawTextRight([left, y], LETTERS[plane][0]);
    nv.drawTextLeft([left + width, y], LETTERS[plane][1]);
    nv.drawTextBelow([x, top], LETTERS[plane][2]);
    nv.drawTextAbove([x, top + height], LETTERS[plane][3]);
  };
  await nv.attachToCanvas(canvas);
  nv.setRadiologicalConvention(true);
  await nv.loadFromArrayBuffer(await source.voxels("volume"), "volume.nii");
  if (at) nv.scene.crosshairPos = nv.mm2frac([-at[0], -at[1], at[2]]);
  const layouts = {
    planes: () => three(0), all: () => three(1), axial: () => nv.setSliceType(nv.sliceTypeAxial),
    coronal: () => nv.setSliceType(nv.sliceTypeCoronal),
    sagittal: () => nv.setSliceType(nv.sliceTypeSagittal),
    body: () => { nv.opts.isOrientCube = true; nv.setSliceType(nv.sliceTypeRender); },
  };
  let over = "", layout = "";

  function three(withBody) {
    nv.opts.multiplanarShowRender = withBody;
    // four in a square where they would be small in a row
    nv.opts.multiplanarLayout = withBody && host.clientWidth < 900 ? GRID : ROW;
    nv.opts.isOrientCube = withBody === 1;
    nv.setSliceType(nv.sliceTypeMultiplanar);
  }

  async function layer(name) {
    if (name === over) return;
    over = name;
    if (nv.volumes.length > 1) nv.removeVolume(nv.volumes[1]);
    if (!name) return;
    await nv.loadFromArrayBuffer(await source.voxels(name), `${name}.nii`);
    const { limit, colours, clear } = volume.overlays[name], image = nv.volumes[1];
    nv.addColormap(name, colourMap(source.about.colours[colours], clear, limit[0] < 0));
    nv.setColormap(image.id, name);
    [image.cal_min, image.cal_max] = limit;
  }

  return {
    canvas,
    async show({ range, overlay, strength, planes }) {
      host.classList.toggle("planes", planes === "planes");
      if (planes !== layout) layouts[(layout = planes)]();
      const [air, soft] = volume.windows.lung;
      nv.addColormap("body", greyMap(range, air + AIR * (soft - air)));
      nv.setColormap(nv.volumes[0].id, "body"); // which sets a window of its own
      [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = range;
      await layer(overlay);
      if (nv.volumes.length > 1) nv.setOpacity(1, strength);
      nv.updateGLVolume();
      nv.createOnLocationChange();
    },
    picture(lines) {
      nv.drawScene(); // what was drawn earlier may be gone
      return sheet([{ picture: canvas, title: "The patient's left is on the right" }], lines,
        { width: canvas.width, height: canvas.height });
    },
    close() {
      nv.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    },
  };
}
