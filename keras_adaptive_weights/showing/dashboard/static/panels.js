// What each panel shows: its lines, limits and scale, as the shared visual language has them.
import { shortened } from "./dom.js";
import { LOOK } from "./look.js";

const LONGEST_TERM = 40;

// The curves that a panel shows: weights and losses those of all terms, the others that of the term in focus.
export function curvesIn({ id }, { curves, losses, several, focus }) {
  if (id === "weight") return curves;
  if (id === "loss") return losses;
  return several ? curves.filter(({ term }) => term === focus?.term) : curves;
}

// The lines of a curve in a panel. Of many losses each has one; that of a fixed term, whose losses nobody else smooths,
// is smoothed here.
export function linesOf({ id, lines }, curve, { several, relative, focus }) {
  if (id !== "loss" || !(several || relative)) return lines;
  if (curve.fixed) return [{ ...lines[0], role: "main", smooth: true }];
  return lines.filter(({ role }) => role === "main" || (role === "raw" && curve.name === focus?.name));
}

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
  titleOf(curves, { several, relative, losses }) {
    const together = panel.id === "loss" ? losses.length > curves.length || several : several;
    const how = relative ? ", each relative to its first average" : ", unweighted";
    const mode = panel.id === "loss" && together ? how : "";
    return `${(together ? panel.several : panel.title).replaceAll("{term}", termOf(curves))}${mode}`;
  },
}));
