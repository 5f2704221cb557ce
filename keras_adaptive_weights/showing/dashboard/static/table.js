// The table of decisions: filters, order, selection, details of the chosen one.
import { count, dateTime, figure, html, say, shortened, words } from "./dom.js";
import { icon, kindLabel } from "./kinds.js";
import { eventDetails, isProposal, movesOf } from "./tooltip.js";

const ROWS = 300;
const LONGEST_NOTE = 120;
const LONGEST_REASON = 60;

const short = (weight) => figure(weight, Math.abs(weight) < 0.1 ? 3 : 4);

// The reason and, where there are several terms, those that moved: beside their weights.
function reasonAndTerms(run, event) {
  const reason = html("div", {}, shortened(words(event.reason), LONGEST_REASON));
  const moves = run.terms.length > 1 ? movesOf(event) : [];
  const terms = moves.map(([term]) => html("div", { class: "term-cell", dir: "auto" }, shortened(String(term ?? run.term), LONGEST_REASON)));
  return terms.length > 1 ? [...terms, reason] : [reason, ...terms];
}

export class DecisionTable {
  constructor(parent, actions) {
    this.actions = actions;
    this.filter = { kind: "", reason: "", inView: false };
    this.newestFirst = true;
    this.limit = ROWS;
    this.action = this.choice("actions", "kind", kindLabel);
    this.reason = this.choice("reasons", "reason", words);
    const inView = html("input", {
      type: "checkbox",
      id: "only-view",
      onchange: () => this.change({ inView: inView.checked }),
    });
    this.order = html("button", { type: "button", class: "plain", onclick: () => this.turn() }, "Step ↓");
    this.orderHead = html("th", { scope: "col", "aria-sort": "descending" }, this.order);
    const heads = ["Action", "Weight", "Reason, note"].map((name) => html("th", { scope: "col" }, name));
    this.body = html("tbody");
    this.summary = html("span", { class: "quiet", role: "status" });
    this.more = html("button", { type: "button", hidden: true, onclick: () => this.showMore() });
    this.details = html("div", {
      class: "details",
      role: "region",
      "aria-label": "Selected decision",
      "aria-live": "polite",
    });
    const rows = html(
      "table",
      { class: "decisions" },
      html("caption", { class: "hidden" }, "Decisions"),
      html("thead", {}, html("tr", {}, this.orderHead, ...heads)),
      this.body,
    );
    const label = html("label", { for: "only-view" }, inView, " in view");
    parent.append(
      html("div", { class: "section-head" }, html("h2", {}, "Decisions"), this.summary),
      html("div", { class: "filters" }, this.action.node, this.reason.node, label),
      html(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of decisions" },
        rows,
        this.more,
      ),
      this.details,
    );
    this.body.addEventListener("click", (event) => this.pick(event.target.closest("tr")));
    this.body.addEventListener("keydown", (event) => this.key(event));
  }

  choice(what, name, named) {
    const attributes = { id: `filter-${name}`, "aria-label": `Show ${what}` };
    const node = html("select", { ...attributes, onchange: () => this.change({ [name]: node.value }) });
    return { node, named, name, what };
  }

  change(values) {
    Object.assign(this.filter, values);
    this.limit = ROWS;
    this.actions.refilter();
  }

  clearFilter() {
    this.filter = { ...this.filter, kind: "", reason: "" };
  }

  accepts = (event) =>
    (!this.filter.kind || event.kind === this.filter.kind) &&
    (!this.filter.reason || event.reason === this.filter.reason);

  turn() {
    this.newestFirst = !this.newestFirst;
    say(this.order, this.newestFirst ? "Step ↓" : "Step ↑");
    this.orderHead.setAttribute("aria-sort", this.newestFirst ? "descending" : "ascending");
    this.draw(this.context);
  }

  showMore() {
    this.limit += 10 * ROWS;
    this.draw(this.context);
  }

