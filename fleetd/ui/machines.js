// Machines as rows of a list, and the cluster in one line. Pure.

import { BAD, CHANGING, GOOD, IDLE, LEVELS, count } from "./units.js";

/** The rows of machines, with the counts of the units there. `reports` are those of all units. */
export function machineRows(machines, reports) {
  const counts = new Map();
  for (const report of reports)
    for (const { machine, active } of report.allocations ?? []) {
      const known = counts.get(machine) ?? { units: 0, active: 0, failed: 0 };
      known.units += 1;
      known.active += active === "active";
      known.failed += active === "failed";
      counts.set(machine, known);
    }
  return [...machines].map((machine) => machineRow(machine, counts.get(machine.id)));
}

function machineRow(machine, counts = { units: 0, active: 0, failed: 0 }) {
  const [state, level] = machineState(machine);
  const metadata = renderMetadata(machine.metadata);
  const address = machine.primaryIP ?? "";
  return {
    key: machine.id,
    name: machine.id.slice(0, 8),
    address,
    state,
    stateLevel: level,
    level: counts.failed ? BAD : level,
    ...counts,
    metadata,
    words: [machine.id, address, state, metadata].join(" ").toLowerCase(),
  };
}

/** The row of a machine that was lost, of which the cluster knows nothing else any more. */
export const lostRow = (id) => ({ ...machineRow({ id }), state: "lost", stateLevel: BAD, level: BAD, words: `${id} lost` });

/** `a=b,c=d`, in order; "" for none. */
export const renderMetadata = (metadata = {}) =>
  Object.keys(metadata).sort().map((key) => `${key}=${metadata[key]}`).join(",");

/** The state of a machine: words and level. */
export function machineState(machine) {
  const words = machine.mode ? [machine.mode] : [];
  if (machine.drain) words.push("drained");
  else if (machine.cordon) words.push("cordoned");
  if (machine.reboot) words.push(`reboot: ${machine.reboot}`);
  else if (machine.rebootRequired) words.push("wants a reboot");
  return [words.join(", ") || "ready", words.length ? CHANGING : GOOD];
}

/** The cluster as words, each with the level that it is drawn in. */
export function summarise({ machineRows: machines, unitRows: units, isWhole }) {
  const lost = machines.filter((row) => row.state === "lost").length;
  const parts = [[count(machines.length - lost, "machine"), IDLE]];
  if (lost) parts.push([`${lost} lost`, BAD]);
  const unready = machines.filter((row) => row.state !== "ready").length - lost;
  if (unready) parts.push([`${unready} not ready`, CHANGING]);
  if (!isWhole) return [...parts, ["reading the units …", IDLE]];
  parts.push([count(units.length, "unit"), IDLE]);
  const levels = LEVELS.map((_, level) => units.filter((row) => row.level === level).length);
  const words = ["at rest", "active", "changing", "in trouble"];
  for (const level of [BAD, CHANGING, GOOD, IDLE])
    if (levels[level]) parts.push([`${levels[level]} ${words[level]}`, level]);
  return parts;
}
