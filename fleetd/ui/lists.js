// The lists of the page: machines, units, events. Each keeps what it is asked for in the address, which can be shared.

import { h, machineAddress, unitAddress } from "./dom.js";
import { RowList } from "./list.js";
import { MachineMap } from "./map.js";
import { BY_TROUBLE, arrange, filterOf } from "./query.js";
import { LEVELS, count } from "./units.js";
import { renderAge, renderTime } from "./words.js";

const AGING = 10000; // milliseconds after which ages are drawn again

const age = (at) => (at ? renderAge(Date.now() / 1000 - at) : "-");
const state = (row) => h("span", { class: `state ${LEVELS[row.stateLevel ?? row.level]}` }, row.state);
const inner = (href, text) => h("a", { href, tabindex: "-1" }, text); // in a row: keys go to the row
const failed = (row) => (row.failed ? h("span", { class: "state bad" }, String(row.failed)) : "");

const UNIT_COLUMNS = [
  { field: "name", title: "Unit", cell: (row) => (row.isHead ? `${row.isOpen ? "▾" : "▸"} ${row.name}` : row.name) },
  { field: "state", title: "State", cell: state },
  { field: "place", title: "Machine", cell: (row) => row.place },
  { field: "since", title: "Age", cell: (row) => age(row.since) },
  { field: "announces", title: "Announces", cell: (row) => row.announces },
  { field: "note", title: "Note", cell: (row) => row.note },
];
const SERVICE_COLUMNS = [
  { field: "name", title: "Name", cell: (row) => (row.isHead ? `${row.isOpen ? "▾" : "▸"} ${row.name}` : row.name) },
  { field: "state", title: "State", cell: state },
  { field: "unit", title: "Unit", cell: (row) => row.unit ?? "" },
  { field: "place", title: "Machine", cell: (row) => (row.isHead ? row.place : inner(machineAddress(row.machine), row.place)) },
  { field: "port", title: "Port", cell: (row) => row.port ?? "" },
  { field: "note", title: "Note", cell: (row) => row.note },
];
const MACHINE_COLUMNS = [
  { field: "name", title: "Machine", cell: (row) => row.name },
  { field: "address", title: "Address", cell: (row) => row.address },
  { field: "state", title: "State", cell: state },
  { field: "units", title: "Units", cell: (row) => String(row.units) },
  { field: "failed", title: "Failed", cell: failed },
  { field: "metadata", title: "Metadata", cell: (row) => row.metadata },
];
const EVENT_COLUMNS = [
  { field: "number", title: "When", cell: (row) => h("time", {}, renderTime(row.at)) },
  { field: "text", title: "What", cell: (row) => row.text },
];

const eventAddress = (row) =>
  row.unit ? unitAddress(row.unit) : row.machine.length === 32 ? machineAddress(row.machine) : "";

/** A list with its filter. `rows(cluster)` are all of its rows. A `map` above it shows them all at once. */
class ListView {
  constructor({ title, kind, noun = kind, columns, rows, address, sort, empty = "", grouping = "", isGrouped = false, inAddress = true, map = null }, parameters) {
    this.title = title;
    this.kind = kind;
    this.noun = noun;
    this.rows = rows;
    this.inAddress = inAddress;
    this.map = map;
    this.none = empty;
    this.empty = h("p", { class: "empty quiet", role: "status" });
    this.all = [];
    this.address = location.hash; // with what is asked for
    const asked = parameters.get("sort") ?? sort;
    this.query = {
      text: parameters.get("q") ?? "",
      sort: asked.replace(/^-/, ""),
      isReversed: asked.startsWith("-"),
      isGrouped: parameters.has("group") ? parameters.get("group") === "1" : isGrouped,
      opened: new Set(),
    };
    this.first = sort;
    this.firstGrouped = isGrouped;
    this.list = new RowList({
      label: title, kind, columns, address,
      onSort: (field) => this.sortBy(field),
      onToggle: (row) => this.toggle(row.key),
    });
    this.filter = h("input", {
      type: "search", value: this.query.text, placeholder: "Filter: words, web@*, !word", "aria-label": `Filter ${title}`,
      autocomplete: "off", spellcheck: "false", oninput: () => this.ask({ text: this.filter.value }),
      onkeydown: (event) => this.pressInFilter(event),
    });
    this.trouble = h("button", { type: "button", onclick: () => this.sortBy(BY_TROUBLE) }, "Trouble first");
    this.counter = h("output", { class: "count" });
    this.element = h("section", { class: "view" },
      inAddress && h("h1", { class: "unseen" }, title),
      h("div", { class: "tools" },
        this.filter,
        this.trouble,
        grouping && this.makeGrouping(grouping),
        this.counter),
      map?.element,
      this.empty,
      this.list.element);
    this.timer = setInterval(() => this.list.refresh(), AGING);
  }

