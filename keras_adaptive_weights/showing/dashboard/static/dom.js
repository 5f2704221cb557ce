// Building elements. Text only ever goes in as text nodes or attribute values, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("aria-")) node.setAttribute(name, String(value));
    else if (value === false) continue;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const words = (name) => String(name).replaceAll("_", " ");

export const count = (n) => Number(n).toLocaleString("en");

export function figure(value, digits = 4) {
  const number = Number(value);
  if (value === null || value === undefined || value === "" || Number.isNaN(number)) return "–";
  if (!Number.isFinite(number)) return String(number);
  if (Number.isInteger(number) && Math.abs(number) < 1e15) return count(number);
  const size = Math.abs(number);
  if (size >= 1e6 || size < 1e-3) return number.toExponential(digits - 2);
  return String(Number(number.toPrecision(digits)));
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
export const dateTime = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString("en-GB") : "");
