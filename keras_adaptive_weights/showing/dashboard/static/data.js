// What is known of the runs: their list, which are drawn, and the events and figures fetched so far.
//
// A run has a curve for each of its adaptive weights, and one that is `fixed` for each other term, of which there is a
// loss only. A curve's name is that of its run, where that has one weight; with several, or where weights are balanced
// against the other terms, the term is part of it.
import { fetchEvents, fetchPresent, fetchRuns, fetchSeries } from "./api.js";

const SHOWN_AT_FIRST = 4;
const NOTHING = { events: [], generation: null, bytes: -1, key: "", series: null, present: null, failure: null };

export function curvesOf(run) {
  const weights = run.terms?.length ? run.terms : [run];
  const several = weights.length > 1 || Boolean(run.balance);
  const named = (term) => `${run.run} · ${term}`;
  const adaptive = weights.map((of) => ({ ...run, ...of, several, fixed: false, name: several ? named(of.term) : run.run }));
  const others = Object.entries(run.fixed ?? {});
  const fixed = others.map(([term, weight]) => ({ ...run, term, weight, several, fixed: true, intent: null, loss_limit: null, name: named(term) }));
  return [...adaptive, ...fixed];
}

// What was decided on all weights of a balance at once is told for one of them, the `leading` curve; it concerns that
// one, and those that it moved.
export const concerns = ({ leads }) => ({ old_weights: together, old_weight: before, new_weight: after }) =>
  leads || !together || Number(before) !== Number(after);

export class RunData {
  constructor() {
    this.all = [];
    this.visible = null;
    this.focusName = null;
    this.known = new Map();
    this.latest = 0;
  }

  // Fetch the list of runs; return whether anything but the time since their last sign of life is new.
  async list() {
    const before = this.signature();
    this.all = await fetchRuns();
    this.choose();
    return before !== this.signature();
  }

  signature() {
    return JSON.stringify(this.all.map((run) => ({ ...run, age: null })));
  }

  choose() {
    const readable = this.all.filter((run) => !run.error);
    const names = new Set(readable.map(({ run }) => run));
    if (this.visible === null && readable.length) {
      const latest = [...readable].sort((a, b) => (b.last > 0) - (a.last > 0) || (a.age ?? 0) - (b.age ?? 0));
      const first = readable.length <= SHOWN_AT_FIRST ? latest : latest.slice(0, 1);
      this.visible = new Set(first.map(({ run }) => run));
      this.focusName = latest[0].run;
    }
    for (const name of this.visible ?? []) if (!names.has(name)) this.visible.delete(name);
    if (!this.visible?.has(this.focusName)) this.focusName = [...(this.visible ?? [])][0] ?? null;
  }

  toggle(name, on) {
    if (on) this.visible.add(name);
    else this.visible.delete(name);
    this.choose();
  }

  focus(name) {
    this.visible.add(name);
    this.focusName = name;
  }

  get shown() {
    return this.all.filter(({ run, error }) => !error && this.visible?.has(run));
  }

  get curves() {
    return this.shown.flatMap(curvesOf);
  }

  get extent() {
    const { shown } = this;
    if (!shown.length) return [0, 1];
    const first = Math.min(...shown.map((run) => run.first || 1));
    return [first, Math.max(...shown.map(({ last }) => last), first + 1)];
  }

  event(at) {
    return at ? this.known.get(at.run)?.events[at.index] : undefined;
  }

  // Why a run that is listed cannot be shown; null where it can.
  trouble(run) {
    const failures = curvesOf(run).map(({ name }) => this.known.get(name)?.failure);
    return run.error ?? failures.find(Boolean) ?? null;
  }

  // Fetch what is missing of a window (null: the whole run) of every run shown; return whether there was anything.
  async load(window, points) {
    this.latest += 1;
    const token = this.latest;
    const loaded = await Promise.all(this.curves.map((curve) => this.loadCurve(curve, window, points, token)));
    return loaded.includes(true);
  }

  // A run that cannot be read is no reason not to show the others.
  async loadCurve(curve, window, points, token) {
    const known = this.known.get(curve.name) ?? { ...NOTHING };
    this.known.set(curve.name, known);
    if (known.generation !== curve.generation) {
      Object.assign(known, { events: [], bytes: -1, key: "", generation: curve.generation });
    }
    const before = known.failure;
    try {
      const loaded = await this.fetchCurve(curve, known, window, points, token);
      known.failure = null;
      return loaded || before !== null;
    } catch (error) {
      known.failure = String(error.message ?? error);
      return before !== known.failure;
    }
  }

  async fetchCurve(curve, known, window, points, token) {
    const { run, bytes, process, fixed } = curve;
    const term = fixed || curve.several ? curve.term : null;
    const ends = window ? [Math.floor(window[0]), Math.ceil(window[1])] : [null, null];
    const key = `${ends}:${points}`;
    const grown = known.bytes !== bytes;
    const changed = grown || known.process !== process;
    if (!changed && known.key === key) return false;
    const [series, news, present] = await Promise.all([
      fetchSeries(run, term, ...ends, points),
      grown && !fixed ? fetchEvents(run, term, known.events.length) : { generation: known.generation, events: [] },
      changed && !fixed ? fetchPresent(run, term) : known.present,
    ]);
    if (token === this.latest || known.series === null) Object.assign(known, { series, key });
    if (news.generation === known.generation) {
      for (const event of news.events) {
        if (event.index === known.events.length) known.events.push({ ...event, kind: event.mark });
      }
    }
    Object.assign(known, { present, bytes, process });
    return true;
  }
}