  makeGrouping(title) {
    const box = h("input", {
      type: "checkbox", checked: this.query.isGrouped, onchange: () => this.ask({ isGrouped: box.checked }),
    });
    return h("label", {}, box, ` ${title}`);
  }

  close() {
    clearInterval(this.timer);
    this.map?.close();
    this.list.close();
  }

  focus() {
    this.list.element.focus({ preventScroll: true });
  }

  update(cluster) {
    const rows = this.rows(cluster);
    this.isWhole = rows !== null && (cluster.isWhole || this.kind !== "unit");
    this.all = rows ?? [];
    this.draw();
  }

  draw() {
    const shown = arrange(this.all, this.query);
    this.list.show(shown, this.query.sort, this.query.isReversed);
    this.map?.show(this.all, filterOf(this.query.text));
    this.trouble.setAttribute("aria-pressed", this.query.sort === BY_TROUBLE);
    this.empty.textContent = shown.length || !this.isWhole ? "" : this.query.text ? "Nothing matches the filter." : this.none;
    if (!this.isWhole) this.counter.textContent = "reading …";
    else
      this.counter.textContent =
        this.query.text ? `${this.all.filter(filterOf(this.query.text)).length} of ${this.all.length}` : count(this.all.length, this.noun);
  }

  ask(change) {
    this.query = { ...this.query, ...change };
    this.draw();
    if (this.inAddress) this.note();
  }

  // In the address, without a new entry of the history for each letter.
  note() {
    const { text, sort, isReversed, isGrouped } = this.query;
    const asked = new URLSearchParams();
    const order = `${isReversed ? "-" : ""}${sort}`;
    if (text) asked.set("q", text);
    if (order !== this.first) asked.set("sort", order);
    if (isGrouped !== this.firstGrouped) asked.set("group", isGrouped ? "1" : "0");
    const query = asked.toString();
    history.replaceState(null, "", `${location.hash.split("?")[0] || "#/"}${query && `?${query}`}`);
    this.address = location.hash;
  }

  sortBy(field) {
    const isReversed = this.query.sort === field && field !== BY_TROUBLE ? !this.query.isReversed : false;
    this.ask({ sort: field, isReversed });
  }

  toggle(template) {
    const opened = new Set(this.query.opened);
    if (!opened.delete(template)) opened.add(template);
    this.ask({ opened });
  }

  pressInFilter(event) {
    if (event.key === "Escape" && this.filter.value) {
      this.filter.value = "";
      this.ask({ text: "" });
      event.stopPropagation();
    } else if (event.key === "Enter" || event.key === "ArrowDown") {
      this.focus();
    } else return;
    event.preventDefault();
  }
}

export const makeMachines = (parameters) =>
  new ListView({
    title: "Machines", kind: "machine", columns: MACHINE_COLUMNS, sort: "key", map: new MachineMap(),
    rows: (cluster) => cluster.machineRows, address: (row) => machineAddress(row.key),
  }, parameters);

export const makeUnits = (parameters) =>
  new ListView({
    title: "Units", kind: "unit", columns: UNIT_COLUMNS, sort: BY_TROUBLE, grouping: "By template",
    empty: "The cluster has no unit yet: fleetctl start FILE runs one, fleetctl apply FOLDER all of a folder.",
    rows: (cluster) => cluster.unitRows, address: (row) => unitAddress(row.key),
  }, parameters);

/** What units announce, by name. */
export const makeServices = (parameters) =>
  new ListView({
    title: "Services", kind: "service", noun: "instance", columns: SERVICE_COLUMNS, sort: "name", grouping: "By name", isGrouped: true,
    empty: "No unit announces a name: Announce=web 8080 in its file does, below [X-Fleet].",
    rows: (cluster) => cluster.serviceRows, address: (row) => unitAddress(row.unit),
  }, parameters);

/** The units of one machine. */
export const makeUnitsOf = (machine) =>
  new ListView({
    title: "Units here", kind: "unit", columns: UNIT_COLUMNS, sort: BY_TROUBLE, grouping: "By template", inAddress: false,
    empty: "No unit is here.",
    rows: (cluster) => cluster.unitRows.filter((row) => row.machines.includes(machine)),
    address: (row) => unitAddress(row.key),
  }, new URLSearchParams());

export const makeEvents = (parameters) =>
  new ListView({
    title: "Events", kind: "event", columns: EVENT_COLUMNS, sort: "number",
    empty: "Nothing has happened in the last days.",
    rows: (cluster) => cluster.events, address: eventAddress,
  }, parameters);
