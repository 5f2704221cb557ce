// One panel of the chart: phases, grid, limits, lines and markers. Drawing only.
import { figure, html, say, svg } from "./dom.js";
import { LOOK } from "./look.js";
import { markersOf, peaksOf } from "./markers.js";
import { curvesIn, linesOf } from "./panels.js";
import { areaPath, joined, joinedPath, known, linear, linePath, scale, smoothed, stepPath, stepTicks, valueTicks } from "./scale.js";

export const MARGIN = { left: 56, right: 92, top: 5, bottom: 1 };
export const AXIS = 18;
const PINS = 19;
const PHASES = 13;
const VALUE_GAPS = [22, 36];
const DASH = [7, 4];
const FEW_POINTS = 80;
const LOGARITHMIC_FROM = 10;

const phaseKey = (name) => html("span", {}, html("span", { class: `swatch band-${name}` }), ` ${name}`);

const has = ({ series }, { figure: name }) => series?.figures[name]?.last.some((value) => value !== null);

export class Panel {
  constructor(spec) {
    this.spec = spec;
    this.picture = svg("svg", { class: "plot", "aria-hidden": !spec.step });
    this.cursor = svg("line", { class: "cursor", y1: MARGIN.top, visibility: "hidden" });
    this.brush = svg("rect", { class: "brush", y: MARGIN.top, visibility: "hidden" });
    this.name = html("h3", {});
    const key = (line) => html("span", { class: `key key-${line.role}${line.seldom ? " seldom" : ""}` }, line.label);
    this.keys = spec.lines.map(key);
    this.intent = spec.when === "balanced" ? html("span", { class: "key key-intent" }, "intent") : null;
    this.phases = spec.step ? LOOK.phases.map(phaseKey) : [];
    const legend = html("span", { class: "panel-legend" }, ...this.keys, this.intent, ...this.phases);
    const head = html("div", { class: "panel-head" }, this.name, legend);
    this.node = html("div", { class: "panel", id: `panel-${spec.id}` }, head, this.picture);
  }

  // Pixels below the lines: for the lane of pins and phases, and for the numbers of the steps.
  below({ curves }, axis) {
    const pins = curves.some(({ visiblePins }) => visiblePins.length) ? PINS : 4;
    return (this.spec.step ? pins + PHASES + 2 : 0) + (axis ? AXIS : 0);
  }

  // Draw into `height` pixels and what is below them; `axis`: whether the steps are numbered there.
  draw(context, height, axis) {
    const { width, view, focus } = context;
    const curves = curvesIn(this.spec, context);
    say(this.name, this.spec.titleOf(curves.filter(({ fixed }) => !fixed), context));
    this.node.classList.toggle("many", curves.length > 1);
    this.spec.lines.forEach((line, i) => {
      const drawn = curves.some((curve) => linesOf(this.spec, curve, context).some(({ role }) => role === line.role));
      this.keys[i].hidden = !drawn || (Boolean(line.optional) && !curves.some((curve) => has(curve, line)));
    });
    const phases = new Set((focus?.series.bands ?? []).map(([kind]) => kind));
    this.phases.forEach((key, i) => {
      key.hidden = !phases.has(LOOK.phases[i]);
    });
    this.height = height;
    const below = this.below(context, axis);
    const outer = height + below;
    this.picture.setAttribute("width", width);
    this.picture.setAttribute("height", outer);
    this.picture.setAttribute("viewBox", `0 0 ${width} ${outer}`);
    this.cursor.setAttribute("y2", outer - (axis ? AXIS : 0));
    this.brush.setAttribute("height", height - MARGIN.top - MARGIN.bottom);
    this.x = linear([view[0] - 1, view[1]], [MARGIN.left, width - MARGIN.right]);
    const limits = this.limitsOf(curves, context);
    if (this.intent) this.intent.hidden = !limits.length;
    this.y = this.scale(curves, context, limits);
    const clip = `clip-${this.spec.id}`;
    const inner = Math.max(1, width - MARGIN.left - MARGIN.right);
    const frame = { x: MARGIN.left, y: MARGIN.top, width: inner, height: height - MARGIN.top - MARGIN.bottom };
    const drawn = curves.flatMap((curve) => this.drawCurve(curve, context, curves.length > 1));
    const lines = svg("g", { "clip-path": `url(#${clip})` }, ...drawn);
    const lane = outer - (axis ? AXIS : 0) - PHASES;
    this.picture.replaceChildren(
      svg("clipPath", { id: clip }, svg("rect", frame)),
      this.drawBands(context, clip, lane),
      this.drawGrid(context, outer, axis),
      this.drawLimits(limits, width),
      lines,
      this.drawCalibration(context, outer - (axis ? AXIS : 0)),
      ...(this.spec.step ? [markersOf(context, this.x, this.y, lane - 11)] : this.drawPeaks(curves, context)),
      this.cursor,
      this.brush,
    );
  }

