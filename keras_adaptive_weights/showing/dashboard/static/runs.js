// The list of runs: which are drawn, and which of them the bands, limits and reasons are about.
import { count, figure, html } from "./dom.js";

export class RunList {
  constructor(parent, actions) {
    this.actions = actions;
    this.search = html("input", {
      type: "search",
      placeholder: "filter runs",
      "aria-label": "Filter runs",
      hidden: true,
      oninput: () => this.draw(this.context),
    });
    this.list = html("ul", { class: "runs", "aria-label": "Runs" });
    parent.append(this.search, this.list);
  }

  draw(context) {
    this.context = context;
    this.search.hidden = context.all.length < 9;
    const wanted = this.search.value.toLowerCase();
    const shown = context.all.filter(({ run }) => run.toLowerCase().includes(wanted));
    const key = JSON.stringify([shown.map((run) => [run, state(run)[1]]), [...context.visible], context.focusName]);
    if (key === this.drawn) return;
    this.drawn = key;
    const active = document.activeElement?.closest?.(".runs") ? document.activeElement.id : null;
    this.list.replaceChildren(...shown.map((run, i) => this.item(run, i, context)));
    if (active) document.getElementById(active)?.focus();
  }

  item(run, i, { visible, focusName, color }) {
    const id = `run-${i}`;
    const box = html("input", { type: "checkbox", id, onchange: () => this.actions.toggle(run.run, box.checked) });
    box.checked = visible.has(run.run);
    const swatch = html("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = color(run.run);
    const label = html("label", { for: id }, box, swatch, ` ${run.run}`);
    const focused = run.run === focusName;
    const pick = html(
      "button",
      {
        type: "button",
        id: `focus-${i}`,
        class: "plain focus",
        "aria-pressed": focused,
        title: "Show the bounds, thresholds, phases and reasons of this run",
        onclick: () => this.actions.focus(run.run),
      },
      focused ? "◉ in focus" : "○ focus",
    );
    if (run.error) return html("li", { class: "broken" }, label, html("span", { class: "quiet" }, run.error));
    const [mark, text] = state(run);
    const enabled = run.enabled ? "enabled" : "disabled";
    const shadow = run.shadow ? ` · shadow run, proposes ${figure(run.proposed)}` : "";
    const about = `${run.term} · step ${count(run.last)} · weight ${figure(run.weight)} · ${enabled}${shadow}`;
    const problems = run.problems ? ` · ${count(run.problems)} lines unreadable` : "";
    return html(
      "li",
      { class: focused ? "focused" : "" },
      label,
      html("span", { class: "quiet" }, `${about}${problems}`),
      html("span", { class: `state ${mark}` }, text),
      pick,
    );
  }
}

function state({ ended, age }) {
  if (ended) return ["ended", "✓ ended"];
  if (age === null || age === undefined) return ["", ""];
  if (age < 20) return ["alive", "● training"];
  const minutes = Math.floor(age / 60);
  return [
    "silent",
    minutes >= 120
      ? `! silent for ${Math.floor(minutes / 60)} h`
      : minutes
        ? `! silent for ${minutes} min`
        : "! silent",
  ];
}
