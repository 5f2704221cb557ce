// Building elements. Text only ever goes in as text nodes or attribute values, never as markup, and what would be
// obeyed rather than seen in it (control characters, overrides of the writing direction) is written out.

const SVG = "http://www.w3.org/2000/svg";
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
const HARMLESS = "\n\t\u200c\u200d"; // the joiners are letters' business in Persian, Arabic and the scripts of India

export const visible = (text) => String(text).replace(UNSEEN, (c) => (HARMLESS.includes(c) ? c : escaped(c)));

function escaped(character) {
  const code = character.codePointAt(0);
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name === "title" || name.startsWith("aria-")) node.setAttribute(name, visible(value));
    else if (value === false) continue;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  const shown = children.filter((child) => child !== null && child !== undefined);
  node.append(...shown.map((child) => (child instanceof Node ? child : visible(child))));
  return node;
}

export const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export function say(node, text) {
  node.textContent = visible(text);
}

export const words = (name) => String(name).replaceAll("_", " ");

export const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

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

export function duration(seconds) {
  for (const [size, name] of [
    [86_400, "days"],
    [3600, "h"],
    [60, "min"],
  ]) {
    if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${name}`;
  }
  return `${Math.round(seconds)} s`;
}
