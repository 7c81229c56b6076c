// The locks of the cluster: who holds them, and how many wait. Who may, takes one away.

import * as api from "./api.js";
import { confirm } from "./confirm.js";
import { h, table } from "./dom.js";
import { may } from "./rights.js";
import { compare } from "./units.js";
import { renderTime } from "./words.js";
import { WorksView } from "./works.js";

/** A row for each holder, or one for a lock that is only waited for: lock, state, holder, since when, slots, waiting. */
export function lockRows(locks) {
  return [...locks].sort((a, b) => compare(a.name, b.name)).flatMap(({ name, slots, waiting, holders }) =>
    (holders.length ? holders : [null]).map((each) => ({
      name,
      state: !each ? "waited for" : each.is_foreign ? "foreign" : each.is_gone ? "vanished" : "held",
      holder: each?.holder || each?.by || "",
      by: each?.by ?? "",
      since: each?.since ?? 0,
      slots,
      waiting,
    })));
}

export class LocksView extends WorksView {
  constructor() {
    super("Locks");
  }

  async read() {
    const rows = lockRows(await api.readLocks());
    const cells = rows.map((row, place) => [
      row.name, row.state, row.holder || "-", row.since ? renderTime(row.since) : "-", String(row.slots), String(row.waiting),
      row.name !== rows[place - 1]?.name && row.state !== "waited for" && may(this.cluster.who, "operate", row.name) ? this.button(row.name) : "",
    ]);
    const nothing = h("p", {}, "Nobody holds a lock: fleetctl lock NAME -- COMMAND takes one, and so does Lock= in a unit.");
    return {
      elements: [cells.length ? table("Locks", ["Lock", "State", "Held by", "Since", "Slots", "Waiting", ""], cells) : nothing],
      isBusy: true, // that a lock is taken or released is no event
    };
  }

  button(name) {
    return h("button", {
      type: "button",
      "data-key": `unlock ${name}`,
      "aria-label": `Take lock ${name} away`,
      onclick: () => confirm({
        title: `Take lock ${name} away?`,
        doing: "Take it away",
        remark: "What runs with it is ended at its next renewal. The next one has the lock when the ttl of its holders has passed.",
        act: async () => {
          await api.takeLockAway(name);
          this.look();
        },
      }),
    }, "Take away");
  }
}
