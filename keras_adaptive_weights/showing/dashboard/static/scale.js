// Scales, ticks and paths: arithmetic only. Which values a scale begins and ends with, the server says.

const SHAPES = {
  linear: [(value) => value, (value) => value],
  root: [(value) => Math.sqrt(Math.max(0, value)), (value) => value * value],
  log: [(value) => Math.log(Math.max(value, 1e-300)), Math.exp],
};
const NICE = [1, 2, 5];

export function linear(domain, range) {
  return scale("linear", domain, range);
}

export function scale(kind, domain, range) {
  const [bend, unbend] = SHAPES[kind] ?? SHAPES.linear;
  const [d0, d1] = domain.map(bend);
  const [r0, r1] = range;
  const k = d1 === d0 ? 0 : (r1 - r0) / (d1 - d0);
  const place = (value) => r0 + (bend(value) - d0) * k;
  place.kind = kind;
  place.domain = domain;
  place.invert = (pixel) => unbend(k === 0 ? d0 : d0 + (pixel - r0) / k);
  return place;
}

// One scale for several curves: [kind, low, high] of each.
export function joined(found) {
  if (!found.length) return ["linear", 0, 1];
  const low = Math.min(...found.map(([, least]) => least));
  const high = Math.max(...found.map(([, , greatest]) => greatest));
  const kinds = new Set(found.map(([kind]) => kind));
  if (kinds.size === 1) return [found[0][0], low, high];
  return [kinds.has("log") && low > 0 ? "log" : "linear", low, high];
}

export function ticks([low, high], wanted) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + 1e-12 && found.length < 200; i += 1) {
    found.push(Number((i * step).toPrecision(12)));
  }
  return found;
}

export const stepTicks = (domain, wanted) => ticks(domain, wanted).filter((step) => Number.isInteger(step));

// Ticks of any scale, none nearer to another than `gap` pixels.
export function valueTicks(y, gap) {
  const [low, high] = y.domain;
  const pixels = Math.abs(y(high) - y(low));
  if (y.kind === "linear") return ticks([low, high], pixels / gap);
  const nice = [0];
  for (let power = -6; power <= 9; power += 1) nice.push(...NICE.map((digit) => digit * 10 ** power));
  const inside = nice.filter((value) => value >= low && value <= high && (y.kind === "root" || value > 0));
  const kept = [];
  for (const value of inside) {
    if (!kept.length || Math.abs(y(value) - y(kept[kept.length - 1])) >= gap * 0.7) kept.push(value);
  }
  return kept.length > 1 || y.kind === "root" ? kept : ticks([low, high], pixels / gap);
}

// The values as a reader's eye would smooth them, where nobody has.
export function smoothed(values, rate = 0.1) {
  let mean = null;
  return values.map((value) => {
    if (value !== null) mean = mean === null ? value : mean + rate * (value - mean);
    return value === null ? null : mean;
  });
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

// The places of what is known.
export const known = (xs, ys) => ys.map((y, i) => [xs[i], y]).filter(([, y]) => y !== null);

// A line that goes on over what is not known.
export const joinedPath = (xs, ys) => known(xs, ys).map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");

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
