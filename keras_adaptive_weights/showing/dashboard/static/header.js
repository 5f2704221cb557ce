// The line above everything: what is in view, zooming, and whether the page is live.
import { clock, count, html } from "./dom.js";

export class Header {
  constructor(parent, actions) {
    const button = (label, onclick, more = {}) => html("button", { type: "button", onclick, ...more }, label);
    this.range = html("output", { class: "range-text", "aria-label": "Steps in view" });
    this.fit = button("Fit weight", () => actions.fit(), { id: "fit", "aria-pressed": false });
    this.live = html("span", { class: "live", role: "status" });
    this.pause = button("Pause", () => actions.pause(), { id: "pause", "aria-pressed": false });
    const tools = html(
      "div",
      { class: "tools", role: "toolbar", "aria-label": "View" },
      this.range,
      button("−", () => actions.zoomBy(1 / 0.6), { "aria-label": "Zoom out" }),
      button("+", () => actions.zoomBy(0.6), { "aria-label": "Zoom in" }),
      button("Whole run", () => actions.whole(), { id: "whole" }),
      this.fit,
      this.live,
      this.pause,
    );
    this.banner = html("p", { class: "banner", role: "alert", hidden: true });
    parent.append(html("header", {}, html("h1", {}, "Adaptive weights"), tools), this.banner);
  }

  showRange(view) {
    this.range.textContent = view ? `steps ${count(Math.ceil(view[0]))} to ${count(Math.floor(view[1]))}` : "";
  }

  showFit(fit) {
    this.fit.setAttribute("aria-pressed", fit);
  }

  showState({ paused, failure, updated }) {
    const when = `last update ${updated ? clock(updated / 1000) : "never"}`;
    let [state, text] = ["live", `live, ${when}`];
    if (failure) [state, text] = ["error", `reconnecting, ${when}`];
    else if (paused) [state, text] = ["paused", `paused, ${when}`];
    this.live.className = `live ${state}`;
    this.live.dataset.state = state;
    this.live.textContent = text;
    this.pause.textContent = paused ? "Resume" : "Pause";
    this.pause.setAttribute("aria-pressed", paused);
    this.banner.hidden = !failure;
    this.banner.textContent = failure ? `Cannot read the log directory: ${failure}. Trying again.` : "";
  }
}
