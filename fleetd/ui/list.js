// A list of any length, of which only the visible rows are in the document.

import { h } from "./dom.js";
import { LEVELS } from "./units.js";

const MARGIN = 8; // rows above and below the visible ones

let lists = 0;

export class RowList {
  /** `label` names the list, `kind` is its class. `columns` are `{ field, title, cell(row) }`: a cell is a text or an
   * element, the title a button that calls `onSort(field)`. `address(row)` is where its link leads, "" for nowhere;
   * `onToggle(row)` opens or closes a row that stands for others. */
  constructor({ label, kind, columns, address, onSort = () => {}, onToggle = () => {} }) {
    this.columns = columns;
    this.address = address;
    this.onToggle = onToggle;
    this.rows = [];
    this.cursor = 0;
    this.drawn = new Map(); // by key: { row, element }
    this.id = `list${++lists}`;
    this.heads = columns.map(({ field, title }) =>
      h("div", { role: "columnheader", class: `c-${field}` },
        h("button", { type: "button", onclick: () => onSort(field) }, title)));
    this.head = h("div", { class: "row heads", role: "row", "aria-rowindex": "1" }, this.heads);
    this.space = h("div", { class: "space", role: "rowgroup" });
    this.element = h(
      "div",
      { class: `list ${kind}`, role: "grid", "aria-label": label, tabindex: "0", onkeydown: (event) => this.press(event) },
      this.head,
      this.space,
    );
    this.element.addEventListener("scroll", () => this.draw(), { passive: true });
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.element);
  }

  close() {
    this.observer.disconnect();
  }

  /** Show these rows, sorted by this field. The cursor stays on its row, or at its place if that is gone. */
  show(rows, sort, isReversed = false) {
    const { key } = this;
    this.rows = rows;
    const at = key === undefined ? -1 : rows.findIndex((row) => row.key === key);
    this.cursor = at >= 0 ? at : Math.max(0, Math.min(this.cursor, rows.length - 1));
    this.element.setAttribute("role", rows.some((row) => row.isHead) ? "treegrid" : "grid");
    this.element.setAttribute("aria-rowcount", rows.length + 1);
    this.columns.forEach(({ field }, number) => {
      const order = field !== sort ? "none" : isReversed ? "descending" : "ascending";
      this.heads[number].setAttribute("aria-sort", order);
    });
    this.draw();
  }

  /** The key of the row with the cursor; undefined if there is none. */
  get key() {
    return this.rows[this.cursor]?.key;
  }

  /** Put the cursor on the row with this key, if there is one, and show it. */
  goTo(key) {
    const at = this.rows.findIndex((row) => row.key === key);
    if (at >= 0) this.move(at - this.cursor);
  }

  /** Draw the visible rows again, also those that have not changed: time has passed. */
  refresh() {
    for (const known of this.drawn.values()) known.row = null;
    this.draw();
  }

  get rowHeight() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 32;
  }

  // The heads stay above the rows, and cover as much of the list.
  get visibleHeight() {
    return this.element.clientHeight - this.head.offsetHeight;
  }

  draw() {
    const height = this.rowHeight;
    const first = Math.max(0, Math.floor(this.element.scrollTop / height) - MARGIN);
    const visible = Math.ceil(this.visibleHeight / height) + 2 * MARGIN;
    const shown = this.rows.slice(first, first + visible);
    const keys = new Set(shown.map((row) => row.key));
    this.space.style.height = `${this.rows.length * height}px`;
    for (const [key, { element }] of this.drawn)
      if (!keys.has(key)) {
        element.remove();
        this.drawn.delete(key);
      }
    let before = null;
    shown.forEach((row, number) => {
      const element = this.drawRow(row, first + number, height);
      const next = before ? before.nextSibling : this.space.firstChild;
      if (next !== element) this.space.insertBefore(element, next); // a reader of the document meets them in order
      before = element;
    });
    const current = this.drawn.get(this.rows[this.cursor]?.key);
    if (current) this.element.setAttribute("aria-activedescendant", current.element.id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  drawRow(row, index, height) {
    let known = this.drawn.get(row.key);
    if (!known) {
      known = { row: null, element: h("div", { role: "row", onclick: (event) => this.click(event, row.key) }) };
      this.drawn.set(row.key, known);
    }
    const { element } = known;
    if (known.row !== row) {
      known.row = row;
      element.replaceChildren(...this.columns.map((column, number) => this.drawCell(row, column, number)));
    }
    const head = row.isHead ? " head" : "";
    element.className = `row ${LEVELS[row.level]}${head}${index === this.cursor ? " current" : ""}`;
    element.id = `${this.id}-${index}`;
    element.setAttribute("aria-rowindex", index + 2);
    element.setAttribute("aria-selected", index === this.cursor);
    if (row.isHead) element.setAttribute("aria-expanded", row.isOpen);
    element.style.transform = `translateY(${index * height}px)`;
    return element;
  }

  drawCell(row, { field, cell }, number) {
    const content = cell(row);
    const address = number === 0 && !row.isHead ? this.address(row) : "";
    const inner = address ? h("a", { href: address, tabindex: "-1" }, content) : content;
    const title = typeof content === "string" ? content : null;
    return h("div", { role: "gridcell", class: `c-${field}`, title }, inner);
  }

  click(event, key) {
    if (event.target.closest("a")) return; // the browser follows it
    this.cursor = this.rows.findIndex((row) => row.key === key);
    this.draw();
    if (!getSelection().toString()) this.open();
  }

  open() {
    const row = this.rows[this.cursor];
    if (row?.isHead) this.onToggle(row);
    else if (row && this.address(row)) location.hash = this.address(row);
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.rows.length) return;
    if (event.target.closest("button")) return; // in the heads
    const page = Math.max(1, Math.floor(this.visibleHeight / this.rowHeight) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const row = this.rows[this.cursor];
    if (event.key in steps) this.move(steps[event.key]);
    else if (event.key === "Enter") this.open();
    else if (event.key === " " && row.isHead) this.onToggle(row);
    else if (event.key === "ArrowRight" && row.isHead && !row.isOpen) this.onToggle(row);
    else if (event.key === "ArrowLeft" && row.isHead && row.isOpen) this.onToggle(row);
    else return;
    event.preventDefault();
  }

  move(by) {
    const height = this.rowHeight;
    this.cursor = Math.max(0, Math.min(this.cursor + by, this.rows.length - 1));
    const top = this.cursor * height;
    const { scrollTop } = this.element;
    const bottom = scrollTop + this.visibleHeight;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + height > bottom) this.element.scrollTop = top + height - this.visibleHeight;
    this.draw();
  }
}
