// Making elements. Whatever comes from outside gets into the page as text or as an attribute's value, and never as markup.

const svgSpace = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((c) => c !== undefined && c !== null && c !== ""));
  return element;
}

/** el makes an element of HTML: el("a", {href: "/"}, "text", child). */
export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** svg makes an element of SVG. */
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(svgSpace, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** ask fetches data; an answer that is no data is an Error with its text. */
export async function ask(path, form = {}) {
  const response = await fetch(`/data/${path}?${new URLSearchParams(form)}`, { signal: AbortSignal.timeout(15000) });
  if (!response.ok) {
    const error = new Error((await response.text()).trim().slice(0, 500) || `the daemon answers ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return response.json();
}

/** repeat calls work again and again, with a pause in milliseconds between, or one that work returns, and not while nobody looks. */
export async function repeat(pause, work) {
  for (;;) {
    const longer = document.hidden ? 0 : await work();
    await new Promise((resume) => setTimeout(resume, longer || pause));
  }
}

/** time writes nanoseconds for people. */
export function time(ns) {
  if (!ns) return "–";
  if (ns < 1e6) return `${Math.round(ns / 1e3)} µs`;
  return `${(ns / 1e6).toFixed(ns < 1e7 ? 2 : ns < 1e8 ? 1 : 0)} ms`;
}

export const percent = (part) => `${Math.round(part * 100)}%`;

/** clock writes when something was. */
export const clock = (date) => new Date(date).toLocaleTimeString([], { hourCycle: "h23" });
