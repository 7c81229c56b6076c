// Keeps what the page knows of the cluster fresh: it reads everything once, then follows events, which say what is to
// be read again. While nobody looks at the page, it does nothing.

import * as api from "./api.js";
import { FRESH, NOTHING, joinStale, staleAfter, withEvents, withLists, withServices } from "./cluster.js";

const SOON = 0.2; // seconds from an event to the read that it asks for: more may come with it
const SHARE = 4; // after everything was read, the pause is so many times as long: a large cluster is not asked all the time
const MOST_NAMED = 500; // units that are read by their names; if more have changed, all are
const UNTOLD = 30; // seconds between two reads of what no event tells (metadata, expiry of certificates)
const SILENT = 45; // seconds without a word, of which fleetd says one each 15 s, after which the connection counts as lost
const UNSEEN = 20; // seconds in the background after which the page stops to follow
const SERVICES = 240; // seconds for which a question about changes of what units announce may wait for one
const LONGEST_WAIT = 30; // seconds between two attempts

const now = () => Date.now() / 1000;
const STREAM = ["begin", "mark", "behind", "end"]; // kinds of lines about the stream itself

export class Feed {
  /** `onChange(what)` is called after each change of `cluster` or `failure`; `what.works`: of what is under way, too. */
  constructor(onChange) {
    this.onChange = onChange;
    this.cluster = NOTHING;
    this.failure = "";
    this.token = "";
    this.stale = FRESH;
    this.pause = SOON;
    this.attempts = 0;
    this.run = 0; // counts the beginnings: an answer to an earlier one is dropped
    this.source = null;
    this.services = null; // AbortController of what follows the services
    this.timers = {};
  }

  start() {
    document.addEventListener("visibilitychange", () => this.look());
    addEventListener("online", () => this.retry(0));
    this.begin();
  }

  /** Read everything, and follow what happens then. */
  async begin() {
    this.close();
    const run = ++this.run;
    try {
      const [who, { events, token }] = await Promise.all([api.readWho(), api.readLatestEvents()]);
      const machines = await api.readMachines();
      if (run !== this.run) return;
      const told = withEvents({ ...NOTHING, who }, events, now());
      if (!this.cluster.who) {
        this.cluster = withLists(told, machines, [], []); // something to look at: many units take a moment
        this.onChange({ works: true });
      }
      const reports = await api.readUnits();
      if (run !== this.run) return;
      const { announced, serviceRows } = this.cluster;
      this.cluster = withLists({ ...told, announced, serviceRows }, machines, reports);
      this.token = token;
      this.stale = FRESH;
    } catch (error) {
      if (run !== this.run) return;
      this.setFailure(error.message);
      this.retry();
      return;
    }
    this.attempts = 0;
    this.failure = "";
    this.onChange({ works: true });
    this.follow();
  }

  follow() {
    const source = (this.source = new EventSource(api.eventsPath(this.token)));
    this.heard = now();
    source.onopen = () => this.setFailure("");
    source.onmessage = ({ data, lastEventId }) => {
      this.heard = now();
      this.hear(JSON.parse(data), lastEventId);
    };
    source.onerror = () => {
      // The browser goes on by itself after the last event that it has got, unless fleetd refuses.
      if (source.readyState === EventSource.CLOSED) this.retry();
      else this.setFailure("the connection to fleetd was lost; trying again");
    };
    this.followServices();
    this.timers.silent = setInterval(() => this.checkSilence(), (SILENT / 3) * 1000);
    this.timers.untold = setInterval(() => this.note({ ...FRESH, machines: true }), UNTOLD * 1000);
  }

  // No event tells what units announce: each answer is followed by a question that waits for the next change.
  async followServices() {
    this.services?.abort();
    const { signal } = (this.services = new AbortController());
    for (let index = 0, failures = 0; !signal.aborted; ) {
      const began = now();
      let pause = 1;
      try {
        const found = await api.readServices(index, SERVICES, signal);
        if (found.index !== index) this.cluster = withServices(this.cluster, found.services);
        if (found.index !== index) this.onChange({});
        if (failures) this.setFailure("");
        pause = Math.max(pause, index ? 0 : SHARE * (now() - began));
        [index, failures] = [found.index, 0];
      } catch (error) {
        if (error.name === "AbortError") return;
        this.setFailure(error.message);
        pause = Math.min(LONGEST_WAIT, 2 ** failures++);
        index = 0;
      }
      await new Promise((done) => setTimeout(done, pause * 1000));
    }
  }

  // A network that drops everything ends no connection.
  checkSilence() {
    if (now() - this.heard < SILENT) return;
    this.close();
    this.setFailure("fleetd is silent; trying again");
    this.follow();
  }

  hear(event, token) {
    if (token) this.token = token;
    if (STREAM.includes(event.kind)) return;
    this.cluster = withEvents(this.cluster, [event], now());
    this.note(staleAfter(event));
    this.onChange({});
  }

  /** This is to be read again. */
  note(stale) {
    this.stale = joinStale(this.stale, stale);
    this.timers.read ??= setTimeout(() => this.readAgain(), this.pause * 1000);
  }

  async readAgain() {
    const stale = this.stale;
    this.stale = FRESH;
    const began = now();
    const isAll = stale.all || stale.units.size > MOST_NAMED;
    const names = [...stale.units];
    try {
      const [machines, reports] = await Promise.all([
        stale.machines || stale.all ? api.readMachines() : null,
        isAll ? api.readUnits() : names.length ? api.readReports(names) : [],
      ]);
      this.cluster = withLists(this.cluster, machines, reports, isAll ? null : names);
      this.setFailure("");
      this.onChange({ works: stale.works || stale.all });
      this.pause = Math.max(SOON, (isAll ? SHARE : 1) * (now() - began));
    } catch (error) {
      this.stale = joinStale(this.stale, stale);
      this.pause = Math.min(LONGEST_WAIT, 1 + 2 * this.pause);
      this.setFailure(error.message);
    }
    this.timers.read = undefined;
    if (this.stale !== FRESH) this.note(FRESH);
  }

  /** Begin anew in `seconds`; the more attempts have failed, the later. */
  retry(seconds = Math.min(LONGEST_WAIT, 2 ** this.attempts++)) {
    this.close();
    this.timers.retry = setTimeout(() => this.begin(), seconds * 1000);
  }

  /** The page has come into sight, or is out of sight. */
  look() {
    clearTimeout(this.timers.unseen);
    if (document.hidden) this.timers.unseen = setTimeout(() => this.close(), UNSEEN * 1000);
    else if (!this.source && this.token) this.follow();
    else if (!this.source) this.retry(0);
  }

  close() {
    this.source?.close();
    this.source = null;
    this.services?.abort();
    clearTimeout(this.timers.retry);
    clearInterval(this.timers.untold);
    clearInterval(this.timers.silent);
  }

  setFailure(failure) {
    if (failure === this.failure) return;
    this.failure = failure;
    this.onChange({});
  }
}
