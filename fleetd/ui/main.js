// The page: what the address asks for, the keys, and the line about the cluster.

import { h, facts, table } from "./dom.js";
import { Feed } from "./feed.js";
import { makeEvents, makeMachines, makeServices, makeUnits } from "./lists.js";
import { LocksView } from "./locks.js";
import { MachineView } from "./machine.js";
import { summarise } from "./machines.js";
import { UnitView } from "./unit.js";
import { LEVELS } from "./units.js";
import { renderTime } from "./words.js";
import { RolloutsView, UpkeepView } from "./works.js";

const PAUSE = 250; // milliseconds between two drawings
const SHARE = 4; // a pause is at least so many times as long as the drawing before
const VIEWS = [
  ["machines", "Machines", makeMachines],
  ["units", "Units", makeUnits],
  ["services", "Services", makeServices],
  ["locks", "Locks", () => new LocksView()],
  ["rollouts", "Rollouts", () => new RolloutsView()],
  ["upkeep", "Drains and reboots", () => new UpkeepView()],
  ["events", "Events", makeEvents],
];
const KEYS = [
  [`1 … ${VIEWS.length}`, "the views, from left to right"],
  ["/", "the filter; Enter leaves it for the list, Esc empties it"],
  ["↑ ↓ Page Home End", "go through a list"],
  ["Enter", "open a row; the units of a template with ← → or Space"],
  ["Esc", "back"],
  ["?", "this help"],
];

const find = (id) => document.getElementById(id);
const [main, nav, summary, trouble, whoButton] = ["main", "nav", "summary", "trouble", "who"].map(find);

let view = null; // what the address asks for
let listAddress = ""; // of the last list
const places = new Map(); // by address of a list: the row on which its cursor was
let pause = PAUSE;
let changes = null; // since the last drawing; null: none
let timer;

const feed = new Feed((what) => {
  changes = { works: changes?.works || what.works || false };
  timer ??= setTimeout(() => requestAnimationFrame(draw), changes.works ? 0 : pause);
});

function draw() {
  const began = performance.now();
  timer = undefined;
  const { cluster, failure } = feed;
  const what = changes ?? {};
  changes = null;
  trouble.textContent = failure;
  trouble.hidden = !failure;
  if (!cluster.who) return;
  const parts = summarise(cluster);
  summary.replaceChildren(...parts.map(([text, level]) => h("span", { class: LEVELS[level] }, text)));
  whoButton.textContent = cluster.who.name || "You";
  whoButton.hidden = false;
  if (!view) open();
  else view.update(cluster, what);
  pause = Math.max(PAUSE, SHARE * (performance.now() - began));
}

/** Show what the address asks for. */
function open() {
  if (!feed.cluster.who) return; // nothing is known yet
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [kind, name = ""] = path.split("/");
  if (view?.list) {
    listAddress = view.address;
    places.set(listAddress, view.list.key);
  }
  view?.close();
  view = makeView(kind, decodeName(name), new URLSearchParams(query));
  main.replaceChildren(view.element);
  document.title = `${view.title} - fleet`;
  for (const link of nav.querySelectorAll("a")) {
    if (link.hash === `#/${kind || VIEWS[0][0]}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.update(feed.cluster);
  view.list?.goTo(places.get(view.address));
  view.focus();
}

function makeView(kind, name, parameters) {
  if (kind === "unit" && name) return new UnitView(name);
  if (kind === "machine" && name) return new MachineView(name);
  const [, , make] = VIEWS.find(([known]) => known === kind) ?? VIEWS[0];
  return make(parameters);
}

function decodeName(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // somebody has typed it
  }
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (event.target.matches?.("input")) view?.focus();
    else if (!view?.list) location.hash = listAddress || "#/units";
    return;
  }
  if (event.target.matches?.("input[type=search], input[type=text]")) return;
  const number = Number(event.key);
  if (number >= 1 && number <= VIEWS.length) location.hash = `#/${VIEWS[number - 1][0]}`;
  else if (event.key === "/") main.querySelector("input[type=search]")?.focus();
  else if (event.key === "?") showKeys();
  else return;
  event.preventDefault();
}

function showDialog(title, ...content) {
  const close = () => dialog.close();
  const dialog = h("dialog", { "aria-label": title, onclose: () => dialog.remove() },
    h("h2", {}, title), ...content, h("p", { class: "buttons" }, h("button", { type: "button", onclick: close }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}

const showKeys = () => showDialog("Keys", table("Keys", ["Key", "What it does"], KEYS));

function showWho() {
  const { who } = feed.cluster;
  showDialog("Who asks",
    facts([
      ["Name", who.name],
      ["Identity", who.identity],
      ["Groups", (who.groups ?? []).join(", ")],
      ["Certificate until", renderTime(who.expires)],
    ]),
    table("Rights", ["Permission", "For units"], (who.grants ?? []).map(({ permission, pattern }) => [permission, pattern])));
}

nav.append(...VIEWS.map(([kind, title]) => h("a", { href: `#/${kind}` }, title)));
whoButton.addEventListener("click", showWho);
find("keys").addEventListener("click", showKeys);
addEventListener("hashchange", open);
addEventListener("keydown", press);
feed.start();
