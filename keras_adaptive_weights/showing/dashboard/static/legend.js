// The legend: each kind of event in view with its symbol and number, and the phases.
import { count, html } from "./dom.js";
import { icon, KIND_NAMES, kindLabel } from "./kinds.js";

export class Legend {
  constructor(parent) {
    this.node = html("ul", { class: "kinds", "aria-label": "Kinds of events in view" });
    parent.append(this.node);
  }

  draw({ runs, focus }) {
    const numbers = new Map();
    const add = (kind) => numbers.set(kind, (numbers.get(kind) ?? 0) + 1);
    for (const run of runs) {
      run.visibleEvents.forEach(({ kind }) => add(kind));
      run.visibleSkips.forEach(([, , routine]) => add(routine ? "routine" : "skipped"));
    }
    const place = (kind) => (KIND_NAMES.indexOf(kind) + 100) % 100;
    const kinds = [...numbers].sort((a, b) => place(a[0]) - place(b[0]));
    const phases = new Set((focus?.series.bands ?? []).map(([name]) => name));
    this.node.replaceChildren(
      ...kinds.map(([kind, n]) => this.kind(kind, n)),
      ...[...phases].map((name) => html("li", {}, html("span", { class: `swatch band-${name}` }), ` ${name}`)),
    );
  }

  kind(kind, n) {
    const number = html("span", { class: "number" }, count(n));
    return html("li", { "data-kind": kind, "data-count": n }, icon(kind), ` ${kindLabel(kind)} `, number);
  }
}
