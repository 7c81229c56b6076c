// Elements of the document. Nothing is ever made of HTML text: whatever a unit, a machine or a log says stays text.

/** An element. `onX` listens to the event x, true sets an attribute without a value, false and null leave it out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Names and what they stand for, as a list; those without a value are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false);
  return h("dl", { class: "facts" }, shown.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

const MOST_ROWS = 200; // of a table; longer things are lists (list.js)

/** A table with these heads; cells are texts or elements. Of many rows, it shows the first. */
export function table(label, heads, rows) {
  const head = h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)));
  const body = rows.slice(0, MOST_ROWS).map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell ?? ""))));
  const more = rows.length - body.length;
  if (more > 0) body.push(h("tr", {}, h("td", { colspan: heads.length }, `and ${more} more`)));
  return h("div", { class: "scrolled" }, h("table", { "aria-label": label }, h("thead", {}, head), h("tbody", {}, body)));
}

export const unitLink = (name) => h("a", { href: unitAddress(name) }, name);
export const unitAddress = (name) => `#/unit/${encodeURIComponent(name)}`;
export const machineAddress = (id) => `#/machine/${encodeURIComponent(id)}`;
export const machineLink = (id, text) => h("a", { href: machineAddress(id) }, text);
