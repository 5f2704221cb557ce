// What each panel shows: its lines, limits and scale, as the shared visual language has them.
import { shortened } from "./dom.js";
import { LOOK } from "./look.js";

const LONGEST_TERM = 40;

const has = ({ series }, { figure: name }) => series?.figures[name]?.last.some((value) => value !== null);

// Whether a panel is about what is in focus: weights that are balanced, or one that is decided on alone.
export function isShown({ when, lines }, { all, focus }) {
  if (when === "balanced") return Boolean(focus?.balance) && all.some((curve) => has(curve, lines[0]));
  return when !== "alone" || !focus?.balance;
}

// The curves that a panel shows: weights, losses and parts of the gradient those of all terms, the others that of the
// term in focus; so do the parts of several runs.
export function curvesIn({ id, lines }, { all, curves, losses, several, runs, focus }) {
  if (id === "weight") return curves;
  if (id === "loss") return losses;
  if (id === "share") return all.filter((curve) => has(curve, lines[0]) && (runs < 2 || curve.term === focus?.term));
  return several ? curves.filter(({ term }) => term === focus?.term) : curves;
}

// The lines of a curve in a panel. Of many losses each has one; that of a term that is fixed or balanced, whose losses
// nobody else smooths, is smoothed here.
export function linesOf({ id, lines }, curve, { several, relative, focus }) {
  if (id !== "loss" || !(several || relative)) return lines;
  const raw = lines.filter(({ role }) => role === "raw" && curve.name === focus?.name);
  if (curve.fixed || curve.balance) return [...raw, { ...lines[0], role: "main", smooth: true }];
  return lines.filter(({ role }) => role === "main" || (role === "raw" && curve.name === focus?.name));
}

const limitsOf = (panel) => (curve) =>
  panel.limits
    .map(({ label, setting }) => ({ label, value: { ...curve.config, ...curve }[setting] }))
    .filter(({ value }) => Number.isFinite(value));

function termOf(curves) {
  const terms = new Set(curves.map(({ term }) => shortened(String(term), LONGEST_TERM)));
  return terms.size === 1 ? [...terms][0] : "each term";
}

export const PANELS = LOOK.panels.map((panel) => ({
  ...panel,
  step: panel.id === "weight",
  limits: limitsOf(panel),
  titleOf(curves, { several, relative, losses, focus }) {
    const one = panel.id === "weight" && curves.length === 1;
    const together = panel.id === "loss" ? losses.length > curves.length || several : several && !one;
    const how = relative ? ", each relative to its first average" : ", unweighted";
    const mode = panel.id === "loss" && together ? how : "";
    const title = focus?.balance && panel.balanced ? panel.balanced : together ? panel.several : panel.title;
    return `${title.replaceAll("{term}", termOf(curves))}${mode}`;
  },
}));
