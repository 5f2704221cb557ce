// Markers of events, of skipped and dampened steps, and of what lies beyond a scale. Where there are too many to be told
// apart, those of one kind that lie on the same few pixels become one larger marker that stands for them: none is ever
// left out.
import { figure, svg, words } from "./dom.js";
import { kindClass, kindColor, kindLabel, symbol } from "./kinds.js";
import { concerns } from "./data.js";

const MANY = 260;
const NEAR = 10;
const PEAKS_APART = 9;
const NAMED_PEAKS = 3;
const NAMES_APART = 64;

// The events of each curve on its line, and its pins at the height `lane`.
export function markersOf(context, x, y, lane) {
  const group = svg("g", { class: "markers" });
  const total = context.curves.reduce((sum, curve) => sum + curve.visibleEvents.length, 0);
  for (const curve of context.curves) {
    for (const cluster of clusters(curve.visiblePins, x, curve.visiblePins.length > MANY)) {
      group.append(marker(curve, cluster, x(cluster.items[0].step), lane, context));
    }
  }
  for (const curve of context.curves) {
    const taken = new Map();
    for (const cluster of clusters(curve.visibleEvents.filter(concerns(curve)), x, total > MANY)) {
      const event = cluster.items[cluster.items.length - 1];
      const place = cluster.items.length > 1 ? null : event.step;
      const above = place === null ? 0 : (taken.get(place) ?? 0);
      if (place !== null) taken.set(place, above + 1);
      group.append(marker(curve, cluster, x(event.step), y(Number(event.new_weight)) - 15 * above, context));
    }
  }
  return group;
}

// Marks along the upper edge where a figure of a curve reaches beyond the scale; the greatest of them with their value.
export function peaksOf(curve, figureName, xs, y, top) {
  const { greatest, last } = curve.series.figures[figureName];
  const found = [];
  (greatest ?? last).forEach((value, i) => {
    if (value === null || y(value) >= top - 0.5) return;
    const before = found[found.length - 1];
    const peak = { x: xs[i], value, step: curve.series.to[i], count: 1 };
    if (!before || peak.x - before.x > PEAKS_APART) found.push(peak);
    else Object.assign(before, value > before.value ? peak : {}, { count: before.count + 1 });
  });
  const group = svg("g", { class: "peaks" });
  const named = [];
  for (const peak of [...found].sort((a, b) => b.value - a.value)) {
    const label = `${words(figureName)} ${figure(peak.value)} at step ${peak.step}, beyond the scale`;
    const at = { transform: `translate(${peak.x.toFixed(1)},${top + 4})`, role: "img", "aria-label": label };
    const node = svg("g", { class: "peak kind-spike", ...at }, symbol("spike", { transform: "scale(0.8)" }));
    node.peak = { curve, figureName, ...peak };
    group.append(node);
    if (named.length < NAMED_PEAKS && named.every((other) => Math.abs(other - peak.x) > NAMES_APART)) {
      named.push(peak.x);
      group.append(svg("text", { class: "peak-value", x: peak.x + 7, y: top + 9 }, figure(peak.value, 3)));
    }
  }
  return group;
}

function clusters(items, x, crowded) {
  if (!crowded) return items.map((item) => ({ kind: item.kind, items: [item] }));
  const found = new Map();
  for (const item of items) {
    const key = `${item.kind}@${Math.floor(x(item.step) / NEAR)}`;
    if (!found.has(key)) found.set(key, { kind: item.kind, items: [] });
    found.get(key).items.push(item);
  }
  return [...found.values()];
}

function marker(curve, { kind, items }, x, y, { selected, filtered }) {
  const single = items.length === 1 ? items[0] : null;
  const index = single?.index ?? null;
  const chosen =
    selected !== null &&
    selected.run === curve.name &&
    items.some((item) => item.index === selected.index && item.index !== undefined);
  const dim = items.every((item) => item.index !== undefined && !filtered(item));
  const node = svg("g", {
    class: `marker ${kindClass(kind)}${chosen ? " selected" : ""}${dim ? " dim" : ""}`,
    transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`,
    role: "img",
    "aria-label": spoken(curve, kind, items),
    "data-run": curve.name,
    "data-kind": kind,
    "data-count": items.length,
    "data-index": index,
  });
  node.style.fill = kindColor(kind);
  if (chosen) node.append(svg("circle", { class: "halo", r: 12 }));
  const size = Math.min(1.7, 1 + 0.13 * Math.log2(items.length));
  const paint = curve.many ? { stroke: curve.color } : {};
  node.append(symbol(kind, size > 1 ? { ...paint, transform: `scale(${size.toFixed(2)})` } : paint));
  node.marked = { curve, kind, items };
  return node;
}

function spoken(curve, kind, items) {
  const [first, last] = [items[0], items[items.length - 1]];
  if (items.length > 1)
    return `${items.length} times ${kindLabel(kind)}, steps ${first.step} to ${last.step}, run ${curve.name}`;
  if (first.index === undefined)
    return `${kindLabel(kind)} ${first.step}${first.what ? `: ${first.what}` : ""}, run ${curve.name}`;
  const change = `${figure(first.old_weight)} to ${figure(first.new_weight)}`;
  return `${kindLabel(kind)} at step ${first.step}, ${change}, ${words(first.reason)}, run ${curve.name}`;
}
