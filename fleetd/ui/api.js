// Requests to the fleetd that has served the page.

const V1 = "/fleet/v1", V2 = "/fleet/v2";

/** fleetd refused a request, or could not be asked (`status` 0); the message says why. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Send a request, with `body` as JSON; the answer as JSON, null if it has none. Throws ApiError. */
export async function ask(method, path, body, signal) {
  const response = await send(method, path, body, signal);
  const text = await reading(() => response.text());
  return text ? JSON.parse(text) : null;
}

async function send(method, path, body, signal) {
  const options = { method, signal, cache: "no-store", credentials: "same-origin", redirect: "error" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const response = await reading(() => fetch(path, options));
  if (!response.ok) throw new ApiError(response.status, await errorText(response));
  return response;
}

async function errorText(response) {
  try {
    const { error } = await response.json();
    if (error.message) return error.message;
  } catch {
    // it is not fleetd that has answered
  }
  return `${response.status} ${response.statusText}`;
}

async function reading(read) {
  try {
    return await read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "fleetd does not answer");
  }
}

/** The lines of an answer that may go on for ever, each as JSON, null for an empty one. Throws ApiError. */
export async function* lines(path, signal) {
  const response = await send("GET", path, undefined, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reading(() => reader.read());
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) yield part ? JSON.parse(part) : null;
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever has read enough keeps no connection
  }
}

const unitPath = (name) => encodeURIComponent(name);
const machinePath = (id, what) => `${V2}/machines/${encodeURIComponent(id)}/${what}`;

export const readWho = () => ask("GET", `${V2}/whoami`);
export const readUnits = async () => (await ask("GET", `${V2}/units`)).units ?? [];
export const readContent = (name) => ask("GET", `${V2}/units/${unitPath(name)}`);
export const readExplanation = (name, signal) => ask("GET", `${V2}/explain/${unitPath(name)}`, undefined, signal);
export const readDrain = (id) => ask("GET", machinePath(id, "drain"));
export const readReboots = async () => (await ask("GET", `${V2}/reboots`)).reboots;
export const plan = (request, signal) => ask("POST", `${V2}/plan`, request, signal);

/** The rollouts of these groups, with their members; of all groups, those that are over without members. */
export async function readRollouts(groups = []) {
  const query = groups.map((group) => `group=${encodeURIComponent(group)}`).join("&");
  return (await ask("GET", `${V2}/rollouts${query && `?${query}`}`)).rollouts ?? [];
}

/** What units announce, and the index of that; with the index of an earlier answer, as soon as it has changed. */
export const readServices = (index, wait, signal) =>
  ask("GET", `${V2}/services${index ? `?index=${index}&wait=${wait}s` : ""}`, undefined, signal);

export const readLocks = async () => (await ask("GET", `${V2}/locks`)).locks;
export const takeLockAway = (name) => ask("DELETE", `${V2}/locks/${encodeURIComponent(name)}`);

/** The reports of these units; those that do not exist are left out. */
export const readReports = async (names) => (await ask("POST", `${V2}/reports`, { names })).units ?? [];

export async function readMachines() {
  const found = [];
  for (let token = ""; ; ) {
    const page = await ask("GET", `${V1}/machines${token && `?nextPageToken=${encodeURIComponent(token)}`}`);
    found.push(...(page.machines ?? []));
    token = page.nextPageToken ?? "";
    if (!token) return found;
  }
}

/** The latest events, and the token after which what happens next is told. */
export async function readLatestEvents() {
  const events = [];
  for await (const line of lines(`${V2}/events?follow=false&latest=true`)) {
    if (line?.kind === "mark") return { events, token: line.token };
    if (line?.kind === "end") throw new ApiError(0, line.detail);
    if (line && line.kind !== "begin") events.push(line);
  }
  throw new ApiError(0, "fleetd does not tell what has happened");
}

export const eventsPath = (token) => `${V2}/events?after=${encodeURIComponent(token)}`;

/** The last lines of the log of a unit, or, of machines in `cursors` (a Map), those after that entry; and those that come. */
export function journalPath(unit, follow, cursors) {
  const query = new URLSearchParams({ unit, lines: 100, follow });
  for (const [machine, cursor] of cursors) query.append("after", `${machine}:${cursor}`);
  return `${V2}/journal?${query}`;
}

// What changes something.

/** Give a unit a target state, if it is still of this generation. */
export const setTarget = (name, desiredState, generation) => operate({ name, desiredState, generation });
export const destroy = (name, generation) => operate({ name, destroy: true, generation });

async function operate(operation) {
  checkResults(await ask("POST", `${V2}/units`, { operations: [operation] }));
}

export async function restart(name) {
  checkResults(await ask("POST", `${V2}/restart`, { names: [name] }));
}

function checkResults({ results }) {
  const refused = results.find((result) => result.code >= 400);
  if (refused) throw new ApiError(refused.code, refused.message ?? `${refused.name}: ${refused.code}`);
}

export const cordon = (id, why) => ask("PUT", machinePath(id, "cordon"), { why });
export const uncordon = (id) => ask("DELETE", machinePath(id, "cordon"));
export const drain = (id, why) => ask("PUT", machinePath(id, "drain"), { why });
export const endDrain = (id) => ask("DELETE", machinePath(id, "drain"));
export const reboot = (id) => ask("PUT", machinePath(id, "reboot"), {});
export const cancelReboot = (id) => ask("DELETE", machinePath(id, "reboot"));
export const commandRollout = (group, action) => ask("POST", `${V2}/rollouts/${unitPath(group)}`, { action });
