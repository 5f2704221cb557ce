// The stack of panels on one step axis: zooming, panning, hovering, choosing; by pointer and by keyboard.
import { html, say } from "./dom.js";
import { MARGIN, Panel } from "./panel.js";
import { isShown, PANELS } from "./panels.js";
import { clusterDetails, eventDetails, peakDetails, stepDetails, Tooltip } from "./tooltip.js";

const HEAD = 19;
const LEAST_HEIGHT = 500;
const MOST_HEIGHT = 1300;
const ROOM_BELOW = 12;
const SIDE_BY_SIDE = 1000;

const HELP =
  "Drag to zoom, hold Shift and drag to move, Ctrl and wheel to zoom, double-click for the whole run. With the " +
  "keyboard: arrow keys move, + and - zoom, 0 shows the whole run, N and P go to the next and previous event, Escape " +
  "lets go of it.";

export class Chart {
  constructor(parent, actions) {
    this.actions = actions;
    this.pointer = null;
    this.panels = PANELS.map((spec) => new Panel(spec));
    this.shown = this.panels;
    this.help = html("p", { id: "chart-help", class: "help quiet" }, HELP);
    this.node = html(
      "div",
      {
        class: "charts",
        role: "group",
        tabindex: 0,
        "aria-label": "Charts over training steps",
        "aria-describedby": "chart-help",
      },
      ...this.panels.map((panel) => panel.node),
    );
    this.empty = html("p", { class: "empty", hidden: true });
    parent.append(this.empty, this.node, this.help);
    this.tooltip = new Tooltip(document.body);
    this.listen();
  }

  show(anything, otherwise) {
    this.node.hidden = this.help.hidden = !anything;
    this.empty.hidden = anything;
    say(this.empty, otherwise);
  }

  // All panels and the numbers of the steps fit into the first screen; where they cannot, the weight has numbers of
  // its own.
  draw(context) {
    this.context = { ...context, width: Math.max(320, this.node.clientWidth) };
    const top = this.node.getBoundingClientRect().top + window.scrollY;
    const beside = window.innerWidth >= SIDE_BY_SIDE;
    const room = beside ? window.innerHeight - top - ROOM_BELOW : LEAST_HEIGHT + 120;
    const whole = Math.min(MOST_HEIGHT, Math.max(LEAST_HEIGHT, room));
    const cut = room < LEAST_HEIGHT || !beside;
    for (const panel of this.panels) panel.node.hidden = !isShown(panel.spec, context);
    this.shown = this.panels.filter(({ node }) => !node.hidden);
    const last = this.shown.length - 1;
    const numbered = this.shown.map((_, i) => i === last || (i === 0 && cut));
    const taken = this.shown.reduce((sum, panel, i) => sum + HEAD + panel.below(this.context, numbered[i]), 0);
    const shares = this.shown.reduce((sum, { spec }) => sum + spec.share, 0);
    this.shown.forEach((panel, i) =>
      panel.draw(this.context, Math.round(((whole - taken) * panel.spec.share) / shares), numbered[i]),
    );
    if (this.pointer) this.hover(document.elementFromPoint(...this.pointer) ?? this.node, ...this.pointer);
  }

  listen() {
    const { node } = this;
    node.addEventListener("pointerdown", (event) => this.press(event));
    node.addEventListener("pointermove", (event) => this.move(event));
    node.addEventListener("pointerup", (event) => this.release(event));
    node.addEventListener("pointercancel", () => this.cancel());
    node.addEventListener("pointerleave", () => !this.drag && this.leave());
    node.addEventListener("dblclick", () => this.actions.zoom(null));
    node.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    node.addEventListener("keydown", (event) => this.key(event));
    const again = () => this.context && !node.hidden && this.draw(this.context);
    new ResizeObserver(again).observe(node.parentElement ?? node);
    window.addEventListener("resize", again);
  }

  pixel(event) {
    return this.inside(event.clientX);
  }

  inside(clientX) {
    return clientX - this.node.getBoundingClientRect().left;
  }

  step(pixel) {
    return this.panels[0].x.invert(Math.min(Math.max(pixel, MARGIN.left), this.context.width - MARGIN.right));
  }

