// Units as rows of a list. Pure: a row is made of what fleetd reports about the unit (UnitReport), and of nothing else.

export const IDLE = 0, GOOD = 1, CHANGING = 2, BAD = 3; // how much a row wants to be looked at
export const LEVELS = ["idle", "good", "changing", "bad"]; // their names in the style sheet

const BAD_LOADS = ["not-found", "bad-setting", "error", "masked"];

/** The template of an instance or a template; "" for a plain unit. */
export function templateOf(name) {
  const dot = name.lastIndexOf(".");
  const stem = name.slice(0, Math.max(dot, 0));
  const at = stem.indexOf("@");
  return at < 0 ? "" : `${stem.slice(0, at)}@${name.slice(dot)}`;
}

export const isTemplate = (name) => templateOf(name) === name;

/** A machine in few words: the beginning of its id, and its address. */
export const nameMachine = (id, address = "") => (id ? id.slice(0, 8) + (address ? `/${address}` : "") : "-");

/** The allocations that count: not those that are replaced elsewhere, nor of a unit that the cluster does not have. */
export const activeAllocations = (report) =>
  (report.allocations ?? []).filter((each) => !each.superseded && !each.orphaned);

/** The row of a unit. `words` is what a filter looks in, in lower case; `machines` are the ids of where it is. */
export function unitRow(report) {
  const allocations = activeAllocations(report);
  const [state, level] = unitState(report, allocations);
  const [machines, place] = unitPlace(report, allocations);
  return {
    key: report.name,
    name: report.name,
    state,
    level,
    place,
    machines,
    announces: "",
    note: unitNote(report, allocations),
    since: report.since ?? 0,
    template: templateOf(report.name),
    words: [report.name, state, machines.join(" "), place, report.target].join(" ").toLowerCase(),
  };
}

/** The row of a unit that announces this (services.js). */
export function announcingRow(report, announces) {
  const row = unitRow(report);
  return { ...row, announces, words: `${row.words} ${announces}` };
}

function unitState(report, allocations) {
  if (report.global && allocations.length !== 1) return countStates(allocations.map(allocationState));
  if (report.target === "inactive" && !allocations.length) return ["inactive", IDLE];
  if (!report.global && !report.machine) {
    if (hasCompletedElsewhere(report)) return ["completed", IDLE];
    if (!allocations.length) return ["nowhere", (report.decided ?? 0) >= report.generation ? BAD : CHANGING];
  }
  const own = allocations.find((each) => each.machine === report.machine) ?? allocations[0];
  return own ? allocationState(own) : ["waiting", CHANGING];
}

/** The state of a unit on one machine: words and level. */
export function allocationState(own) {
  const text = [own.active, own.sub].filter(Boolean).join("/") || "waiting";
  if (own.active === "failed" || own.error || BAD_LOADS.includes(own.load) || own.refusal) return [text, BAD];
  if (own.active === "active") return [text, GOOD];
  if (["reloading", "activating", "deactivating", "maintenance"].includes(own.active) || !own.active)
    return [text, CHANGING];
  return [own.completed ? "completed" : text, IDLE];
}

/** The states of several as one: how many are in each, the worst first. */
export function countStates(states) {
  const counts = new Map();
  for (const [text, level] of states) {
    const word = text.split("/")[0];
    const known = counts.get(`${level} ${word}`) ?? { level, word, count: 0 };
    known.count += 1;
    counts.set(`${level} ${word}`, known);
  }
  const sorted = [...counts.values()].sort((a, b) => b.level - a.level || compare(a.word, b.word));
  const text = sorted.map(({ count, word }) => `${count} ${word}`).join(", ");
  return [text || "on no machine", sorted.length ? sorted[0].level : IDLE];
}

const hasCompletedElsewhere = (report) => !report.machine && report.cause?.kind === "completed";

function unitPlace(report, allocations) {
  if (report.global) return [allocations.map((each) => each.machine), count(allocations.length, "machine")];
  const machine = report.machine || allocations[0]?.machine || "";
  const address = allocations.find((each) => each.machine === machine)?.address;
  return [machine ? [machine] : [], nameMachine(machine, address)];
}

function unitNote(report, allocations) {
  const said = allocations.map((each) => each.error || each.refusal).find(Boolean);
  if (said) return said.split("\n")[0];
  if (report.target !== "inactive" && !report.global && !hasCompletedElsewhere(report)) {
    if (!report.machine && (report.decided ?? 0) < report.generation) return "waits for the leader to place it";
    if (report.cause?.waits) return report.cause.waits;
    if (!report.machine) return whyNowhere(report);
  }
  if (report.target === "loaded") return "is only loaded";
  return allocations.map((each) => each.note).find(Boolean) ?? "";
}

function whyNowhere(report) {
  const counted = (report.rejections ?? []).map((each) => `${each.message} (${count(each.machines, "machine")})`);
  return [report.reason || "no machine fits", counted.join(", ")].filter(Boolean).join(": ");
}

/** The row that stands for the units of a template. */
export function templateRow(template, members, isOpen) {
  const [state, level] = countStates(members.map((row) => [row.state, row.level]));
  const places = new Set(members.map((row) => row.place).filter((place) => place !== "-"));
  return {
    key: template,
    name: template,
    state,
    level,
    place: places.size === 1 ? [...places][0] : count(places.size, "machine"),
    machines: [],
    announces: "",
    note: count(members.length, members[0].what ?? "unit"),
    since: members.reduce((latest, row) => Math.max(latest, row.since), 0),
    template,
    words: "",
    isHead: true,
    isOpen,
  };
}

/** `1 unit`, `2 units`. */
export const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

/** Order of two texts or two numbers. */
export const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
