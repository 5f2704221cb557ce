// Scales, ticks and paths: arithmetic only.

export function linear(domain, range) {
  const [d0, d1] = domain;
  const [r0, r1] = range;
  const k = d1 === d0 ? 0 : (r1 - r0) / (d1 - d0);
  const scale = (value) => r0 + (value - d0) * k;
  scale.invert = (pixel) => (k === 0 ? d0 : d0 + (pixel - r0) / k);
  return scale;
}

// Square-root scale for figures that are never negative and mostly near 0.
export function root(domain, range) {
  const inner = linear(
    domain.map((value) => Math.sqrt(Math.max(0, value))),
    range,
  );
  return (value) => inner(Math.sqrt(Math.max(0, value)));
}

export function ticks([low, high], wanted) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + 1e-12; i += 1) {
    found.push(Number((i * step).toPrecision(12)));
  }
  return found;
}

export const stepTicks = (domain, wanted) => ticks(domain, wanted).filter((step) => Number.isInteger(step));

// Domain that shows nearly everything, without letting a few spikes flatten the rest.
export function robustDomain(values, extra = []) {
  const finite = values.filter((value) => value !== null && Number.isFinite(value)).sort((a, b) => a - b);
  if (!finite.length) return extra.length ? [Math.min(...extra), Math.max(...extra)] : [0, 1];
  const at = (share) => finite[Math.min(finite.length - 1, Math.floor(share * finite.length))];
  const [low, middle, high] = [at(0.005), at(0.5), at(0.98)];
  let top = Math.min(finite[finite.length - 1], high + 0.75 * (high - middle) + 1e-12);
  let bottom = finite[0] >= 0 ? Math.min(finite[0], low) : low;
  for (const value of extra) {
    top = Math.max(top, value);
    bottom = Math.min(bottom, value);
  }
  const pad = (top - bottom || Math.abs(top) || 1) * 0.06;
  return [bottom >= 0 ? Math.max(0, bottom - pad) : bottom - pad, top + pad];
}

export function linePath(xs, ys) {
  let path = "";
  let pen = false;
  for (let i = 0; i < xs.length; i += 1) {
    if (ys[i] === null) {
      pen = false;
    } else {
      path += `${pen ? "L" : "M"}${xs[i].toFixed(1)},${ys[i].toFixed(1)}`;
      pen = true;
    }
  }
  return path;
}

// A weight is in force up to and with its step: down or up first, then along.
export function stepPath(starts, ends, ys) {
  let path = "";
  let pen = false;
  for (let i = 0; i < ends.length; i += 1) {
    if (ys[i] === null) {
      pen = false;
    } else {
      path += pen ? `V${ys[i].toFixed(1)}` : `M${starts[i].toFixed(1)},${ys[i].toFixed(1)}`;
      path += `H${ends[i].toFixed(1)}`;
      pen = true;
    }
  }
  return path;
}

export function areaPath(xs, lows, highs) {
  let path = "";
  let i = 0;
  while (i < xs.length) {
    if (lows[i] === null) {
      i += 1;
      continue;
    }
    let j = i;
    while (j < xs.length && lows[j] !== null) j += 1;
    const up = xs.slice(i, j).map((x, k) => `${x.toFixed(1)},${highs[i + k].toFixed(1)}`);
    const down = xs
      .slice(i, j)
      .map((x, k) => `${x.toFixed(1)},${lows[i + k].toFixed(1)}`)
      .reverse();
    path += `M${[...up, ...down].join("L")}Z`;
    i = j;
  }
  return path;
}
