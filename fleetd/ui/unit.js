// The page of a unit: its states, why it is where it is, what has happened to it, its log, its file.

import * as api from "./api.js";
import { confirm } from "./confirm.js";
import { facts, h, machineLink, table } from "./dom.js";
import { Log } from "./log.js";
import { may } from "./rights.js";
import { LEVELS, allocationState, count, nameMachine, unitRow } from "./units.js";
import { describeEvent, renderAge, renderTime } from "./words.js";

const SETTLE = 500; // milliseconds after a change until the explanation is read again

/** What the unit can be asked for by whoever looks, in its state: for each the word, and how it is confirmed. */
export function unitActions(who, report, row) {
  const { name, generation, target } = report;
  if (!target) return []; // the cluster does not have it any more
  const planned = (change) => ({ operations: [{ name, ...change }] });
  const toTarget = (doing, wanted) => ({
    doing,
    request: planned({ desiredState: wanted }),
    act: () => api.setTarget(name, wanted, generation),
  });
  const runs = (report.allocations ?? []).some((each) => ["active", "activating", "reloading"].includes(each.active));
  const operate = may(who, "operate", name);
  return [
    operate && target !== "launched" && toTarget("Start", "launched"),
    operate && target === "launched" && toTarget("Stop", "loaded"),
    operate && target !== "inactive" && toTarget("Unload", "inactive"),
    operate && target === "launched" && runs && {
      doing: "Restart",
      remark: `${name} is restarted where it runs (${row.place}), at once.`,
      act: () => api.restart(name),
    },
    may(who, "submit", name) && {
      doing: "Destroy",
      remark: "The unit and its file are taken out of the cluster.",
      request: planned({ destroy: true }),
      act: () => api.destroy(name, generation),
    },
  ].filter(Boolean);
}

export class UnitView {
  constructor(name) {
    this.name = name;
    this.title = name;
    this.report = undefined;
    this.reading = null;
    this.head = h("div");
    this.why = h("div", {}, h("p", { class: "quiet" }, "Asking fleetd why it is there …"));
    this.log = new Log(name);
    this.file = h("details", { ontoggle: () => this.readFile() }, h("summary", {}, "Unit file"));
    this.element = h("article", { class: "view page" }, this.head, this.why,
      h("h2", {}, "Log"), this.log.element, this.file);
  }

  close() {
    this.reading?.abort();
    clearTimeout(this.timer);
    this.log.close();
  }

  focus() {
    this.element.querySelector("h1")?.focus();
  }

  update(cluster) {
    const report = cluster.units.get(this.name)?.report ?? null;
    const announces = cluster.announced.get(this.name) ?? "";
    if (!report && !cluster.isWhole) {
      this.head.replaceChildren(h("h1", { tabindex: "-1" }, this.name));
      return;
    }
    if (report === this.report && cluster.who === this.who && announces === this.announces) return;
    const isFirst = this.report === undefined;
    this.report = report;
    this.who = cluster.who;
    this.announces = announces;
    const former = document.activeElement?.textContent;
    const hadFocus = this.head.contains(document.activeElement);
    this.head.replaceChildren(...(report ? this.draw(report) : [h("h1", { tabindex: "-1" }, this.name), this.gone()]));
    if (hadFocus) {
      const same = [...this.head.querySelectorAll("button, a")].find((each) => each.textContent === former);
      (same ?? this.head.querySelector("h1")).focus();
    }
    clearTimeout(this.timer);
    if (report) this.timer = setTimeout(() => this.explain(), isFirst ? 0 : SETTLE);
    else this.why.replaceChildren();
  }

  gone = () => h("p", { class: "failure" }, "The cluster has no unit of this name.");

  draw(report) {
    const row = unitRow(report);
    const states = (report.allocations ?? []).map((each) => {
      const [text, level] = allocationState(each);
      const place = nameMachine(each.machine, each.address);
      return [
        machineLink(each.machine, place),
        h("span", { class: `state ${LEVELS[level]}` }, each.superseded ? `${text} (replaced elsewhere)` : text),
        [each.error, each.refusal, each.note].filter(Boolean).join("\n"),
      ];
    });
    const buttons = unitActions(this.who, report, row).map((action) =>
      h("button", { type: "button", onclick: () => confirm({ title: `${action.doing} ${this.name}?`, ...action }) },
        action.doing));
    return [
      h("h1", { tabindex: "-1" }, this.name, " ", h("span", { class: `state ${LEVELS[row.level]}` }, row.state)),
      buttons.length ? h("p", { class: "actions" }, buttons) : null,
      facts([
        ["Target", report.target],
        ["Written", [report.by && `by ${report.by}`, renderTime(report.at)].filter(Boolean).join(", ")],
        ["Decided", report.since && `${renderAge(Date.now() / 1000 - report.since)} ago`],
        ["Announces", this.announces && h("a", { href: `#/services?q=${encodeURIComponent(this.name)}&group=0` }, this.announces)],
        ["Note", row.note],
      ]),
      states.length ? table("States", ["Machine", "State", "Note"], states) : h("p", {}, "No machine reports it."),
    ].filter(Boolean);
  }

  async explain() {
    this.reading?.abort();
    const reading = (this.reading = new AbortController());
    try {
      const found = await api.readExplanation(this.name, reading.signal);
      this.why.replaceChildren(...renderExplanation(found));
    } catch (error) {
      if (error.name === "AbortError") return;
      this.why.replaceChildren(h("p", { class: "failure" }, error.message));
    }
  }

  async readFile() {
    if (!this.file.open) return;
    const summary = this.file.firstChild;
    try {
      const content = await api.readContent(this.name);
      const texts = [h("pre", {}, renderOptions(content.options ?? []))];
      for (const dropin of content.dropins ?? []) texts.push(h("h3", {}, dropin.name), h("pre", {}, dropin.text ?? ""));
      this.file.replaceChildren(summary, ...texts);
    } catch (error) {
      this.file.replaceChildren(summary, h("p", { class: "failure" }, error.message));
    }
  }
}

function renderExplanation(found) {
  let left = found.machines ?? 0;
  const here = (found.whyHere ?? []).map((rule, number) => {
    const of = number ? "of these" : `of ${count(left, "machine")}`;
    left = rule.left;
    return [String(number + 1), rule.message, `${rule.left} ${of}`];
  });
  const others = found.whyNot ?? [];
  const not = others.map((each) => [machineLink(each.machine, nameMachine(each.machine, each.address)), each.message]);
  const history = (found.history ?? []).map((event) => [renderTime(event.at), describeEvent(event)]);
  return [
    h("h2", {}, found.places?.length ? "Why here" : "Why nowhere"),
    found.reason ? h("p", {}, found.places?.length ? `It ${found.reason}.` : sentence(found.reason)) : null,
    here.length ? table("Why here", ["Step", "Rule", "Leaves"], here) : null,
    not.length ? h("details", {}, h("summary", {}, `Why not elsewhere (${count(others.length, "machine")})`),
      table("Why not elsewhere", ["Machine", "Why not"], not)) : null,
    h("h2", {}, "History"),
    history.length ? table("History", ["When", "What"], history) : h("p", {}, "Nothing is known of the last days."),
  ].filter(Boolean);
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

/** Options as the text of a unit file. */
export function renderOptions(options) {
  let section = null;
  const found = [];
  for (const option of options) {
    if (option.section !== section) found.push(`${section === null ? "" : "\n"}[${option.section}]`);
    section = option.section;
    found.push(`${option.name}=${option.value}`);
  }
  return found.join("\n");
}
