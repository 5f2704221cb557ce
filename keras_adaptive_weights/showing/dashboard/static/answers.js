// The first look: what is the weight, why did it move last, is something wrong, why is nothing changing?
import { count, figure, html, shortened, svg, words } from "./dom.js";
import { icon, kindLabel } from "./kinds.js";
import { state } from "./runs.js";
import { scale } from "./scale.js";
import { isProposal } from "./tooltip.js";

const SHOWN_CONCERNS = 3;
const LONGEST = 220;
const LONGEST_NAME = 60;
const FAR = 10;

export class Answers {
  constructor(parent, actions) {
    this.actions = actions;
    this.node = html("section", { class: "answers", "aria-label": "At a glance" });
    parent.append(this.node);
  }

  draw({ focus, runs }) {
    this.node.hidden = !focus;
    if (!focus) return;
    const of = runs > 1 ? ` in ${shortened(focus.run, LONGEST_NAME)}` : "";
    this.node.replaceChildren(this.weight(focus, of), this.lastDecision(focus), this.wrong(focus), this.standing(focus));
  }

  weight(run, of) {
    const moved = run.weight / run.base_weight - 1;
    const percents = `${Math.abs(100 * moved).toFixed(1)} % ${moved > 0 ? "above" : "below"} its base`;
    const times = moved > 1 || moved < -0.5 ? `${figure(1 + moved, 3)} times its base` : percents;
    const apart = Math.abs(moved) < 5e-4 ? "at its base" : times;
    const { config } = run;
    const facts = [`${apart} of ${figure(run.base_weight)}`, `bounds ${figure(config.min_weight)} to ${figure(config.max_weight)}`];
    if (run.shadow) facts.unshift(`shadow run, proposes ${figure(run.proposed)}`);
    if (run.balance) facts.unshift(balanced(run));
    return card(
      "weight",
      `Weight of ${shortened(String(run.term), LONGEST_NAME)}${of}`,
      [html("strong", {}, figure(run.weight)), run.enabled ? null : html("span", { class: "badge bad" }, "disabled"), range(run)],
      [html("p", { title: facts.join(", ") }, `${facts.join(", ")}; step ${count(run.last)}`)],
    );
  }

  lastDecision(run) {
    const event = run.events[run.events.length - 1];
    if (!event) return card("last", "Last decision", [html("strong", {}, "none yet")], [html("p", {}, "It has not moved.")]);
    const change = `${figure(event.old_weight)} → ${figure(event.new_weight)}${isProposal(event) ? " (proposed)" : ""}`;
    const show = () => this.actions.select({ run: run.name, index: event.index });
    const pick = html("button", { type: "button", class: "plain", title: "Show it", onclick: show }, icon(event.kind), html("strong", {}, change));
    const when = html("span", { class: "quiet" }, `${shortened(kindLabel(event.kind), LONGEST_NAME)}, step ${count(event.step)}`);
    const why = event.note ? `${words(event.reason)}: “${event.note}”` : `${words(event.reason)}: ${event.advice ?? ""}`;
    return card("last", "Last decision", [pick, when], [text(why)]);
  }

  wrong(run) {
    const found = run.present?.concerns ?? [];
    const urgent = found.filter(({ level }) => level !== "note");
    const [mark, process] = state(run);
    const worst = found[0]?.level ?? "good";
    const looks = { bad: "■ needs you", warn: `▲ ${urgent.length} to look at`, note: "✓ nothing now", good: "✓ nothing stands out" };
    const lines = found.slice(0, SHOWN_CONCERNS).map((concern) => this.concern(concern));
    if (found.length > SHOWN_CONCERNS) lines.push(html("p", { class: "quiet" }, `and ${found.length - SHOWN_CONCERNS} more`));
    const alive = process ? html("span", { class: `state ${mark}` }, process) : null;
    return card("wrong", "Is something wrong?", [html("strong", { class: worst }, looks[worst]), alive], lines);
  }

  concern({ level, text: said, step }) {
    const line = shortened(said, LONGEST);
    if (step === null) return html("p", { class: level, title: said }, line);
    const pick = html("button", { type: "button", class: "plain", onclick: () => this.actions.look(step) }, line);
    return html("p", { class: level, title: said }, pick);
  }

  standing(run) {
    const now = run.present?.standing;
    if (!now) return card("standing", "Why is nothing changing?", [html("strong", {}, "no decision yet")], []);
    const held = now.action === "hold";
    const since = now.since === now.last ? `at step ${count(now.last)}` : `for ${count(now.last - now.since + 1)} steps${now.exact ? "" : " or more"}`;
    const head = [html("strong", {}, words(held ? now.reason : now.action)), html("span", { class: "quiet" }, since)];
    return card("standing", "Why is nothing changing?", head, [text(held ? now.meaning : words(now.reason))]);
  }
}

function card(name, question, head, rest) {
  return html(
    "article",
    { class: "answer", id: `answer-${name}` },
    html("h2", {}, question),
    html("div", { class: "answer-head" }, ...head),
    ...rest,
  );
}

const percent = (part) => `${(100 * part).toFixed(0)} %`;

// What a balance makes of the weight: its part of the gradient against the intent, and the calibration.
function balanced({ balance, present, intent, events }) {
  const measured = Number.isFinite(present?.share) ? `${percent(present.share)} of the gradient` : null;
  const meant = Number.isFinite(intent) ? `intent ${percent(intent)}` : null;
  const calibration = events.find(({ kind }) => kind === "calibrate");
  const since = calibration ? `calibrated at step ${count(calibration.step)}` : "balanced";
  return [measured, meant, `${since} by ${shortened(balance, LONGEST_NAME)}`].filter(Boolean).join(", ");
}

const text = (said) => html("p", { dir: "auto", title: said }, shortened(said, LONGEST));

// Where the weight is between its bounds; on a logarithmic scale where these are far apart.
function range({ weight, base_weight: base, config }) {
  const bounds = [config.min_weight, config.max_weight];
  const place = scale(config.max_weight > FAR * config.min_weight ? "log" : "linear", bounds, [4, 96]);
  return svg(
    "svg",
    { class: "range", viewBox: "0 0 100 14", "aria-hidden": "true" },
    svg("line", { class: "range-line", x1: 4, x2: 96, y1: 7, y2: 7 }),
    ...[4, 96].map((x) => svg("line", { class: "range-line", x1: x, x2: x, y1: 3, y2: 11 })),
    svg("line", { class: "range-base", x1: place(base), x2: place(base), y1: 1, y2: 13 }),
    svg("circle", { class: "range-weight", cx: place(weight), cy: 7, r: 4 }),
  );
}
