// The terms: how the line of each is drawn, which one the panels of a single term are about, and how losses are compared.
import { figure, html, shortened, svg } from "./dom.js";

const LONGEST = 40;

export class Terms {
  constructor(parent, actions) {
    this.actions = actions;
    this.list = html("ul", { class: "terms", "aria-label": "Terms of the loss" });
    this.relative = html("button", {
      type: "button",
      id: "relative",
      title: "Draw each loss as a multiple of the average of its first 50 steps, or as it is",
      onclick: () => actions.relative(),
    }, "Relative losses");
    this.node = html("div", { class: "terms-line" }, this.list);
    parent.append(this.node);
  }

  draw({ all, several, relative, runs, focus }) {
    this.node.hidden = this.relative.hidden = all.length < 2 || !all.some(({ several: of, fixed }) => of || fixed);
    this.relative.setAttribute("aria-pressed", relative);
    const seen = new Map();
    for (const curve of all) if (!seen.has(curve.term) || curve.run === focus?.run) seen.set(curve.term, curve);
    const active = document.activeElement?.dataset?.term;
    this.list.replaceChildren(...[...seen.values()].filter(({ fixed }) => several || relative || !fixed).map((curve) => this.item(curve, runs, focus)));
    if (active) [...this.list.querySelectorAll("button")].find(({ dataset }) => dataset.term === active)?.focus();
  }

  item(curve, runs, focus) {
    const { term, weight, fixed, enabled } = curve;
    const text = [sample(curve, runs), html("span", { dir: "auto" }, shortened(String(term), LONGEST))];
    if (fixed) return html("li", { class: "fixed" }, ...text, html("span", { class: "number quiet" }, `fixed ${figure(weight)}`));
    const chosen = term === focus?.term;
    const attributes = { type: "button", "data-term": term, "aria-pressed": chosen, title: `Show ratio, variance, reasons and answers of ${term}` };
    const now = html("span", { class: "number" }, figure(weight));
    const off = enabled ? null : html("span", { class: "badge bad" }, "disabled");
    return html("li", {}, html("button", { ...attributes, onclick: () => this.actions.focus(term) }, ...text, now, off));
  }
}

function sample({ color, dash }, runs) {
  const line = svg("line", { x1: 1, x2: 27, y1: 5, y2: 5, "stroke-dasharray": dash, class: "sample" });
  line.style.stroke = runs > 1 ? "var(--ink)" : color;
  return svg("svg", { class: "term-line", viewBox: "0 0 28 10", "aria-hidden": "true" }, line);
}
