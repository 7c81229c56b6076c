// Events, plans and times as words. Pure; the words are those of fleetctl.

import { BAD, CHANGING, GOOD, IDLE, nameMachine } from "./units.js";

const MACHINE_WORDS = { joined: "joined", lost: "is lost", back: "is back", left: "left" };
const SPANS = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];

/** An event as a sentence. */
export function describeEvent(event) {
  const why = event.message || event.detail;
  return describe(event) + (event.by ? ` by ${event.by}` : "") + (why ? `: ${why}` : "");
}

function describe(event) {
  const { kind, unit = "", subject = "", step = "", action = "" } = event;
  const machine = (event.machine ?? "").slice(0, 8);
  const former = (event.former ?? "").slice(0, 8);
  const because = event.why ? ` (${event.why})` : "";
  switch (kind) {
    case "asked": {
      const about = unit || (machine ? `machine ${machine}` : subject);
      return about ? `${action} of ${about} was asked for` : `${action} was asked for`;
    }
    case "placed": return `${unit} placed on ${machine}`;
    case "moved": return `${unit} moved from ${former} to ${machine}`;
    case "unplaced": return former ? `${unit} taken off ${former}` : `${unit} fits nowhere`;
    case "lock": return step === "restored"
      ? `lock ${subject} is the first that is taken since the store was restored`
      : `lock ${subject} was ${step} without a release`;
    case "superseded": return `${unit} placed elsewhere, and may still run on ${former}`;
    case "rollout": return `rollout of ${subject} ${step}${event.units ? `: ${event.units.join(", ")}` : ""}${because}`;
    case "drain": return step === "stays" ? `${unit} stays on ${machine}, which is drained` : `machine ${machine} ${step}`;
    case "reboot": return `reboot of machine ${machine} ${step}${because}`;
    case "state": return `${unit} ${describeState(event)} on ${machine}`;
    case "gap": return "gap";
  }
  if (kind in MACHINE_WORDS) return `machine ${machine} ${MACHINE_WORDS[kind]}`;
  return [kind, unit, machine, subject, step].filter(Boolean).join(" "); // of a later version
}

function describeState({ load, active, sub, error }) {
  if (!load && !active) return "is not reported any more";
  return `${active} (${sub})${error ? `, ${error.split("\n")[0]}` : ""}`;
}

/** How much an event wants to be looked at. */
export function eventLevel({ kind, active, error, step }) {
  if (kind === "state") return error || active === "failed" ? BAD : active === "active" ? GOOD : IDLE;
  if (["lost", "unplaced", "gap"].includes(kind) || ["failed", "paused", "gave-up"].includes(step)) return BAD;
  if (["joined", "back", "placed"].includes(kind)) return GOOD;
  return ["moved", "rollout", "drain", "reboot", "superseded"].includes(kind) ? CHANGING : IDLE;
}

/** The steps of a plan, each with `action`, `unit`, `places` and `reason`. */
export function planSteps(plan) {
  const moves = (plan.moves ?? []).map((move) => ({
    action: !move.machine ? "stop" : move.origin ? "move" : "place",
    unit: move.unit,
    places: [
      move.origin && nameMachine(move.origin, move.originAddress),
      move.machine && `→ ${nameMachine(move.machine, move.address)}`,
    ].filter(Boolean).join(" "),
    reason: move.reason ?? "",
  }));
  const changes = (plan.changes ?? []).map((change) => ({
    action: "change",
    unit: change.unit,
    places: nameMachine(change.machine, change.address),
    reason: [change.content && "gets its new content", change.target && `becomes ${change.target}`]
      .filter(Boolean).join(" and ") || "is started again",
  }));
  const nowhere = (plan.nowhere ?? []).map(({ unit, reason = "" }) => ({ action: "nowhere", unit, places: "", reason }));
  const stays = (plan.stays ?? []).map((each) => ({
    action: "stays",
    unit: each.unit,
    places: each.machine ? nameMachine(each.machine, each.address) : "",
    reason: each.state === "global" ? "global" : each.reason ?? "",
  }));
  return [...moves, ...changes, ...nowhere, ...stays];
}

/** A plan in one sentence. */
export function summarisePlan(plan) {
  if (plan.endless) return "the cluster would never come to rest";
  const words = {
    place: "would be placed", move: "would move", change: "would be changed", stop: "would stop",
    nowhere: "would run nowhere", stays: "would stay",
  };
  const steps = planSteps(plan);
  const parts = Object.keys(words)
    .map((action) => [steps.filter((step) => step.action === action).length, words[action]])
    .filter(([number]) => number);
  return parts.map((part) => part.join(" ")).join(", ") || "nothing would move";
}

/** A time span in seconds in its two greatest units: `3d4h`, `12s`. */
export function renderAge(passed) {
  let left = Math.max(0, Math.floor(passed));
  let text = "", parts = 0;
  for (const [seconds, unit] of SPANS) {
    if (left >= seconds && parts < 2) {
      text += `${Math.floor(left / seconds)}${unit}`;
      left %= seconds;
      parts += 1;
    } else if (parts) break;
  }
  return text || "0s";
}

/** A Unix time as the local time of whoever looks; "" for 0. */
export function renderTime(at) {
  if (!at) return "";
  const moment = new Date(at * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const date = [moment.getFullYear(), two(moment.getMonth() + 1), two(moment.getDate())].join("-");
  return `${date} ${[moment.getHours(), moment.getMinutes(), moment.getSeconds()].map(two).join(":")}`;
}

/** A line of a journal, as systemd's JSON: its time, machine, text and level. Null if there is nothing to show. */
export function describeEntry(entry) {
  const machine = (entry.machine ?? "").slice(0, 8);
  const remark = entry.failure ? `does not answer: ${entry.failure}` : entry.cut ? "has more than it answers at once" : "";
  if (!("MESSAGE" in entry)) return remark ? { time: "", machine, text: remark, level: entry.failure ? BAD : CHANGING } : null;
  const time = renderTime(Number(entry.__REALTIME_TIMESTAMP ?? 0) / 1e6);
  const level = ["0", "1", "2", "3"].includes(entry.PRIORITY) ? BAD : entry.PRIORITY === "4" ? CHANGING : IDLE;
  return { time, machine, text: fieldText(entry.MESSAGE), level };
}

// systemd writes what is no text as a list of bytes.
function fieldText(value) {
  if (Array.isArray(value)) return new TextDecoder().decode(new Uint8Array(value.map(Number)));
  return typeof value === "string" ? value : "";
}
