// The box beside the pointer, and the same details for the selected event below the table.
import { clock, count, dateTime, figure, html, shortened, words } from "./dom.js";
import { icon, kindLabel } from "./kinds.js";

const LONGEST_NOTE = 1000;
const LONGEST_REASON = 60;

const SHOWN = [
  "weight",
  "proposed_weight",
  "loss",
  "smoothed_loss",
  "running_average",
  "loss_ratio",
  "loss_variance",
  "share",
  "gradient_norm",
  "average_gradient_norm",
];
const OF_A_BALANCE = /^(share|intent|target)\./;

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

// Term, old and new weight of what an event moved: of those of a balance, all that moved; else its own.
export function movesOf({ old_weights: before, new_weights: after, old_weight: old, new_weight: now }) {
  const moved = Object.keys(before ?? {}).filter((term) => Number(before[term]) !== Number(after[term]));
  return moved.length ? moved.map((term) => [term, before[term], after[term]]) : [[null, old, now]];
}

export function eventDetails(curve, event, full = false) {
  const evidence = Object.entries(event.evidence ?? {})
    .sort(([a], [b]) => OF_A_BALANCE.test(b) - OF_A_BALANCE.test(a))
    .map(([name, value]) => [name.replace(".", " of "), figure(value)])
    .filter(([, text]) => text !== "–");
  const moves = movesOf(event).map(([term, old, now]) => `${term === null ? "" : `${term} `}${figure(old)} → ${figure(now)}`);
  const change = moves.join(", ");
  const held = isProposal(event) ? ` (shadow run: ${figure(event.held_weight)} stays in force)` : "";
  return [
    html(
      "div",
      { class: "details-head" },
      icon(event.kind),
      html("strong", {}, shortened(kindLabel(event.kind), LONGEST_REASON)),
      ` at step ${count(event.step)}`,
    ),
    html(
      "div",
      { class: "details-change" },
      `${change}${held}`,
      html("span", { class: "reason" }, shortened(words(event.reason), LONGEST_REASON)),
    ),
    event.note ? html("div", { class: "note", dir: "auto" }, shortened(event.note, LONGEST_NOTE)) : null,
    event.advice ? html("p", { class: "advice" }, event.advice) : null,
    evidence.length ? table(full ? evidence : evidence.slice(0, 14)) : null,
    html(
      "div",
      { class: "quiet" },
      [curve.name, full ? dateTime(event.wall_time) : event.wall_time && clock(event.wall_time)]
        .filter(Boolean)
        .join(" · "),
    ),
  ].filter(Boolean);
}

const WHY = {
  skipped: "the optimizer did not take this step",
  routine: "the mixed-precision loss scale was halved: routine",
  dampened: "the loss was a spike, and its gradients were scaled down",
};

export function clusterDetails(curve, kind, items) {
  const [first, last] = [items[0], items[items.length - 1]];
  const single = items.length === 1;
  const steps = single ? `step ${count(first.step)}` : `steps ${count(first.step)} to ${count(last.step)}`;
  const what = [...new Set(items.map((item) => item.what).filter(Boolean))].slice(0, 4);
  const factors = items.map((item) => item.factor).filter((factor) => factor !== undefined);
  const more = [];
  if (what.length) more.push(`first non-finite: ${what.join(", ")}`);
  if (factors.length) more.push(`by ${figure(Math.min(...factors), 3)}${single ? "" : " at most"}`);
  const head = single ? kindLabel(kind) : `${count(items.length)} × ${kindLabel(kind)}`;
  return [
    html("div", { class: "details-head" }, icon(kind), html("strong", {}, head), ` ${steps}`),
    WHY[kind] ? html("p", { class: "advice" }, [WHY[kind], ...more].join("; ")) : null,
    html("div", { class: "quiet" }, single ? curve.name : `${curve.name} · click to zoom in`),
  ].filter(Boolean);
}

export function peakDetails({ curve, figureName, value, step, count: number }) {
  const others = number > 1 ? `, the greatest of ${count(number)} side by side` : "";
  return [
    html("div", { class: "details-head" }, icon("spike"), html("strong", {}, `${words(figureName)} ${figure(value)}`)),
    html("p", { class: "advice" }, `beyond the scale at step ${count(step)}${others}`),
    html("div", { class: "quiet" }, curve.name),
  ];
}

// All figures of each curve; where there are several terms, those of the term in focus, and of each other weight and loss.
export function stepDetails({ curves, all, several, focus }, step) {
  const nodes = [];
  for (const curve of several ? curves.filter(({ term }) => term === focus?.term) : curves) {
    const at = bucketAt(curve.series, step);
    if (at < 0) continue;
    const { from, to, figures, exact } = curve.series;
    const title =
      exact || from[at] === to[at] ? `step ${count(to[at])}` : `steps ${count(from[at])} to ${count(to[at])}`;
    const told = (name) => (name === "share" ? figure(measuredBefore(figures.share, at)) : rangeText(figures[name], at));
    const rows = SHOWN.map((name) => [name, told(name)]).filter(([, text]) => text !== "–");
    nodes.push(
      html("div", { class: "details-head" }, curves.length > 1 ? html("strong", {}, curve.name) : null, ` ${title}`),
      table(rows),
    );
  }
  const others = several ? all.filter(({ term }) => term !== focus?.term) : [];
  const rows = others.map((curve) => [curve, bucketAt(curve.series, step)]).filter(([, at]) => at >= 0);
  if (nodes.length && rows.length) nodes.push(html("table", { class: "figures" }, html("tbody", {}, ...rows.map(otherTerm))));
  return nodes;
}

function otherTerm([curve, at]) {
  const { figures } = curve.series;
  const weight = curve.fixed ? `fixed ${figure(curve.weight)}` : figure(figures.weight?.last[at]);
  const share = measuredBefore(figures.share, at);
  const part = share === null ? "" : `, share ${figure(share, 3)}`;
  return html("tr", {}, html("th", { scope: "row" }, curve.name), html("td", {}, `${weight} × ${figure(figures.loss?.last[at])}${part}`));
}

// What is measured seldom, as it was measured last.
function measuredBefore(columns, at) {
  for (let i = at; i >= 0; i -= 1) if ((columns?.last[i] ?? null) !== null) return columns.last[i];
  return null;
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
