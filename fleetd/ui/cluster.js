// What the page knows of the cluster, and what an event says about that. Pure.

import { lostRow, machineRows } from "./machines.js";
import { announcedBy, serviceRow } from "./services.js";
import { announcingRow, isTemplate, unitRow } from "./units.js";
import { describeEvent, eventLevel } from "./words.js";

const MOST_EVENTS = 2000; // that are kept; the oldest go
const MISSED = 86400; // seconds for which a machine that was lost, and has not come back, is shown
const OF_MACHINES = ["joined", "lost", "back", "left", "drain", "reboot"];

/** Nothing is known yet. `units` are `{ report, row }` by name, without templates, and all of them if it `isWhole`;
 * `machines` are by id. */
export const NOTHING = {
  who: null,
  isWhole: false,
  machines: new Map(),
  lost: new Map(), // machines that were lost and are not back, by id: the time
  units: new Map(),
  machineRows: [],
  unitRows: [],
  announced: new Map(), // what units announce, as words, by unit
  serviceRows: null, // of what they announce; null: not known yet
  events: [], // rows, the newest first
  told: 0, // events so far
};

/** With these machines, and the reports of these units: of all (`asked` is null), or of those that were asked for. */
export function withLists(cluster, machines, reports, asked = null) {
  const units = asked ? new Map(cluster.units) : new Map();
  for (const name of asked ?? []) units.delete(name);
  for (const report of reports)
    if (!isTemplate(report.name)) units.set(report.name, { report, row: makeRow(report, cluster.announced) });
  const known = machines ? new Map(machines.map((machine) => [machine.id, machine])) : cluster.machines;
  const unitRows = [...units.values()].map(({ row }) => row);
  const all = machineRows(known.values(), [...units.values()].map(({ report }) => report));
  for (const id of cluster.lost.keys()) if (!known.has(id)) all.push(lostRow(id));
  return { ...cluster, isWhole: cluster.isWhole || !asked, machines: known, units, unitRows, machineRows: all };
}

function makeRow(report, announced) {
  const text = announced.get(report.name);
  return text ? announcingRow(report, text) : unitRow(report);
}

/** With this being all that units announce. */
export function withServices(cluster, services) {
  const announced = announcedBy(services);
  const units = new Map(cluster.units);
  for (const name of new Set([...announced.keys(), ...cluster.announced.keys()])) {
    const known = units.get(name);
    if (known && announced.get(name) !== cluster.announced.get(name))
      units.set(name, { report: known.report, row: makeRow(known.report, announced) });
  }
  const unitRows = [...units.values()].map(({ row }) => row);
  return { ...cluster, announced, units, unitRows, serviceRows: services.map(serviceRow) };
}

/** With these events, the last one being the newest; `now` is the Unix time at which those happened that do not say. */
export function withEvents(cluster, events, now) {
  const latest = events.slice(-MOST_EVENTS);
  const rows = latest.map((event, number) => eventRow(event, cluster.told + number, now)).reverse();
  const lost = new Map(cluster.lost);
  for (const { kind, machine, at } of latest)
    if (kind === "lost" && (at || now) > now - MISSED) lost.set(machine, at || now);
    else if (["joined", "back", "left"].includes(kind)) lost.delete(machine);
  const shown = [...rows, ...cluster.events].slice(0, MOST_EVENTS);
  return { ...cluster, events: shown, lost, told: cluster.told + latest.length };
}

function eventRow(event, number, now) {
  const text = describeEvent(event);
  const unit = event.unit ?? "";
  return {
    key: String(number).padStart(12, "0"),
    number,
    at: event.at || now,
    text,
    unit,
    machine: event.machine ?? "",
    level: eventLevel(event),
    words: `${event.kind} ${text} ${event.machine ?? ""}`.toLowerCase(),
  };
}

/** What is to be read again after an event: `units` by name, `machines`, what is under way (`works`: rollouts, drains
 * and reboots), or `all`. */
export function staleAfter(event) {
  const stale = { units: [event.unit, ...(event.units ?? [])].filter(Boolean), machines: false, works: false, all: false };
  if (event.kind === "gap") stale.all = true;
  if (OF_MACHINES.includes(event.kind) || (event.kind === "asked" && event.machine)) stale.machines = true;
  if (["rollout", "drain", "reboot", "asked"].includes(event.kind)) stale.works = true;
  return stale;
}

/** All of these together. */
export function joinStale(one, other) {
  return {
    units: new Set([...one.units, ...other.units]),
    machines: one.machines || other.machines,
    works: one.works || other.works,
    all: one.all || other.all,
  };
}

export const FRESH = { units: new Set(), machines: false, works: false, all: false };
