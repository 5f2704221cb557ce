// The page: its state, what a person does to it, and what each part is told to draw.
import { Chart } from "./chart.js";
import { RunData } from "./data.js";
import { html } from "./dom.js";
import { Header } from "./header.js";
import { Legend } from "./legend.js";
import { RunList } from "./runs.js";
import { DecisionTable } from "./table.js";
import { Why } from "./why.js";

const POLL_MILLISECONDS = 2000;
const SETTLE_MILLISECONDS = 90;
const COLORS = 8;
const HOW_TO_BEGIN =
  "No journal below this log directory yet. Train with model.fit(..., callbacks=[AdaptiveMelWeightCallback(" +
  'log_dir="runs/1")]) and start TensorBoard with --logdir runs; this page looks again every two seconds.';

export class App {
  constructor(parent) {
    this.data = new RunData();
    this.window = null;
    this.follow = true;
    this.fit = false;
    this.selected = null;
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
      fit: () => this.toggleFit(),
      pause: () => this.togglePause(),
      whole: () => this.zoom(null),
      zoomBy: (factor) => this.chart.zoomBy(factor),
    });
    const runs = html("nav", { "aria-label": "Runs" });
    const charts = html("section", { class: "main", "aria-label": "Charts" });
    const decisions = html("section", { "aria-label": "Decisions" });
    const why = html("section", { "aria-label": "Why is nothing changing?" });
    this.side = html("aside", { class: "side", "aria-label": "Decisions and reasons" }, decisions, why);
    parent.append(runs, html("main", {}, charts, this.side));
    this.runList = new RunList(runs, {
      toggle: (run, on) => this.reload(() => this.data.toggle(run, on)),
      focus: (run) => this.reload(() => this.data.focus(run)),
    });
    this.legend = new Legend(charts);
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

  toggleFit() {
    this.fit = !this.fit;
    this.header.showFit(this.fit);
    this.draw();
  }

  togglePause() {
    this.paused = !this.paused;
    this.header.showState(this);
    if (!this.paused) this.poll();
  }

  select(at, from) {
    this.selected = at;
    const event = this.data.event(at);
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
    const events = this.runs().flatMap(({ name, events: all }) =>
      all.filter(this.table.accepts).map(({ index, step }) => ({ run: name, index, step })),
    );
    if (!events.length) return;
    events.sort((a, b) => a.step - b.step || a.index - b.index);
    const now = events.findIndex(({ run, index }) => run === this.selected?.run && index === this.selected.index);
    const start = now < 0 && by < 0 ? events.length : now;
    const { run, index } = events[Math.min(Math.max(start + by, 0), events.length - 1)];
    this.select({ run, index }, "chart");
  }

  // ---- what is shown

  color = (name) => {
    const at = this.data.all.findIndex(({ run }) => run === name);
    return (this.data.visible?.size ?? 0) > 1 ? `var(--run-${at % COLORS})` : "var(--ink)";
  };

  runs() {
    const [first, last] = this.view;
    const inside = (step) => step >= first - 1 && step <= last;
    const shown = this.data.shown.filter(({ run }) => this.data.known.get(run)?.series);
    return shown.map((run) => {
      const { series, events } = this.data.known.get(run.run);
      return {
        ...run,
        name: run.run,
        color: this.color(run.run),
        many: shown.length > 1,
        series,
        events,
        visibleEvents: events.filter(({ step }) => inside(step)),
        visibleSkips: series.skipped.filter(([step]) => inside(step)),
      };
    });
  }

  draw() {
    const runs = this.runs();
    const { view, fit, selected } = this;
    const focus = runs.find(({ name }) => name === this.data.focusName) ?? runs[0] ?? null;
    const context = { runs, focus, view, fit, selected, filtered: this.table.accepts };
    this.drawRuns();
    this.showEmpty(runs);
    if (runs.length) this.chart.draw(context);
    this.legend.draw(context);
    this.table.draw(context);
    this.why.draw(context);
    this.header.showRange(runs.length ? view : null);
  }

  drawRuns() {
    const { all, visible, focusName } = this.data;
    this.runList.draw({ all, visible: visible ?? new Set(), focusName, color: this.color });
  }

  showEmpty(runs) {
    document.body.classList.toggle("nothing", !runs.length);
    this.side.hidden = !runs.length;
    this.chart.show(
      runs.length > 0,
      this.data.all.length ? "No run is selected, or none has steps yet." : HOW_TO_BEGIN,
    );
  }
}
