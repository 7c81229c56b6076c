// What units announce, as rows of a list and as words. Pure.

import { BAD, GOOD, compare, nameMachine } from "./units.js";

/** The row of one port under one name. `template` is the name, by which rows are grouped. */
export function serviceRow(each) {
  const { service, unit, machine, address, port, protocol, zone = "", failing = "" } = each;
  const state = failing ? "failing" : "announced";
  const place = nameMachine(machine, address);
  return {
    key: [service, unit, machine, port, protocol].join(" "),
    name: service,
    state,
    level: failing ? BAD : GOOD,
    unit,
    machine,
    place,
    port: `${port}/${protocol}`,
    note: failing,
    template: service,
    what: "instance",
    words: [service, unit, machine, place, `${port}/${protocol}`, zone, state].join(" ").toLowerCase(),
  };
}

/** Unit → what it announces, as words: names and ports, each once, `!` before those whose check fails somewhere. */
export function announcedBy(services) {
  const found = new Map(); // unit → name and port → whether the check fails
  for (const { service, unit, port, protocol, failing } of services) {
    if (!found.has(unit)) found.set(unit, new Map());
    const names = found.get(unit);
    const name = `${service}:${port}${protocol === "tcp" ? "" : `/${protocol}`}`;
    names.set(name, names.get(name) || Boolean(failing));
  }
  const text = (names) => [...names].sort(([a], [b]) => compare(a, b)).map(([name, fails]) => `${fails ? "!" : ""}${name}`).join(", ");
  return new Map([...found].map(([unit, names]) => [unit, text(names)]));
}
