// The first line: the runs, what is in view, zooming, and when the page last looked.
import { clock, count, html, say } from "./dom.js";

export class Header {
  constructor(parent, actions) {
    const button = (label, onclick, more = {}) => html("button", { type: "button", onclick, ...more }, label);
    this.range = html("output", { class: "range-text", "aria-label": "Steps in view" });
    this.bounds = button("Show bounds", () => actions.bounds(), {
      id: "bounds",
      "aria-pressed": false,
      title: "Scale the weight's panel so that both bounds are in it",
    });
    this.looked = html("span", { class: "looked", role: "status" });
    this.pause = button("Pause", () => actions.pause(), {
      id: "pause",
      "aria-pressed": false,
      title: "The page looks for news every two seconds",
    });
    const tools = html(
      "div",
      { class: "tools", role: "toolbar", "aria-label": "View" },
      this.range,
      button("−", () => actions.zoomBy(1 / 0.6), { "aria-label": "Zoom out" }),
      button("+", () => actions.zoomBy(0.6), { "aria-label": "Zoom in" }),
      button("Whole run", () => actions.whole(), { id: "whole" }),
      this.bounds,
      this.pause,
      this.looked,
    );
    this.runs = html("nav", { "aria-label": "Runs" });
    this.banner = html("p", { class: "banner", role: "alert", hidden: true });
    parent.append(html("header", {}, html("h1", {}, "Adaptive weights"), this.runs, tools), this.banner);
  }

  showRange(view) {
    say(this.range, view ? `steps ${count(Math.ceil(view[0]))} to ${count(Math.floor(view[1]))}` : "");
  }

  showBounds(on) {
    this.bounds.setAttribute("aria-pressed", on);
  }

  showState({ paused, failure, updated }) {
    const when = updated ? clock(updated / 1000) : "never";
    let [state, text] = ["following", `checked ${when}`];
    if (failure) [state, text] = ["error", `reconnecting, checked ${when}`];
    else if (paused) [state, text] = ["paused", `paused since ${when}`];
    this.looked.className = `looked ${state}`;
    this.looked.dataset.state = state;
    say(this.looked, text);
    say(this.pause, paused ? "Resume" : "Pause");
    this.pause.setAttribute("aria-pressed", paused);
    this.banner.hidden = !failure;
    say(this.banner, failure ? `Cannot read the log directory: ${failure}. Trying again.` : "");
  }
}
