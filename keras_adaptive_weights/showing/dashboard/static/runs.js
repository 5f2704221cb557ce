// The list of runs: which are drawn, and which of them the answers, limits, phases and reasons are about.
import { count, duration, figure, html, shortened } from "./dom.js";

const LONGEST_TROUBLE = 160;

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
    const said = shown.map((run) => [run.run, state(run)[1], context.trouble(run), run.weight]);
    const key = JSON.stringify([said, [...context.visible], context.focusName]);
    if (key === this.drawn) return;
    this.drawn = key;
    const active = document.activeElement?.closest?.(".runs") ? document.activeElement.id : null;
    this.list.classList.toggle("many", context.all.length > 1);
    this.list.replaceChildren(...shown.map((run, i) => this.item(run, i, context)));
    if (active) document.getElementById(active)?.focus();
  }

  item(run, i, { all, visible, focusName, color, trouble }) {
    const id = `run-${i}`;
    const box = html("input", { type: "checkbox", id, onchange: () => this.actions.toggle(run.run, box.checked) });
    box.checked = visible.has(run.run);
    const swatch = html("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = color(run.run);
    const label = html("label", { for: id }, box, swatch, html("span", { class: "run-name", dir: "auto" }, run.run));
    const wrong = trouble(run);
    if (wrong) {
      const said = html("span", { class: "trouble", title: wrong }, `! ${shortened(wrong, LONGEST_TROUBLE)}`);
      return html("li", { class: "broken" }, label, said);
    }
    const focused = run.run === focusName;
    const pick = html(
      "button",
      {
        type: "button",
        id: `focus-${i}`,
        class: "plain focus",
        "aria-pressed": focused,
        title: "Answer the questions below for this run",
        onclick: () => this.actions.focus(run.run),
      },
      focused ? "◉ in focus" : "○ focus",
    );
    const [mark, text] = state(run);
    const weights = (run.terms ?? [run]).map(({ term, weight }) => `${term} ${figure(weight)}`).join(", ");
    const about = `step ${count(run.last)}, weight of ${weights}`;
    return html(
      "li",
      { class: focused ? "focused" : "", title: about },
      label,
      html("span", { class: `state ${mark}` }, text),
      all.length > 1 ? pick : null,
    );
  }
}

export function state({ process, age }) {
  if (process === "ended") return ["ended", "✓ ended"];
  if (process === "alive") return ["alive", "● training"];
  if (process === "silent") return ["silent", `! silent for ${duration(age)}`];
  return ["", ""];
}
