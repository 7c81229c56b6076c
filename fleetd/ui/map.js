// All machines at a glance: a grid whose cells are machines. Those of one zone or rack lie beside each other.

import { h, machineAddress } from "./dom.js";
import { LEVELS, compare, count } from "./units.js";

const MOST = 5000; // cells; the list has all machines
const LARGEST = 30, SMALLEST = 9; // pixels of a cell, with the gap around it
const SHARE = 0.25; // of the window's height that the grid may take

let maps = 0;

export class MachineMap {
  constructor() {
    this.id = `map${++maps}`;
    this.rows = [];
    this.cells = new Map(); // by key: { row, element }
    this.cursor = 0;
    this.element = h("div", {
      class: "map", role: "listbox", "aria-label": "All machines at a glance", tabindex: "0",
      onkeydown: (event) => this.press(event), onclick: (event) => this.open(this.rows[this.indexOf(event.target)]),
    });
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.element);
  }

  close() {
    this.observer.disconnect();
  }

  /** Show these rows; those that do not match fade. */
  show(rows, doesMatch) {
    const key = this.rows[this.cursor]?.key;
    this.rows = [...rows].sort((a, b) => compare(a.metadata, b.metadata) || compare(a.key, b.key)).slice(0, MOST);
    const keys = new Set(this.rows.map((row) => row.key));
    const isOther = keys.size !== this.cells.size || this.rows.some((row) => !this.cells.has(row.key));
    for (const row of this.rows) this.draw(row, doesMatch(row));
    if (isOther) {
      for (const known of this.cells.keys()) if (!keys.has(known)) this.cells.delete(known);
      this.element.replaceChildren(...this.rows.map((row) => this.cells.get(row.key).element));
      this.resize();
    }
    this.element.hidden = !rows.length;
    this.point(Math.max(0, this.rows.findIndex((row) => row.key === key)));
  }

  draw(row, doesMatch) {
    const known = this.cells.get(row.key) ?? { element: h("div", { role: "option", id: `${this.id}-${row.key}` }) };
    this.cells.set(row.key, known);
    if (known.row === row && known.doesMatch === doesMatch) return;
    Object.assign(known, { row, doesMatch });
    const { element } = known;
    const failed = row.failed ? `, ${row.failed} failed` : "";
    element.className = `${LEVELS[row.level]}${doesMatch ? "" : " faded"}`;
    element.title = [`${row.name} ${row.address}`, `${row.state}, ${count(row.units, "unit")}${failed}`, row.metadata].join("\n");
    element.setAttribute("aria-label", element.title.replaceAll("\n", ", "));
  }

  // As large as all of them fit.
  resize() {
    const area = this.element.clientWidth * innerHeight * SHARE;
    const size = Math.floor(Math.sqrt(area / Math.max(1, this.rows.length)));
    this.element.style.setProperty("--cell", `${Math.max(SMALLEST, Math.min(LARGEST, size))}px`);
  }

  indexOf(element) {
    return this.rows.findIndex((row) => this.cells.get(row.key).element === element);
  }

  point(index) {
    this.cells.get(this.rows[this.cursor]?.key)?.element.setAttribute("aria-selected", "false");
    this.cursor = index;
    const element = this.cells.get(this.rows[index]?.key)?.element;
    element?.setAttribute("aria-selected", "true");
    if (element) this.element.setAttribute("aria-activedescendant", element.id);
    else this.element.removeAttribute("aria-activedescendant");
    return element;
  }

  open(row) {
    if (row) location.hash = machineAddress(row.key);
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.rows.length) return;
    const [first, second] = this.element.children;
    const cell = second ? second.offsetLeft - first.offsetLeft || 1 : 1;
    const across = Math.max(1, Math.round(this.element.clientWidth / cell));
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      const index = Math.max(0, Math.min(this.cursor + steps[event.key], this.rows.length - 1));
      this.point(index).scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter") this.open(this.rows[this.cursor]);
    else return;
    event.preventDefault();
  }
}
