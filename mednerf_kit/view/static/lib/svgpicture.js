// A drawing of the page as a picture that needs no page: the colours it has here are its own.

const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-family"];

// An <svg> of the page → an <img> of this size.
export async function svgPicture(svg, width, height) {
  const copy = svg.cloneNode(true), theirs = copy.querySelectorAll("*");
  svg.querySelectorAll("*").forEach((node, i) => {
    const style = getComputedStyle(node);
    for (const name of KEPT) theirs[i].style.setProperty(name, style.getPropertyValue(name));
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.style.background = getComputedStyle(document.documentElement).getPropertyValue("--card");
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await image.decode();
  return image;
}
