// What somebody may do, as GET /fleet/v2/whoami tells. Pure. It decides what is offered; fleetd decides what is done.

import { matches } from "./query.js";

const INCLUDED = {
  view: ["view"],
  operate: ["view", "operate"],
  submit: ["view", "operate", "submit"],
  admin: ["view", "operate", "submit", "admin"],
};

/** Whether they have this permission for the unit of this name; without one, for whatever there is. */
export function may(who, permission, name = "*") {
  const grants = (who?.grants ?? []).filter((grant) => INCLUDED[grant.permission]?.includes(permission));
  if (permission === "view") return grants.length > 0;
  return grants.some(({ pattern }) => pattern === "*" || (name !== "*" && matches(pattern, name)));
}
