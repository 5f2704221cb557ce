// What held the weight: the reasons of the HOLD decisions in view.
import { count, html, say, words } from "./dom.js";

export class Why {
  constructor(parent) {
    this.summary = html("p", { class: "quiet", role: "status" });
    this.list = html("ol", { class: "reasons" });
    parent.append(html("h2", {}, "What held the weight"), this.summary, this.list);
  }

  draw({ focus, curves }) {
    const series = focus?.series;
    if (!series) {
      say(this.summary, "");
      this.list.replaceChildren();
      return;
    }
    const reasons = Object.entries(series.reasons).sort((a, b) => b[1] - a[1]);
    const holds = reasons.reduce((sum, [, n]) => sum + n, 0);
    const of = curves.length > 1 ? ` of ${focus.name}` : "";
    const events = focus.visibleEvents.filter(({ step }) => step >= series.first && step <= series.last).length;
    const steps = `Steps ${count(series.first)} to ${count(series.last)}${of}`;
    say(this.summary, `${steps}: ${count(holds)} decisions held the weight, ${count(events)} did something.`);
    this.list.replaceChildren(...reasons.map(([reason, n]) => this.line(reason, n, holds, series.meanings?.[reason])));
  }

  line(reason, n, holds, meaning) {
    const share = n / holds;
    const percent =
      share >= 0.1 ? `${Math.round(100 * share)} %` : share >= 0.001 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %";
    const bar = html("span", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${Math.max(0.4, 100 * share)}%`;
    return html(
      "li",
      { "data-reason": reason },
      html(
        "div",
        { class: "reason-head" },
        html("span", {}, words(reason)),
        html("span", { class: "number" }, `${count(n)} · ${percent}`),
      ),
      html("div", { class: "track" }, bar),
      meaning ? html("p", { class: "quiet" }, meaning) : null,
    );
  }
}
