// One panel of the chart: bands, grid, limits, lines and, on the weight panel, markers. Drawing only.
import { figure, html, svg } from "./dom.js";
import { markersOf } from "./markers.js";
import { areaPath, linear, linePath, robustDomain, root, stepPath, stepTicks, ticks } from "./scale.js";

export const MARGIN = { left: 62, right: 96, top: 8, bottom: 6 };
const AXIS = 22;

// Of the extremes of many steps each, what most of them reach: one spike in every bucket must not set the scale.
function usual({ least, greatest }) {
  if (!least) return [];
  const sorted = (values) => values.filter((value) => value !== null).sort((a, b) => a - b);
  const [lows, highs] = [sorted(least), sorted(greatest)];
  return lows.length ? [lows[Math.floor(0.75 * (lows.length - 1))], highs[Math.floor(0.25 * (highs.length - 1))]] : [];
}

const has = ({ series }, { figure: name }) => series?.figures[name]?.last.some((value) => value !== null);

export class Panel {
  constructor(spec, last) {
    this.spec = spec;
    this.last = last;
    this.picture = svg("svg", { class: "plot", "aria-hidden": spec.id !== "weight" });
    this.cursor = svg("line", { class: "cursor", y1: MARGIN.top, visibility: "hidden" });
    this.brush = svg("rect", { class: "brush", y: MARGIN.top, visibility: "hidden" });
    this.legend = html("span", { class: "panel-legend" });
    const name = html("h3", {}, spec.title);
    this.node = html(
      "div",
      { class: "panel", id: `panel-${spec.id}` },
      html("div", { class: "panel-head" }, name, this.legend),
      this.picture,
    );
    this.describe();
  }

  describe() {
    this.keys = this.spec.lines.map((line) => html("span", { class: `key key-${line.role}` }, line.label));
    this.legend.append(...this.keys);
  }

  draw(context) {
    const { width, view, runs } = context;
    this.spec.lines.forEach((line, i) => {
      this.keys[i].hidden = Boolean(line.optional) && !runs.some((run) => has(run, line));
    });
    this.height = Math.round(this.spec.height * context.stretch);
    const outer = this.height + (this.last ? AXIS : 0);
    this.picture.setAttribute("width", width);
    this.picture.setAttribute("height", outer);
    this.picture.setAttribute("viewBox", `0 0 ${width} ${outer}`);
    this.cursor.setAttribute("y2", this.height - MARGIN.bottom);
    this.brush.setAttribute("height", this.height - MARGIN.top - MARGIN.bottom);
    this.x = linear([view[0] - 1, view[1]], [MARGIN.left, width - MARGIN.right]);
    const limits = context.focus ? this.spec.limits(context.focus) : [];
    this.y = this.scale(context, limits);
    const clip = `clip-${this.spec.id}`;
    const lines = svg(
      "g",
      { "clip-path": `url(#${clip})` },
      ...context.runs.flatMap((run) => this.drawRun(run, context)),
    );
    const area = { x: MARGIN.left, y: MARGIN.top, width: Math.max(1, width - MARGIN.left - MARGIN.right) };
    const frame = svg("rect", { ...area, height: this.height - MARGIN.top - MARGIN.bottom });
    this.picture.replaceChildren(
      svg("clipPath", { id: clip }, frame),
      this.drawBands(context, clip),
      this.drawGrid(width, view),
      this.drawLimits(limits, width),
      lines,
      ...(this.spec.id === "weight" ? [markersOf(context, this.x, this.y, this.height)] : []),
      this.cursor,
      this.brush,
    );
  }

  scale({ runs, focus, fit }, limits) {
    const values = [];
    for (const { series } of runs) {
      for (const { figure: name } of this.spec.lines) {
        const columns = series?.figures[name];
        if (columns)
          values.push(
            ...columns.last,
            ...(this.spec.step ? [...(columns.greatest ?? []), ...(columns.least ?? [])] : usual(columns)),
          );
      }
    }
    const range = [this.height - MARGIN.bottom, MARGIN.top];
    if (this.spec.step) return linear(this.weightDomain(runs, values, limits, fit), range);
    const [, top] = robustDomain(values);
    const near = limits.map((line) => line.value).filter((value) => this.spec.root || value <= 3 * top);
    const domain = robustDomain(values, near);
    if (this.spec.cap && focus) domain[1] = Math.min(domain[1], this.spec.cap(focus));
    return this.spec.root ? root([0, domain[1]], range) : linear(domain, range);
  }

  weightDomain(runs, values, limits, fit) {
    const shown = values.filter((value) => value !== null);
    for (const { visibleEvents } of runs) {
      for (const event of visibleEvents) shown.push(Number(event.old_weight), Number(event.new_weight));
    }
    if (!fit || !shown.length) shown.push(...limits.map((line) => line.value));
    const finite = shown.filter(Number.isFinite);
    const low = finite.length ? Math.min(...finite) : 0;
    const high = finite.length ? Math.max(...finite) : 1;
    const pad = (high - low || 0.2) * 0.09;
    return [low - pad * 1.6, high + pad];
  }

