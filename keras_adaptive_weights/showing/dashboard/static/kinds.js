// The kinds of events: how each is named and drawn. Shapes differ as well as colours.
import { svg, words } from "./dom.js";

const R = 6;
const polygon = (...points) => `M${points.map(([x, y]) => `${x},${y}`).join("L")}Z`;
const circle = (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`;

function star() {
  const points = [];
  for (let i = 0; i < 10; i += 1) {
    const radius = i % 2 ? 3.2 : 7.5;
    const angle = (Math.PI * i) / 5 - Math.PI / 2;
    points.push([(radius * Math.cos(angle)).toFixed(2), (radius * Math.sin(angle)).toFixed(2)]);
  }
  return polygon(...points);
}

const CROSS = "M-6,-4L-4,-6L0,-2L4,-6L6,-4L2,0L6,4L4,6L0,2L-4,6L-6,4L-2,0Z";
const KINDS = {
  increase: { label: "increase", path: polygon([0, -R - 1], [R, R - 1], [-R, R - 1]) },
  decrease: { label: "decrease", path: polygon([0, R + 1], [R, 1 - R], [-R, 1 - R]) },
  rollback: { label: "rollback", path: polygon([-R - 1, 0], [R - 1, -R], [R - 1, R]) },
  reject: { label: "rejection", path: CROSS },
  disable: { label: "disable", path: polygon([-5.5, -5.5], [5.5, -5.5], [5.5, 5.5], [-5.5, 5.5]) },
  enable: { label: "enable", path: circle(R) + circle(2.6), rule: "evenodd" },
  reset: { label: "reset", path: polygon([0, -R - 1.5], [R + 1.5, 0], [0, R + 1.5], [-R - 1.5, 0]) },
  recover: { label: "model recovery", path: star() },
  skipped: { label: "skipped step", path: "M-1,9L-1,-1A4,4 0 1,1 1,-1L1,9Z" },
  routine: { label: "loss scaling", path: `M-1,9L-1,-1A4,4 0 1,1 1,-1L1,9Z${circle(2)}`, rule: "evenodd" },
};
const OTHER = { label: "", path: polygon([0, -7], [6.6, -2], [4, 6], [-4, 6], [-6.6, -2]) };

export const KIND_NAMES = Object.keys(KINDS);

// What an event is shown as: its action, but the reset that goes with a recovery of the model is that recovery.
export const kindOf = (event) => (String(event.reason).startsWith("recovered") ? "recover" : String(event.action));

export const kindLabel = (name) => (Object.hasOwn(KINDS, name) ? KINDS[name].label : words(name));

export function symbol(name, attributes = {}) {
  const kind = Object.hasOwn(KINDS, name) ? KINDS[name] : OTHER;
  return svg("path", { d: kind.path, "fill-rule": kind.rule ?? "nonzero", ...attributes });
}

export function kindClass(name) {
  return `kind-${Object.hasOwn(KINDS, name) ? name : "other"}`;
}

export function icon(name) {
  const image = svg("svg", { class: `icon ${kindClass(name)}`, viewBox: "-9 -9 18 18", "aria-hidden": "true" });
  image.append(symbol(name));
  return image;
}
