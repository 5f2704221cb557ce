// The box beside the pointer, and the same details for the selected event below the table.
import { clock, count, dateTime, figure, html, words } from "./dom.js";
import { icon, kindLabel } from "./kinds.js";

const SHOWN = [
  "weight",
  "proposed_weight",
  "loss",
  "running_average",
  "loss_ratio",
  "loss_variance",
  "gradient_norm",
  "average_gradient_norm",
];

export class Tooltip {
  constructor(parent) {
    this.node = html("div", { class: "tooltip", role: "tooltip", hidden: true });
    parent.append(this.node);
  }

  show(content, x, y) {
    this.node.replaceChildren(...content);
    this.node.hidden = false;
    const { width, height } = this.node.getBoundingClientRect();
    const left = x + 18 + width > window.innerWidth ? x - width - 18 : x + 18;
    this.node.style.left = `${Math.max(4, left)}px`;
    this.node.style.top = `${Math.max(4, Math.min(y - 24, window.innerHeight - height - 6))}px`;
  }

  hide() {
    this.node.hidden = true;
  }
}

export const isProposal = ({ held_weight: held }) => held !== undefined;

export function eventDetails(run, event, full = false) {
  const evidence = Object.entries(event.evidence ?? {})
    .map(([name, value]) => [name, figure(value)])
    .filter(([, text]) => text !== "–");
  const change = `${figure(event.old_weight)} → ${figure(event.new_weight)}`;
  const held = isProposal(event) ? ` (shadow run: ${figure(event.held_weight)} stays in force)` : "";
  return [
    html(
      "div",
      { class: "details-head" },
      icon(event.kind),
      html("strong", {}, kindLabel(event.kind)),
      ` at step ${count(event.step)}`,
    ),
    html("div", { class: "details-change" }, `${change}${held}`, html("span", { class: "reason" }, words(event.reason))),
    event.note ? html("div", { class: "note" }, event.note) : null,
    event.advice ? html("p", { class: "advice" }, event.advice) : null,
    evidence.length ? table(full ? evidence : evidence.slice(0, 14)) : null,
    html(
      "div",
      { class: "quiet" },
      [run.name, full ? dateTime(event.wall_time) : event.wall_time && clock(event.wall_time)]
        .filter(Boolean)
        .join(" · "),
    ),
  ].filter(Boolean);
}

export function clusterDetails(run, kind, items) {
  const [first, last] = [items[0], items[items.length - 1]];
  const skipped = first.index === undefined;
  const single = items.length === 1;
  const steps = single ? `step ${count(first.step)}` : `steps ${count(first.step)} to ${count(last.step)}`;
  const what = [...new Set(items.map((item) => item.what).filter(Boolean))].slice(0, 4);
  const head = single ? kindLabel(kind) : `${count(items.length)} × ${kindLabel(kind)}`;
  const why =
    kind === "routine" ? "the mixed-precision loss scale was halved: routine" : "the optimizer did not take this step";
  return [
    html("div", { class: "details-head" }, icon(kind), html("strong", {}, head), ` ${steps}`),
    skipped ? html("p", { class: "advice" }, what.length ? `${why}; first non-finite: ${what.join(", ")}` : why) : null,
    html("div", { class: "quiet" }, single ? run.name : `${run.name} · click to zoom in`),
  ].filter(Boolean);
}

export function stepDetails(runs, step) {
  const nodes = [];
  for (const run of runs) {
    const at = bucketAt(run.series, step);
    if (at < 0) continue;
    const { from, to, figures, exact } = run.series;
    const title =
      exact || from[at] === to[at] ? `step ${count(to[at])}` : `steps ${count(from[at])} to ${count(to[at])}`;
    const rows = SHOWN.map((name) => [name, rangeText(figures[name], at)]).filter(([, text]) => text !== "–");
    nodes.push(
      html("div", { class: "details-head" }, runs.length > 1 ? html("strong", {}, run.name) : null, ` ${title}`),
      table(rows),
    );
  }
  return nodes;
}

function rangeText(columns, at) {
  const last = figure(columns.last[at]);
  const [least, greatest] = [columns.least?.[at], columns.greatest?.[at]];
  if (least === undefined || least === null || least === greatest) return last;
  return `${figure(least)} – ${figure(greatest)}`;
}

function bucketAt(series, step) {
  if (!series?.to.length || step < series.first - 1 || step > series.last + 1) return -1;
  let [low, high] = [0, series.to.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (series.to[middle] >= step) high = middle;
    else low = middle + 1;
  }
  return low;
}

function table(rows) {
  const lines = rows.map(([name, text]) =>
    html("tr", {}, html("th", { scope: "row" }, words(name)), html("td", {}, text)),
  );
  return html("table", { class: "figures" }, html("tbody", {}, ...lines));
}