  drawRun(run, { runs }) {
    const { series, color } = run;
    if (!series?.to.length) return [];
    const starts = series.from.map((step) => this.x(step - 1));
    const ends = series.to.map(this.x);
    const drawn = [];
    for (const line of this.spec.lines) {
      if (line.optional && !has(run, line)) continue;
      const columns = series.figures[line.figure];
      const y = (name) => columns[name].map((value) => (value === null ? null : this.y(value)));
      const paint = { class: `line ${line.role}`, stroke: color };
      const ranged = !series.exact && columns.least;
      if (ranged) drawn.push(this.drawRange(run, y, ends, runs.length));
      if (this.spec.step)
        drawn.push(svg("path", { ...paint, class: `line weight-line ${line.role}`, d: stepPath(starts, ends, y("last")) }));
      else if (line.role === "main" || !ranged) drawn.push(svg("path", { ...paint, d: linePath(ends, y("last")) }));
    }
    return [...drawn, this.drawBeyond(run, ends)];
  }

  drawRange(run, y, xs, many) {
    const path = areaPath(xs, y("least"), y("greatest"));
    return svg("path", { class: "range", fill: run.color, "fill-opacity": many > 1 ? 0.14 : 0.24, d: path });
  }

  // Small triangles along the upper edge: values beyond the scale.
  drawBeyond(run, xs) {
    const columns = run.series.figures[this.spec.lines[0].figure];
    let path = "";
    let free = -Infinity;
    (columns.greatest ?? columns.last).forEach((value, i) => {
      if (value === null || this.y(value) >= MARGIN.top || xs[i] < free) return;
      path += `M${xs[i].toFixed(1)},${MARGIN.top}l3,5h-6Z`;
      free = xs[i] + 8;
    });
    return svg("path", { class: "beyond", fill: run.color, d: path });
  }

  drawBands({ focus, view, width }, clip) {
    const group = svg("g", { class: "bands", "clip-path": `url(#${clip})` });
    const inner = width - MARGIN.left - MARGIN.right;
    const paths = {};
    for (const [kind, first, last] of focus?.series?.bands ?? []) {
      if (last < view[0] || first > view[1]) continue;
      const from = this.x(first - 1);
      const span = this.x(last) - from;
      const shape = `M${from.toFixed(2)},${MARGIN.top}h${span.toFixed(3)}V${this.height}h${(-span).toFixed(3)}Z`;
      paths[kind] = (paths[kind] ?? "") + shape;
      const seen = Math.min(from + span, MARGIN.left + inner) - Math.max(from, MARGIN.left);
      if (this.spec.id === "weight" && seen > 46) {
        const label = svg(
          "text",
          { class: "band-label", x: Math.max(from, MARGIN.left) + 4, y: MARGIN.top + 11 },
          kind,
        );
        group.append(label);
      }
    }
    group.prepend(...Object.entries(paths).map(([kind, d]) => svg("path", { class: `band band-${kind}`, d })));
    return group;
  }

  drawGrid(width, view) {
    const group = svg("g", { class: "grid" });
    const bottom = this.height - MARGIN.bottom;
    for (const step of stepTicks(view, Math.max(2, width / 130))) {
      const x = this.x(step);
      group.append(svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: bottom }));
      if (this.last) group.append(svg("text", { x, y: bottom + 17, "text-anchor": "middle" }, figure(step)));
    }
    for (const value of this.valueTicks()) {
      const y = this.y(value);
      if (y < MARGIN.top - 1 || y > bottom + 1) continue;
      group.append(svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }));
      group.append(svg("text", { x: MARGIN.left - 7, y: y + 4, "text-anchor": "end" }, figure(value)));
    }
    return group;
  }

  valueTicks() {
    const span = this.height - MARGIN.bottom - MARGIN.top;
    if (this.y.invert) return ticks([this.y.invert(span + MARGIN.top), this.y.invert(MARGIN.top)], span / 36);
    const nice = [0, 0.01, 0.1, 0.5, 1, 2, 5, 10, 100, 1000].filter((value) => this.y(value) >= MARGIN.top - 1);
    return nice.filter((value, i) => i === 0 || this.y(nice[i - 1]) - this.y(value) > 13);
  }

  // Limits are named in the right margin, where they hide no data; names that would touch are moved apart.
  drawLimits(limits, width) {
    const group = svg("g", { class: "limits" });
    const right = width - MARGIN.right;
    let lowest = -Infinity;
    for (const { value, label } of [...limits].sort((a, b) => b.value - a.value)) {
      const y = this.y(value);
      const beyond = y < MARGIN.top - 1;
      if (y > this.height) continue;
      if (!beyond)
        group.append(svg("line", { class: `limit limit-${label}`, x1: MARGIN.left, x2: right, y1: y, y2: y }));
      lowest = Math.max(beyond ? MARGIN.top + 6 : y + 4, lowest + 13);
      group.append(svg("text", { x: right + 5, y: lowest }, `${label} ${figure(value)}${beyond ? " ↑" : ""}`));
    }
    return group;
  }
}