  draw(context) {
    this.context = context;
    const all = context.curves.filter(({ leads }) => leads).flatMap((run) => run.events.map((event) => ({ run, event })));
    this.offer(this.action, all);
    this.offer(this.reason, all);
    const [first, last] = context.view;
    const kept = all.filter(
      ({ event }) => this.accepts(event) && (!this.filter.inView || (event.step >= first && event.step <= last)),
    );
    kept.sort((a, b) => (a.event.step - b.event.step || a.event.index - b.event.index) * (this.newestFirst ? -1 : 1));
    this.kept = kept;
    const { selected } = context;
    const at = selected
      ? kept.findIndex(({ run, event }) => run.name === selected.run && event.index === selected.index)
      : -1;
    this.limit = Math.max(this.limit, at + 1);
    const focused = this.body.contains(document.activeElement);
    this.body.replaceChildren(...kept.slice(0, this.limit).map((item) => this.row(item, context)));
    if (focused) this.body.querySelector('tr[aria-selected="true"]')?.focus({ preventScroll: true });
    const cut = kept.length > this.limit ? `, ${count(this.limit)} of them shown` : "";
    say(this.summary, `${count(kept.length)} of ${count(all.length)} that did something${cut}`);
    this.more.hidden = kept.length <= this.limit;
    say(this.more, `Show ${count(Math.min(10 * ROWS, kept.length - this.limit))} more`);
    this.showDetails(context);
  }

  offer({ node, named, name, what }, all) {
    const numbers = new Map();
    for (const { event } of all) numbers.set(event[name], (numbers.get(event[name]) ?? 0) + 1);
    const chosen = this.filter[name];
    if (chosen && !numbers.has(chosen)) numbers.set(chosen, 0);
    const options = [...numbers].sort((a, b) => b[1] - a[1]);
    const key = JSON.stringify(options);
    if (node.offered !== key) {
      node.offered = key;
      node.replaceChildren(
        html("option", { value: "" }, `all ${what}`),
        ...options.map(([value, n]) => html("option", { value }, `${shortened(named(value), LONGEST_REASON)} (${count(n)})`)),
      );
    }
    node.value = chosen;
  }

  row({ run, event }, { curves, selected }) {
    const chosen = selected !== null && selected.run === run.name && selected.index === event.index;
    const swatch = html("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = run.color;
    const node = html(
      "tr",
      {
        tabindex: chosen ? 0 : -1,
        "aria-selected": chosen,
        "data-run": run.name,
        "data-index": event.index,
        title: [run.name, dateTime(event.wall_time)].filter(Boolean).join(", "),
      },
      html("td", { class: "number" }, curves.length > 1 ? swatch : null, count(event.step)),
      html("td", { class: "action-cell" }, icon(event.kind), ` ${shortened(kindLabel(event.kind), LONGEST_REASON)}`),
      html(
        "td",
        { class: "number" },
        ...movesOf(event).map(([, old, now]) => html("div", {}, `${short(old)} → ${short(now)}${isProposal(event) ? " (shadow)" : ""}`)),
      ),
      html(
        "td",
        { class: "reason-cell" },
        ...reasonAndTerms(run, event),
        event.note ? html("div", { class: "note-cell", dir: "auto" }, shortened(event.note, LONGEST_NOTE)) : null,
      ),
    );
    node.picked = { run: run.name, index: event.index };
    return node;
  }

  pick(row) {
    if (row?.picked) this.actions.select(row.picked, "table");
  }

  key(event) {
    const row = event.target.closest("tr");
    const next = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling }[event.key];
    if (event.key === "Enter" || event.key === " ") this.pick(row);
    else if (next) this.pick(next);
    else return;
    event.preventDefault();
  }

  reveal(focus) {
    const row = this.body.querySelector('tr[aria-selected="true"]');
    if (!row) return;
    const box = row.closest(".scroll");
    const [top, bottom] = [row.offsetTop, row.offsetTop + row.offsetHeight];
    if (top < box.scrollTop + 30) box.scrollTop = top - 60;
    else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight + 30;
    if (focus) row.focus({ preventScroll: true });
  }

  showDetails({ curves, selected }) {
    const run = curves.find(({ name }) => name === selected?.run);
    const event = run?.events[selected?.index];
    this.details.replaceChildren(
      ...(event
        ? eventDetails(run, event, true)
        : [html("p", { class: "quiet" }, "Choose a row or a marker to see what the decision was taken on.")]),
    );
  }
}