  // What a balance aims at is that of all curves, each in its colour; other limits are those of the curve in focus.
  limitsOf(curves, context) {
    const { focus } = context;
    if (this.spec.when !== "balanced" && this.spec.id !== "loss") return focus ? this.spec.limits(focus) : [];
    return curves.flatMap((curve) => {
      const color = curves.length > 1 ? curve.color : "var(--main)";
      const factor = this.factor(curve, context);
      return this.spec.limits(curve).map(({ label, value }) => ({ label, value: value * factor, color }));
    });
  }

  // What a curve's figures are multiplied by: losses may be relative.
  factor({ series }, { relative }) {
    return this.spec.id === "loss" && relative ? 1 / (series.first_average || 1) : 1;
  }

  scale(curves, context, limits) {
    const { bounds } = context;
    const filled = curves.filter(({ series }) => series?.to.length);
    const found = filled
      .map((curve) => [curve.series.scales[this.spec.id], this.factor(curve, context)])
      .filter(([of]) => of)
      .map(([[bent, least, greatest], factor]) => [bent, least * factor, greatest * factor]);
    let [kind, low, high] = joined(found);
    if (this.spec.step && kind !== "log" && low > 0 && high > LOGARITHMIC_FROM * low) {
      const room = (high / low) ** 0.06;
      [kind, low, high] = ["log", low / room, high * room];
    }
    if (this.spec.step && bounds) {
      const values = [low, high, ...limits.map(({ value }) => value)];
      [low, high] = [Math.min(...values), Math.max(...values)];
      if (low > 0 && high > LOGARITHMIC_FROM * low) kind = "log";
      const pad = kind === "log" ? 0 : 0.05 * (high - low);
      const factor = kind === "log" ? (high / low) ** 0.05 : 1;
      [low, high] = [low / factor - pad, high * factor + pad];
    }
    return scale(kind, [low, high], [this.height - MARGIN.bottom, MARGIN.top]);
  }

  drawCurve(curve, context, many) {
    const { series, dash } = curve;
    const factor = this.factor(curve, context);
    if (!series?.to.length) return [];
    const starts = series.from.map((step) => this.x(step - 1));
    const ends = series.to.map(this.x);
    const drawn = [];
    for (const line of linesOf(this.spec, curve, context)) {
      if (!has(curve, line)) continue;
      const columns = series.figures[line.figure];
      const values = (name) => (line.smooth ? smoothed(columns[name]) : columns[name]);
      const y = (name) => values(name).map((value) => (value === null ? null : this.y(value * factor)));
      const color = many ? curve.color : `var(--${line.role}, var(--weight))`;
      const focused = many && context.several && curve.name === context.focus?.name;
      const paint = { class: `line ${line.role}${focused ? " focused" : ""}`, stroke: color };
      if (line.seldom) {
        drawn.push(svg("path", { ...paint, d: joinedPath(ends, y("last")) }), ...this.points(ends, y("last"), color));
        continue;
      }
      if (many && dash && (line.role === "main" || line.role === "weight")) paint["stroke-dasharray"] = dash;
      const ranged = !line.smooth && !series.exact && columns.least && (this.spec.step || line.role === "raw");
      if (ranged) {
        const area = areaPath(ends, y("least"), y("greatest"));
        drawn.push(svg("path", { class: "reach", fill: color, "fill-opacity": many ? 0.16 : 0.3, d: area }));
      }
      if (this.spec.step)
        drawn.push(svg("path", { ...paint, class: `weight-line ${paint.class}`, d: stepPath(starts, ends, y("last")) }));
      else drawn.push(svg("path", { ...paint, d: linePath(ends, y("last")) }));
    }
    return drawn;
  }

  // Where a figure was measured, as long as that can be told apart.
  points(xs, ys, color) {
    const found = known(xs, ys);
    return found.length > FEW_POINTS ? [] : found.map(([cx, cy]) => svg("circle", { class: "measured", cx, cy, r: 2, fill: color }));
  }

