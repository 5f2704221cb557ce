// The page: its state, what a person does to it, and what each part is told to draw.
//
// What is drawn is a list of curves: one adaptive weight each, with its own colour, figures and events.
import { Answers } from "./answers.js";
import { Chart } from "./chart.js";
import { RunData } from "./data.js";
import { html } from "./dom.js";
import { Header } from "./header.js";
import { Legend } from "./legend.js";
import { LOOK } from "./look.js";
import { RunList } from "./runs.js";
import { Terms } from "./terms.js";
import { DecisionTable } from "./table.js";
import { Why } from "./why.js";

const POLL_MILLISECONDS = 2000;
const SETTLE_MILLISECONDS = 90;
const COLORS = 8;
const LOOK_AROUND = 60;
const HOW_TO_BEGIN =
  "No journal below this log directory yet. Train with model.fit(..., callbacks=[AdaptiveMelWeightCallback(" +
  'log_dir="runs/1")]) and start TensorBoard with --logdir runs; this page looks again every two seconds.';

export class App {
  constructor(parent) {
    this.data = new RunData();
    this.window = null;
    this.follow = true;
    this.bounds = false;
    this.focusTerm = null;
    this.relativeChoice = null;
    this.chosen = null;
    this.chose = false;
    this.paused = false;
    this.updated = null;
    this.failure = null;
    this.build(parent);
  }

  async start() {
    await this.poll();
    this.draw();
    const tick = async () => {
      if (!this.paused && !document.hidden) await this.poll();
      setTimeout(tick, POLL_MILLISECONDS);
    };
    setTimeout(tick, POLL_MILLISECONDS);
  }

  build(parent) {
    const select = (at, from) => this.select(at, from);
    this.header = new Header(parent, {
      bounds: () => this.toggleBounds(),
      pause: () => this.togglePause(),
      whole: () => this.zoom(null),
      zoomBy: (factor) => this.chart.zoomBy(factor),
    });
    this.answers = new Answers(parent, { select, look: (step) => this.zoom([step - LOOK_AROUND, step + LOOK_AROUND]) });
    const charts = html("section", { class: "main", "aria-label": "Charts" });
    const decisions = html("section", { "aria-label": "Decisions" });
    const why = html("section", { "aria-label": "What held the weight" });
    this.side = html("aside", { class: "side", "aria-label": "Decisions and reasons" }, decisions, why);
    parent.append(html("main", {}, charts, this.side));
    this.runList = new RunList(this.header.runs, {
      toggle: (run, on) => this.reload(() => this.data.toggle(run, on)),
      focus: (run) => this.reload(() => this.data.focus(run)),
    });
    this.terms = new Terms(charts, {
      focus: (term) => this.focusOn(term),
      relative: () => this.toggleRelative(),
    });
    this.legend = new Legend(charts, this.terms.relative);
    this.chart = new Chart(charts, { zoom: (range) => this.zoom(range), select, next: (by) => this.next(by) });
    this.table = new DecisionTable(decisions, { select, refilter: () => this.draw() });
    this.why = new Why(why);
  }

  // ---- what is known

  async poll() {
    await this.attempt(async () => {
      const listed = await this.data.list();
      const loaded = await this.load();
      this.updated = Date.now();
      if (listed || loaded) this.draw();
      else this.drawRuns();
    });
  }

  async reload(change = () => {}) {
    change();
    await this.attempt(() => this.load());
    this.draw();
  }

  async attempt(work) {
    try {
      await work();
      this.failure = null;
    } catch (error) {
      this.failure = String(error.message ?? error);
    }
    this.header.showState(this);
  }

  load() {
    const shift = this.window && this.follow ? this.data.extent[1] - this.window[1] : 0;
    if (shift > 0) this.window = this.window.map((step) => step + shift);
    const points = Math.min(2000, Math.max(1000, Math.round(this.chart.node.clientWidth)));
    return this.data.load(this.window, points);
  }

  get view() {
    return this.window ?? this.data.extent;
  }

  // ---- what a person does

  zoom(range) {
    const [low, high] = this.data.extent;
    const wide = range === null ? high - low : Math.max(8, Math.min(range[1] - range[0], high - low));
    if (wide >= high - low) {
      this.window = null;
    } else {
      const first = Math.round(Math.min(Math.max(range[0], low), high - wide));
      this.window = [first, Math.round(first + wide)];
    }
    this.follow = this.window === null || this.window[1] >= high;
    this.draw();
    clearTimeout(this.pending);
    this.pending = setTimeout(() => this.reload(), SETTLE_MILLISECONDS);
  }

  toggleBounds() {
    this.bounds = !this.bounds;
    this.header.showBounds(this.bounds);
    this.draw();
  }

  focusOn(term) {
    this.focusTerm = term;
    this.chose = false;
    this.draw();
  }

  toggleRelative() {
    this.relativeChoice = !this.relative;
    this.draw();
  }

  // Whether each loss is drawn relative to its first average: by itself where there are several weights.
  get relative() {
    return this.relativeChoice ?? this.data.curves.some(({ several }) => several);
  }

  togglePause() {
    this.paused = !this.paused;
    this.header.showState(this);
    if (!this.paused) this.poll();
  }

