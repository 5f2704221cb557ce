// The legend: each kind of marker in view with its number.
import { count, html, shortened } from "./dom.js";
import { icon, KIND_NAMES, kindLabel } from "./kinds.js";

const LONGEST_KIND = 40;

export class Legend {
  constructor(parent, ...tools) {
    this.node = html("ul", { class: "kinds", "aria-label": "Kinds of events in view" });
    parent.append(html("div", { class: "kinds-line" }, this.node, ...tools));
  }

  draw({ curves }) {
    const numbers = new Map();
    const add = (kind) => numbers.set(kind, (numbers.get(kind) ?? 0) + 1);
    for (const curve of curves) {
      if (curve.leads) curve.visibleEvents.forEach(({ kind }) => add(kind));
      curve.visiblePins.forEach(({ kind }) => add(kind));
    }
    const place = (kind) => (KIND_NAMES.indexOf(kind) + 100) % 100;
    const kinds = [...numbers].sort((a, b) => place(a[0]) - place(b[0]));
    this.node.replaceChildren(...kinds.map(([kind, n]) => this.kind(kind, n)));
  }

  kind(kind, n) {
    const number = html("span", { class: "number" }, count(n));
    return html("li", { "data-kind": kind, "data-count": n }, icon(kind), ` ${shortened(kindLabel(kind), LONGEST_KIND)} `, number);
  }
}