  // The step at which the weights went to what was measured, through all panels.
  drawCalibration({ curves, focus, view }, bottom) {
    const group = svg("g", { class: "calibration" });
    const event = focus?.events.find(({ kind }) => kind === "calibrate");
    if (!event || event.step < view[0] - 1 || event.step > view[1]) return group;
    const x = this.x(event.step);
    group.append(svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: bottom }));
    if (this.spec.step && curves.length) group.append(svg("text", { x: x + 5, y: this.height / 2 + 8 }, "calibrated"));
    return group;
  }

  // Peaks are of single steps: marked for curves of which these are drawn.
  drawPeaks(curves, context) {
    const raw = (curve) => linesOf(this.spec, curve, context).some(({ figure: name, smooth }) => name === this.spec.lines[0].figure && !smooth);
    return curves
      .filter((curve) => curve.series?.to.length && raw(curve))
      .map((curve) => {
        const y = (value) => this.y(value * this.factor(curve, context));
        return peaksOf(curve, this.spec.lines[0].figure, curve.series.to.map(this.x), y, MARGIN.top);
      });
  }

  // The phases of the curve in focus: faint behind the lines, and, below the weight, in full with their names.
  drawBands({ focus, view, width }, clip, lane) {
    const faint = svg("g", { class: "bands", "clip-path": `url(#${clip})` });
    const full = svg("g", { class: "phases" });
    const right = width - MARGIN.right;
    const paths = {};
    for (const [kind, first, last] of focus?.series?.bands ?? []) {
      if (last < view[0] || first > view[1]) continue;
      const from = Math.max(MARGIN.left, this.x(first - 1));
      const span = Math.max(0, Math.min(right, this.x(last)) - from);
      const shape = (top, bottom) => `M${from.toFixed(2)},${top}h${span.toFixed(3)}V${bottom}h${(-span).toFixed(3)}Z`;
      paths[kind] ??= { faint: "", full: "" };
      paths[kind].faint += shape(MARGIN.top, this.height - MARGIN.bottom);
      paths[kind].full += shape(lane, lane + PHASES - 1);
      if (this.spec.step && span > 52) {
        full.append(svg("text", { class: "band-label", x: from + 4, y: lane + 9.5 }, kind));
      }
    }
    const bands = Object.entries(paths);
    faint.append(...bands.map(([kind, d]) => svg("path", { class: `band band-${kind}`, d: d.faint })));
    full.prepend(...bands.map(([kind, d]) => svg("path", { class: `phase-bar band-${kind}`, d: d.full })));
    return svg("g", {}, faint, this.spec.step ? full : null);
  }

  drawGrid({ width, view }, outer, axis) {
    const group = svg("g", { class: "grid" });
    const bottom = this.height - MARGIN.bottom;
    const right = width - MARGIN.right;
    for (const step of stepTicks(view, Math.max(2, width / 110))) {
      const x = this.x(step);
      group.append(svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: bottom }));
      if (axis) group.append(svg("text", { x, y: outer - 5, "text-anchor": "middle" }, figure(step)));
    }
    if (axis) group.append(svg("text", { x: width - 2, y: outer - 5, "text-anchor": "end" }, "step"));
    for (const value of valueTicks(this.y, this.height < 90 ? VALUE_GAPS[0] : VALUE_GAPS[1])) {
      const y = this.y(value);
      if (y < MARGIN.top - 1 || y > bottom + 1) continue;
      group.append(svg("line", { x1: MARGIN.left, x2: right, y1: y, y2: y }));
      group.append(svg("text", { x: MARGIN.left - 7, y: y + 4, "text-anchor": "end" }, figure(value)));
    }
    group.append(svg("path", { class: "frame", d: `M${MARGIN.left},${MARGIN.top}V${bottom}H${right}` }));
    return group;
  }

  // Limits are named in the right margin, where they hide no data: at their height, or at the edge that they lie beyond.
  drawLimits(limits, width) {
    const group = svg("g", { class: "limits" });
    const right = width - MARGIN.right;
    const [top, bottom] = [MARGIN.top, this.height - MARGIN.bottom];
    let lowest = -Infinity;
    const sorted = [...limits].sort((a, b) => b.value - a.value);
    sorted.forEach(({ value, label, color }, i) => {
      const y = this.y(value);
      const arrow = y < top - 1 ? "↑ " : y > bottom + 1 ? "↓ " : "";
      const alike = sorted.filter((other) => other.value === value).length;
      const before = sorted.slice(0, i).filter((other) => other.value === value).length;
      const place = { x1: MARGIN.left, x2: right, y1: y, y2: y };
      if (!arrow) group.append(svg("line", { class: `limit limit-${label.replace(" ", "-")}`, ...place, ...dashed(color, alike, before) }));
      if (before) return;
      lowest = Math.max(Math.min(Math.max(y, top + 4), bottom - 4) + 4, lowest + 13);
      const text = svg("text", { x: right + 6, y: lowest }, `${arrow}${label} ${figure(value, Math.abs(value) < 1e-3 ? 3 : 4)}`);
      if (color) text.style.fill = alike > 1 ? "var(--quiet)" : color;
      group.append(text);
    });
    return group;
  }
}

// Dashes in a colour; those of several that lie over each other take turns.
function dashed(color, alike, before) {
  if (!color) return {};
  const [dash, gap] = DASH;
  const turn = dash + gap;
  const dashes = `stroke-dasharray:${dash} ${alike * turn - dash};stroke-dashoffset:${-before * turn}`;
  return { style: `stroke:${color};${dashes}` };
}
