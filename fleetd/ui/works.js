// What is under way: rollouts, drains, reboots.

import * as api from "./api.js";
import { confirm } from "./confirm.js";
import { facts, h, machineLink, table, unitLink } from "./dom.js";
import { may } from "./rights.js";
import { count, nameMachine } from "./units.js";
import { renderTime } from "./words.js";

const AGAIN = 3000; // milliseconds between two looks at what is under way: not each of its steps is an event
const MOST_ROLLOUTS = 50; // that are shown: those under way, then the last ones
const MOST_DRAINS = 20; // that are read

/** What the rollout can be asked for by whoever looks. */
export function rolloutActions(who, rollout) {
  const { group, phase, paused, canaries = [], asked } = rollout;
  if (!may(who, "operate", group) || ["done", "reverted"].includes(phase)) return [];
  return [
    !paused && asked !== "pause" && { doing: "Pause", action: "pause", remark: "No further unit is changed until it is resumed." },
    paused && asked !== "resume" && { doing: "Resume", action: "resume", remark: "It goes on with the next units." },
    canaries.length && asked !== "continue" && {
      doing: "Continue", action: "continue", remark: `It goes on past its canaries: ${canaries.join(", ")}.`,
    },
  ].filter(Boolean);
}

/** How far the drain of a machine has got. */
export function drainTable(report) {
  const units = report.units ?? [];
  const left = units.filter((each) => each.state !== "global").length;
  const words = report.hold ? `does not go on: ${report.hold}` : report.drained ? "is done" : `${count(left, "unit")} left`;
  const rows = units.map((each) => [
    unitLink(each.unit), each.state, each.machine ? nameMachine(each.machine, each.address) : "", each.reason ?? "",
  ]);
  return h("section", {},
    h("h3", {}, "Drain of ", machineLink(report.machine, nameMachine(report.machine, report.address)), `: ${words}`),
    rows.length ? table("Units", ["Unit", "State", "To", "Why"], rows) : null);
}

/** Reads what is under way again and again while anything is. */
export class WorksView {
  constructor(title) {
    this.title = title;
    this.body = h("div", {}, h("p", { class: "quiet" }, "Asking fleetd …"));
    this.element = h("article", { class: "view page" }, h("h1", { tabindex: "-1" }, title), this.body);
    this.isFirst = true;
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.timer);
  }

  focus() {
    this.element.querySelector("h1").focus();
  }

  update(cluster, { works = true } = {}) {
    this.cluster = cluster;
    if (works || this.isFirst) this.look();
    this.isFirst = false;
  }

  async look() {
    clearTimeout(this.timer);
    if (this.isReading) {
      this.isStale = true;
      return;
    }
    this.isReading = true;
    this.isStale = false;
    let goesOn = true;
    try {
      const { elements, isBusy } = await this.read();
      this.replace(elements);
      goesOn = isBusy;
    } catch (error) {
      this.replace([h("p", { class: "failure" }, error.message)]);
    }
    this.isReading = false;
    if (this.isClosed) return;
    if (this.isStale) this.look();
    else if (goesOn) this.timer = setTimeout(() => (document.hidden ? null : this.look()), AGAIN);
  }

  // What is open stays open, and what has the focus keeps it.
  replace(elements) {
    const open = new Set([...this.body.querySelectorAll("details[open]")].map((each) => each.dataset.key));
    const key = this.body.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    this.body.replaceChildren(...elements);
    for (const each of this.body.querySelectorAll("details")) each.open ||= open.has(each.dataset.key);
    if (key) this.body.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  }
}

export class RolloutsView extends WorksView {
  constructor() {
    super("Rollouts");
  }

  async read() {
    const all = await api.readRollouts();
    const under = all.filter((each) => !["done", "reverted"].includes(each.phase));
    const byStart = [...all].sort((a, b) => under.includes(b) - under.includes(a) || (b.started ?? 0) - (a.started ?? 0));
    const elements = byStart.slice(0, MOST_ROLLOUTS).map((rollout) => this.draw(rollout));
    const more = byStart.length - elements.length;
    if (more > 0) elements.push(h("p", {}, `and ${more} more`));
    return { elements: elements.length ? elements : [h("p", {}, "There has been no rollout.")], isBusy: under.length > 0 };
  }

  draw(rollout) {
    const { group, phase, updated = 0, total = 0, members = [] } = rollout;
    const buttons = rolloutActions(this.cluster.who, rollout).map(({ doing, action, remark }) =>
      h("button", {
        type: "button", "data-key": `${doing} ${group}`,
        onclick: () => confirm({
          title: `${doing} the rollout of ${group}?`, doing, remark,
          act: async () => {
            await api.commandRollout(group, action);
            this.look();
          },
        }),
      }, doing));
    const rows = members.map((each) => [
      unitLink(each.unit), each.machine ? nameMachine(each.machine, each.address) : "-",
      each.progress + (each.reverted ? " (reverted)" : ""), each.why ?? "",
    ]);
    const { failure } = rollout;
    return h("section", { class: "work" },
      h("h2", {}, group, " ", h("span", { class: `state ${levelOf(rollout)}` }, rollout.paused ? `${phase}, paused` : phase)),
      h("p", {},
        total > 0 && h("progress", { max: total, value: updated, "aria-label": `Progress of ${group}` }),
        total > 0 && ` ${updated} of ${count(total, "unit")} `,
        rollout.status === phase ? "" : rollout.status ?? "",
        rollout.asked && ` (asked for: ${rollout.asked})`),
      buttons.length ? h("p", { class: "actions" }, buttons) : null,
      facts([
        ["Asked for", [rollout.by && `by ${rollout.by}`, renderTime(rollout.started), rollout.note].filter(Boolean).join(", ")],
        ["Failed", failure && [failure.unit, failure.machine && nameMachine(failure.machine), failure.why].filter(Boolean).join(", ")],
      ]),
      rows.length ? h("details", { open: true, "data-key": `members ${group}` }, h("summary", {}, "Units"),
        table("Units", ["Unit", "Machine", "Progress", "Why"], rows)) : null);
  }
}

const levelOf = ({ phase, paused }) =>
  phase === "done" ? "good" : paused || phase.startsWith("revert") ? "bad" : "changing";

export class UpkeepView extends WorksView {
  constructor() {
    super("Drains and reboots");
  }

  async read() {
    const all = [...this.cluster.machines.values()].filter((machine) => machine.drain);
    const draining = all.slice(0, MOST_DRAINS);
    const more = all.length - draining.length;
    const [reboots, ...drains] = await Promise.all([api.readReboots(), ...draining.map(({ id }) => api.readDrain(id))]);
    const elements = [
      h("h2", {}, "Drains"),
      ...drains.map(drainTable),
      drains.length ? null : h("p", {}, "No machine is drained."),
      more > 0 ? h("p", {}, `and ${count(more, "more machine")}`) : null,
      h("h2", {}, "Reboots"),
      reboots.length ? this.drawReboots(reboots) : h("p", {}, "No machine is to be rebooted."),
    ].filter(Boolean);
    return { elements, isBusy: reboots.length > 0 || drains.some((drain) => !drain.drained) };
  }

  drawReboots(reboots) {
    const rows = reboots.map((each) => [
      machineLink(each.machine, nameMachine(each.machine, each.address)),
      each.place ? `${each.phase} (${each.place}.)` : each.phase,
      [each.by && `by ${each.by}`, renderTime(each.at)].filter(Boolean).join(", "),
      [each.reason, each.remedy].filter(Boolean).join(": "),
    ]);
    return table("Reboots", ["Machine", "Phase", "Asked for", "Why"], rows);
  }
}
