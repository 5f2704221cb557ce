// The kinds of markers: how each is named and drawn. Shapes differ as well as colours.
import { svg, words } from "./dom.js";
import { LOOK } from "./look.js";

const { kinds: KINDS } = LOOK;
const known = (name) => (Object.hasOwn(KINDS, name) ? name : "other");

export const KIND_NAMES = Object.keys(KINDS);

export const kindLabel = (name) => (Object.hasOwn(KINDS, name) ? KINDS[name].label : words(name));

export const kindClass = (name) => `kind-${known(name)}`;

export const kindColor = (name) => `var(--${known(name)})`;

function contour({ polygon, circle }) {
  if (polygon) return `M${polygon.map(([x, y]) => `${x},${y}`).join("L")}Z`;
  const [x, y, r] = circle;
  return `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`;
}

export function symbol(name, attributes = {}) {
  const d = KINDS[known(name)].shape.map(contour).join("");
  return svg("path", { d, "fill-rule": "evenodd", ...attributes });
}

export function icon(name) {
  const image = svg("svg", { class: `icon ${kindClass(name)}`, viewBox: "-9 -9 18 18", "aria-hidden": "true" });
  image.style.fill = kindColor(name);
  image.append(symbol(name));
  return image;
}
