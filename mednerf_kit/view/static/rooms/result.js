import { h } from "../lib/dom.js";

export async function open(root) {
  root.append(h("h1", {}, "result"));
}
