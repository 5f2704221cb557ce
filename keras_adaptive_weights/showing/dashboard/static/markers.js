// Markers of events and skipped steps. Where there are too many to be told apart, those of one kind that lie on the
// same few pixels become one larger marker that stands for them: none is ever left out.
import { figure, svg, words } from "./dom.js";
import { kindClass, kindLabel, symbol } from "./kinds.js";

const MANY = 260;
const NEAR = 10;

export function markersOf(context, x, y, height) {
  const group = svg("g", { class: "markers" });
  const total = context.runs.reduce((sum, run) => sum + run.visibleEvents.length, 0);
  for (const run of context.runs) {
    const skips = run.visibleSkips.map(([step, what, routine]) => ({
      step,
      what,
      kind: routine ? "routine" : "skipped",
    }));
    for (const cluster of clusters(skips, x, skips.length > MANY)) {
      group.append(marker(run, cluster, x(cluster.items[0].step), height - 17, context));
    }
  }
  for (const run of context.runs) {
    const taken = new Map();
    for (const cluster of clusters(run.visibleEvents, x, total > MANY)) {
      const event = cluster.items[cluster.items.length - 1];
      const place = cluster.items.length > 1 ? null : event.step;
      const above = place === null ? 0 : (taken.get(place) ?? 0);
      if (place !== null) taken.set(place, above + 1);
      group.append(marker(run, cluster, x(event.step), y(Number(event.new_weight)) - 15 * above, context));
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

function marker(run, { kind, items }, x, y, { selected, filtered }) {
  const single = items.length === 1 ? items[0] : null;
  const index = single?.index ?? null;
  const chosen =
    selected !== null &&
    selected.run === run.name &&
    items.some((item) => item.index === selected.index && item.index !== undefined);
  const dim = items.every((item) => item.index !== undefined && !filtered(item));
  const node = svg("g", {
    class: `marker ${kindClass(kind)}${chosen ? " selected" : ""}${dim ? " dim" : ""}`,
    transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`,
    role: "img",
    "aria-label": spoken(run, kind, items),
    "data-run": run.name,
    "data-kind": kind,
    "data-count": items.length,
    "data-index": index,
  });
  if (chosen) node.append(svg("circle", { class: "halo", r: 13 }));
  const size = Math.min(1.7, 1 + 0.13 * Math.log2(items.length));
  const paint = run.many ? { stroke: run.color } : {};
  node.append(symbol(kind, size > 1 ? { ...paint, transform: `scale(${size.toFixed(2)})` } : paint));
  node.marked = { run, kind, items };
  return node;
}

function spoken(run, kind, items) {
  const [first, last] = [items[0], items[items.length - 1]];
  if (items.length > 1)
    return `${items.length} times ${kindLabel(kind)}, steps ${first.step} to ${last.step}, run ${run.name}`;
  if (first.index === undefined)
    return `${kindLabel(kind)} ${first.step}${first.what ? `: ${first.what}` : ""}, run ${run.name}`;
  const change = `${figure(first.old_weight)} to ${figure(first.new_weight)}`;
  return `${kindLabel(kind)} at step ${first.step}, ${change}, ${words(first.reason)}, run ${run.name}`;
}
