// What each panel shows: its figures, limits and scale.

const limit = (value, label) => (Number.isFinite(value) ? [{ value, label }] : []);

export const PANELS = [
  {
    id: "weight",
    title: "Weight",
    height: 230,
    step: true,
    lines: [
      { figure: "weight", label: "weight", role: "main" },
      { figure: "proposed_weight", label: "proposed in shadow, not in force", role: "proposed", optional: true },
    ],
    limits: (run) => [
      ...limit(run.config.max_weight, "maximum"),
      ...limit(run.base_weight, "base"),
      ...limit(run.config.min_weight, "minimum"),
    ],
  },
  {
    id: "loss",
    title: "Loss",
    height: 140,
    lines: [
      { figure: "loss", label: "loss", role: "raw" },
      { figure: "running_average", label: "running average", role: "main" },
    ],
    limits: () => [],
  },
  {
    id: "ratio",
    title: "Loss ratio",
    height: 110,
    lines: [{ figure: "loss_ratio", label: "smoothed loss / running average", role: "main" }],
    limits: (run) => [...limit(run.config.loss_ratio_high, "high"), ...limit(run.config.loss_ratio_low, "low")],
  },
  {
    id: "variance",
    title: "Variance",
    height: 100,
    root: true,
    cap: (run) => 8 * run.config.variance_threshold,
    lines: [{ figure: "loss_variance", label: "variance of recent losses, relative, square-root scale", role: "main" }],
    limits: (run) => limit(run.config.variance_threshold, "threshold"),
  },
  {
    id: "gradient",
    title: "Gradient norm",
    height: 120,
    lines: [
      { figure: "gradient_norm", label: "gradient norm", role: "raw" },
      { figure: "average_gradient_norm", label: "average", role: "main" },
    ],
    limits: (run) => limit(run.config.gradient_norm_threshold ?? Number.NaN, "threshold"),
  },
];
