// What each panel shows: its lines, limits and scale, as the shared visual language has them.
import { shortened } from "./dom.js";
import { LOOK } from "./look.js";

const LONGEST_TERM = 40;

const limitsOf = (panel) => (curve) =>
  panel.limits
    .map(({ label, setting }) => ({ label, value: { ...curve.config, base_weight: curve.base_weight }[setting] }))
    .filter(({ value }) => Number.isFinite(value));

function termOf(curves) {
  const terms = new Set(curves.map(({ term }) => shortened(String(term), LONGEST_TERM)));
  return terms.size === 1 ? [...terms][0] : "each term";
}

export const PANELS = LOOK.panels.map((panel) => ({
  ...panel,
  step: panel.id === "weight",
  limits: limitsOf(panel),
  titleOf: (curves) => panel.title.replaceAll("{term}", termOf(curves)),
}));
