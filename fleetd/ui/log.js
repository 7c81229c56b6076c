// The log of a unit as it is written, on all machines that have the unit.

import { journalPath, lines } from "./api.js";
import { h } from "./dom.js";
import { LEVELS } from "./units.js";
import { describeEntry } from "./words.js";

const MOST_LINES = 1000; // that are kept; the oldest go
const AGAIN = 5000; // milliseconds until it is asked for again, where it cannot be followed or the connection was lost
const UNSEEN = 20000; // milliseconds in the background after which it is not followed
const NEAR = 40; // pixels from the end at which a reader counts as being there, and is kept there
const CANNOT_FOLLOW = 409;

export class Log {
  constructor(unit) {
    this.unit = unit;
    this.cursors = new Map(); // by machine: the last entry that was shown
    this.remarks = new Map(); // by machine: why it does not show everything
    this.waiting = []; // lines to be drawn
    this.canFollow = true;
    this.text = h("div", { class: "log", role: "log", tabindex: "0", "aria-label": "Log" });
    this.remark = h("p", { class: "quiet" }, "Asking the machines …");
    this.button = h("button", { type: "button", "aria-pressed": "true", onclick: () => this.toggle() }, "Follow");
    this.element = h("div", {}, this.text, this.remark, h("p", { class: "actions" }, this.button));
    this.look = () => this.noteSight();
    document.addEventListener("visibilitychange", this.look);
    this.read();
  }

  close() {
    document.removeEventListener("visibilitychange", this.look);
    this.stop();
  }

  stop() {
    this.reading?.abort();
    this.reading = null;
    clearTimeout(this.timer);
  }

  get follows() {
    return this.button.getAttribute("aria-pressed") === "true";
  }

  toggle() {
    this.button.setAttribute("aria-pressed", !this.follows);
    this.stop();
    if (this.follows) this.read();
  }

  // Each stream takes one of the few connections that a browser has to a server.
  noteSight() {
    clearTimeout(this.unseen);
    if (document.hidden) this.unseen = setTimeout(() => this.stop(), UNSEEN);
    else if (this.follows && !this.reading) this.read();
  }

  async read() {
    const reading = (this.reading = new AbortController());
    this.remarks.clear();
    try {
      for await (const entry of lines(journalPath(this.unit, this.canFollow, this.cursors), reading.signal))
        this.take(entry);
      if (!this.cursors.size && !this.remarks.size) this.remark.textContent = "It has logged nothing.";
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === CANNOT_FOLLOW && this.canFollow) {
        this.canFollow = false;
        this.read();
        return;
      }
      this.remark.textContent = error.message;
    }
    this.timer = setTimeout(() => this.read(), AGAIN);
  }

  take(entry) {
    const line = entry && describeEntry(entry);
    if (line && "MESSAGE" in entry) {
      this.remarks.delete(entry.machine);
      if (entry.__CURSOR) this.cursors.set(entry.machine, entry.__CURSOR);
      if (!this.waiting.length) requestAnimationFrame(() => this.draw()); // many may come at once
      this.waiting.push(line);
      if (this.waiting.length > 2 * MOST_LINES) this.waiting = this.waiting.slice(-MOST_LINES); // nobody looks
    } else if (line) this.remarks.set(entry.machine, `${line.machine} ${line.text}`);
    this.remark.textContent = [...this.remarks.values()].join("; ");
  }

  draw() {
    const { text } = this;
    const isAtEnd = text.scrollHeight - text.scrollTop - text.clientHeight < NEAR;
    const fresh = this.waiting.slice(-MOST_LINES);
    this.waiting = [];
    text.append(...fresh.map((line) =>
      h("div", { class: LEVELS[line.level] }, h("span", { class: "quiet" }, `${line.time} ${line.machine} `), line.text)));
    while (text.childElementCount > MOST_LINES) text.firstChild.remove();
    if (isAtEnd) text.scrollTop = text.scrollHeight;
  }
}
