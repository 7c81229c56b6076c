// The page of a machine: its state and metadata, its drain and reboot, and the units there.

import * as api from "./api.js";
import { confirm } from "./confirm.js";
import { facts, h } from "./dom.js";
import { makeUnitsOf } from "./lists.js";
import { machineState, renderMetadata } from "./machines.js";
import { may } from "./rights.js";
import { LEVELS } from "./units.js";
import { drainTable } from "./works.js";
import { renderTime } from "./words.js";

const REASON = "Reason, on one line, for others to read";
const BEFORE_REBOOT = ["queued", "draining", "gave-up"]; // phases in which a reboot can be taken back

/** What the machine can be asked for by whoever looks: for each the word, and how it is confirmed. */
export function machineActions(who, machine) {
  const { id } = machine;
  const planned = { drain: [{ machine: id }] };
  const operate = may(who, "operate");
  const admin = may(who, "admin");
  return [
    operate && !machine.cordon && {
      doing: "Cordon", remark: "It takes no new units, and keeps those that it has.", field: REASON,
      act: (why) => api.cordon(id, why),
    },
    operate && !machine.drain && {
      doing: "Drain", remark: "It takes no new units, and those that it has move to others.", field: REASON,
      request: planned, act: (why) => api.drain(id, why),
    },
    operate && machine.drain && {
      doing: "End drain", remark: "Its units stay from now on; it takes no new ones until it is uncordoned.",
      act: () => api.endDrain(id),
    },
    operate && machine.cordon && {
      doing: "Uncordon", remark: "It takes units again. Those that have left do not come back by themselves.",
      act: () => api.uncordon(id),
    },
    admin && !machine.reboot && {
      doing: "Reboot", remark: "Its units move to others first, and it waits for its turn.",
      request: planned, act: () => api.reboot(id),
    },
    admin && BEFORE_REBOOT.includes(machine.reboot) && {
      doing: "Cancel reboot", remark: "It is not rebooted, and may keep the units that it still has.",
      act: () => api.cancelReboot(id),
    },
    { doing: "If it were lost", isOnlyShown: true, request: { lose: [id] } },
  ].filter(Boolean);
}

export class MachineView {
  constructor(id) {
    this.id = id;
    this.title = `Machine ${id.slice(0, 8)}`;
    this.known = "";
    this.head = h("div");
    this.drain = h("div");
    this.units = makeUnitsOf(id);
    this.element = h("article", { class: "view page with-list" }, this.head, this.drain, h("h2", {}, "Units here"),
      this.units.element);
  }

  close() {
    this.units.close();
  }

  focus() {
    this.element.querySelector("h1")?.focus();
  }

  update(cluster, { works = true } = {}) {
    this.units.update(cluster);
    const machine = cluster.machines.get(this.id) ?? null;
    const known = JSON.stringify([machine, cluster.who]);
    if (known !== this.known) {
      this.known = known;
      this.who = cluster.who;
      this.head.replaceChildren(...(machine ? this.draw(machine) : [this.gone()]));
    }
    if (machine?.drain || machine?.reboot) this.readDrain();
    else if (works) this.drain.replaceChildren();
  }

  gone() {
    return h("div", {}, h("h1", { tabindex: "-1" }, this.title), h("p", { class: "failure" }, "It is not in the cluster now: it was lost, or has left."));
  }

  draw(machine) {
    const [state, level] = machineState(machine);
    const { cordon, drain } = machine;
    const buttons = machineActions(this.who, machine).map((action) => {
      const title = action.isOnlyShown ? `If ${this.title} were lost` : `${action.doing}: ${this.title}?`;
      const asked = { ...action, title, doing: action.isOnlyShown ? "" : action.doing };
      return h("button", { type: "button", onclick: () => confirm(asked) }, action.doing);
    });
    const by = ({ by: who, at, why }) => [why, who && `by ${who}`, renderTime(at)].filter(Boolean).join(", ") || "yes";
    return [
      h("h1", { tabindex: "-1" }, this.title, " ", h("span", { class: `state ${LEVELS[level]}` }, state)),
      h("p", { class: "actions" }, buttons),
      facts([
        ["Id", machine.id],
        ["Address", machine.primaryIP],
        ["Metadata", renderMetadata(machine.metadata).replaceAll(",", ", ")],
        ["Cordoned", cordon && by(cordon)],
        ["Drained", drain && by(drain)],
        ["Wants a reboot", machine.rebootRequired],
        ["Certificate until", renderTime(machine.certificateExpires)],
      ]),
    ];
  }

  async readDrain() {
    try {
      this.drain.replaceChildren(drainTable(await api.readDrain(this.id)));
    } catch (error) {
      this.drain.replaceChildren(h("p", { class: "failure" }, error.message));
    }
  }
}