  // The newest decision is selected until a person chooses another, or none.
  get selected() {
    if (this.chose) return this.chosen;
    const name = this.focusOf(this.data.curves)?.name;
    const events = this.data.known.get(name)?.events ?? [];
    return events.length ? { run: name, index: events.length - 1 } : null;
  }

  // The curve that answers, limits, phases and reasons are about.
  focusOf(curves) {
    const of = curves.filter(({ run, fixed }) => run === this.data.focusName && !fixed);
    return of.find(({ term }) => term === this.focusTerm) ?? of[0] ?? curves.find(({ fixed }) => !fixed) ?? null;
  }

  select(at, from) {
    this.chosen = at;
    this.chose = true;
    const event = this.data.event(at);
    const curve = at && this.data.curves.find(({ name }) => name === at.run);
    if (curve?.several) this.focusTerm = curve.term;
    if (event && !this.table.accepts(event)) this.table.clearFilter();
    const [first, last] = this.view;
    if (event && (event.step < first || event.step > last)) {
      const half = (last - first) / 2;
      this.zoom([event.step - half, event.step + half]);
    } else {
      this.draw();
    }
    this.table.reveal(from === "table");
  }

  next(by) {
    const events = this.curves().filter(({ leads }) => leads).flatMap(({ name, events: all }) =>
      all.filter(this.table.accepts).map(({ index, step }) => ({ run: name, index, step })),
    );
    if (!events.length) return;
    events.sort((a, b) => a.step - b.step || a.index - b.index);
    const { chosen } = this;
    const now = events.findIndex(({ run, index }) => run === chosen?.run && index === chosen.index);
    const start = now < 0 && by < 0 ? events.length : now;
    const { run, index } = events[Math.min(Math.max(start + by, 0), events.length - 1)];
    this.select({ run, index }, "chart");
  }

  // ---- what is shown

  color = (name) => {
    const at = this.data.all.findIndex(({ run }) => run === name);
    return (this.data.visible?.size ?? 0) > 1 ? `var(--run-${at % COLORS})` : "var(--ink)";
  };

  // A colour for each run; with one run that has several weights, for each term. A dash for each term.
  paint({ run, term }, terms) {
    const at = terms.indexOf(term);
    const byTerm = terms.length > 1 && (this.data.visible?.size ?? 0) < 2;
    return { color: byTerm ? `var(--run-${at % COLORS})` : this.color(run), dash: LOOK.dashes[at % COLORS]?.join(" ") || null };
  }

  curves() {
    const [begin, end] = this.view;
    const inside = ({ step }) => step >= begin - 1 && step <= end;
    const shown = this.data.curves.filter(({ name }) => this.data.known.get(name)?.series);
    const several = shown.some((curve) => curve.several);
    const terms = several ? [...new Set(shown.map(({ term }) => term))] : [];
    const first = new Map(shown.filter(({ fixed }) => !fixed).reverse().map(({ run, name }) => [run, name]));
    const focus = this.focusOf(shown);
    const leads = ({ run, name, balance }) => !balance || name === (run === focus?.run ? focus.name : first.get(run));
    return shown.map((curve) => {
      const { series, events, present } = this.data.known.get(curve.name);
      return {
        ...curve,
        ...this.paint(curve, terms),
        leads: leads(curve),
        many: several || shown.filter(({ fixed }) => !fixed).length > 1,
        series,
        events,
        present,
        visibleEvents: events.filter(inside),
        visiblePins: first.get(curve.run) === curve.name ? pinsOf(series).filter(inside) : [],
      };
    });
  }

  draw() {
    const all = this.curves();
    const { view, bounds, selected, relative } = this;
    const curves = all.filter(({ fixed }) => !fixed);
    const focus = this.focusOf(all);
    const several = all.some((curve) => curve.several);
    const losses = several || relative ? all : curves;
    const runs = this.data.visible?.size ?? 0;
    const context = { all, curves, losses, several, relative, runs, focus, view, bounds, selected, filtered: this.table.accepts };
    this.drawRuns();
    this.showEmpty(curves);
    this.answers.draw(context);
    this.terms.draw(context);
    this.legend.draw(context);
    if (curves.length) this.chart.draw(context);
    this.table.draw(context);
    this.why.draw(context);
    this.header.showRange(curves.length ? view : null);
  }

  drawRuns() {
    const { all, visible, focusName } = this.data;
    const trouble = (run) => this.data.trouble(run);
    this.runList.draw({ all, visible: visible ?? new Set(), focusName, color: this.color, trouble });
  }

  showEmpty(curves) {
    document.body.classList.toggle("nothing", !curves.length);
    this.side.hidden = !curves.length;
    this.chart.show(
      curves.length > 0,
      this.data.all.length ? "No run is selected, or none has steps yet." : HOW_TO_BEGIN,
    );
  }
}

// The steps that were skipped or dampened.
function pinsOf({ skipped, dampened }) {
  return [
    ...skipped.map(([step, what, routine]) => ({ step, what, kind: routine ? "routine" : "skipped" })),
    ...(dampened ?? []).map(([step, factor]) => ({ step, factor, kind: "dampened" })),
  ];
}
