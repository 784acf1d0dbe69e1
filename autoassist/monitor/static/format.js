// How numbers are written, and small helpers for the document.

export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return (value / 1e9).toPrecision(3) + " G";
  if (size >= 1e6) return (value / 1e6).toPrecision(3) + " M";
  if (size >= 1e4) return (value / 1e3).toPrecision(3) + " k";
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  if (size < 1e-3) return value.toExponential(2);
  return String(Number(value.toPrecision(3)));
}

// As protocol/metric.py does, but for zeros at the end.
export function metric(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return value === 0 || (size >= 1e-3 && size < 1e6) ? value.toFixed(4) : value.toPrecision(4);
}

export function share(value) {
  return value === null || value === undefined ? "–" : (100 * value).toFixed(value > 0 && value < 0.1 ? 2 : 1) + " %";
}

export const write = { count: number, number, share };

export function clock(seconds) {
  return new Date(1000 * seconds).toLocaleTimeString();
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Text that has not changed is left alone: a screen reader would read it again.
export function say(node, text) {
  if (node && node.textContent !== text) node.textContent = text;
}

export const byId = (id) => document.getElementById(id);

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