  press(event) {
    if (event.button !== 0 || !this.context) return;
    const marked = event.target.closest?.(".marker")?.marked ?? null;
    this.drag = { from: this.pixel(event), view: [...this.context.view], pan: event.shiftKey, marked, moved: false };
    this.node.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (!this.context) return;
    const at = this.pixel(event);
    const { drag } = this;
    if (!drag) {
      this.pointer = [event.clientX, event.clientY];
      this.hover(event.target, ...this.pointer);
      return;
    }
    drag.moved ||= Math.abs(at - drag.from) > 4;
    if (!drag.moved) return;
    this.leave();
    if (drag.pan) {
      const shift = this.step(drag.from) - this.panels[0].x.invert(at);
      if (Math.abs(shift) >= 1) this.actions.zoom([drag.view[0] + shift, drag.view[1] + shift]);
      drag.view = [...this.context.view];
      drag.from = at;
    } else {
      for (const { brush } of this.shown) {
        brush.setAttribute("x", Math.min(at, drag.from));
        brush.setAttribute("width", Math.abs(at - drag.from));
        brush.setAttribute("visibility", "visible");
      }
    }
  }

  release(event) {
    const { drag } = this;
    this.cancel();
    if (!drag) return;
    if (drag.moved && !drag.pan) {
      const ends = [this.step(drag.from), this.step(this.pixel(event))].sort((a, b) => a - b);
      this.actions.zoom([Math.floor(ends[0]) + 1, Math.max(Math.ceil(ends[1]), Math.floor(ends[0]) + 2)]);
    } else if (!drag.moved && drag.marked) {
      this.choose(drag.marked);
    }
  }

  cancel() {
    this.drag = null;
    for (const { brush } of this.panels) brush.setAttribute("visibility", "hidden");
  }

  choose({ curve, items }) {
    const [first, last] = [items[0], items[items.length - 1]];
    if (items.length > 1) {
      const room = Math.max(20, (last.step - first.step) * 0.3);
      this.actions.zoom([first.step - room, last.step + room]);
    } else if (first.index !== undefined) {
      this.actions.select({ run: curve.name, index: first.index }, "chart");
    }
  }

  hover(target, clientX, clientY) {
    const marked = target.closest?.(".marker")?.marked;
    const peak = target.closest?.(".peak")?.peak;
    const step = marked?.items[0].step ?? peak?.step ?? Math.round(this.step(this.inside(clientX)));
    for (const { cursor, x } of this.shown) {
      cursor.setAttribute("x1", x(step));
      cursor.setAttribute("x2", x(step));
      cursor.setAttribute("visibility", "visible");
    }
    let content = [];
    if (peak) content = peakDetails(peak);
    else if (!marked) content = stepDetails(this.context, step);
    else if (marked.items.length > 1 || marked.items[0].index === undefined)
      content = clusterDetails(marked.curve, marked.kind, marked.items);
    else content = eventDetails(marked.curve, marked.items[0]);
    if (content.length) this.tooltip.show(content, clientX, clientY);
    else this.tooltip.hide();
  }

  leave() {
    this.pointer = null;
    this.tooltip.hide();
    for (const { cursor } of this.panels) cursor.setAttribute("visibility", "hidden");
  }

  wheel(event) {
    if (!this.context) return;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.zoomBy(Math.exp(Math.sign(event.deltaY) * 0.25), this.step(this.pixel(event)));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      this.moveBy(Math.sign(event.deltaX || event.deltaY) * 0.1);
    }
  }

  zoomBy(factor, around = (this.context.view[0] + this.context.view[1]) / 2) {
    const [first, last] = this.context.view;
    this.actions.zoom([around - (around - first) * factor, around + (last - around) * factor]);
  }

  moveBy(share) {
    const [first, last] = this.context.view;
    const shift = (last - first) * share;
    this.actions.zoom([first + shift, last + shift]);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.context) return;
    const commands = {
      ArrowLeft: () => this.moveBy(-0.2),
      ArrowRight: () => this.moveBy(0.2),
      "+": () => this.zoomBy(0.6),
      "=": () => this.zoomBy(0.6),
      "-": () => this.zoomBy(1 / 0.6),
      0: () => this.actions.zoom(null),
      Home: () => this.actions.zoom(null),
      n: () => this.actions.next(1),
      p: () => this.actions.next(-1),
      Escape: () => this.actions.select(null, "chart"),
    };
    const command = commands[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!command) return;
    event.preventDefault();
    command();
  }
}
