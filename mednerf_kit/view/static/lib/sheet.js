// Pictures side by side with what they are, as one canvas to be saved.

const NOTE = "Research use only, not for diagnosis.";
const LINE = 18;

// parts: [{picture, title}], each a canvas or an <img>; lines: what is said below them all.
export function sheet(parts, lines, { width, height, columns = parts.length, smooth = false }) {
  const words = [...lines, NOTE], across = Math.max(columns, 1), tall = height + LINE + 4;
  const canvas = Object.assign(document.createElement("canvas"), { width: across * width,
    height: Math.ceil(parts.length / across) * tall + words.length * LINE + 6 });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = smooth;
  context.fillStyle = "#000";
  context.font = "13px sans-serif";
  parts.forEach(({ picture, title }, i) => {
    const x = (i % across) * width, y = Math.floor(i / across) * tall;
    context.drawImage(picture, x, y, width, height);
    context.fillText(title, x + 4, y + height + 15, width - 8);
  });
  words.forEach((text, k) =>
    context.fillText(text, 4, canvas.height - 6 - LINE * (words.length - 1 - k), canvas.width - 8));
  return canvas;
}
