// What is shown of a list: the rows that match a text, in an order, grouped by template or not. Pure.

import { compare, templateRow } from "./units.js";

export const BY_TROUBLE = "level"; // the order in which those come first that want to be looked at

/** The source of a regular expression for a glob pattern of names: `*`, `?` and `[a-z]`, `[^a]`, `[!a]`. */
export function globExpression(pattern) {
  const token = /\\(.)|(\*+)|(\?)|\[([!^]?)((?:\\.|[^\]\\])+)\]|([^])/g;
  return pattern.replace(token, (_, escaped, star, any, negated, ranges, literal) => {
    if (star) return "[^/]*";
    if (any) return "[^/]";
    if (ranges !== undefined) return `[${negated ? "^" : ""}${ranges.replace(/[\]\\^[]/g, "\\$&")}]`;
    return (escaped ?? literal).replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&");
  });
}

/** Whether a name matches a glob pattern; a malformed pattern matches nothing. */
export function matches(pattern, name) {
  try {
    return new RegExp(`^(?:${globExpression(pattern)})$`, "s").test(name);
  } catch {
    return false;
  }
}

/** A predicate: the row matches each word. A word is contained, or is a pattern that the key matches (`web@*`); one
 * after `!` must not match. */
export function filterOf(text) {
  const tests = text.toLowerCase().split(/\s+/).filter((word) => word && word !== "!").map(wordTest);
  return (row) => tests.every((test) => test(row));
}

function wordTest(word) {
  if (word.startsWith("!")) {
    const test = wordTest(word.slice(1));
    return (row) => !test(row);
  }
  if (!/[*?[]/.test(word)) return (row) => row.words.includes(word);
  return (row) => matches(word, row.key.toLowerCase());
}

/** The rows as they are shown. `query` has `text`, `sort` (a field of the rows), `isReversed`, `isGrouped`, and the
 * templates that are `opened` (a Set). */
export function arrange(rows, { text = "", sort = "key", isReversed = false, isGrouped = false, opened = new Set() }) {
  const chosen = inOrder(rows.filter(filterOf(text)), sort, isReversed);
  if (!isGrouped) return chosen;
  const groups = new Map();
  for (const row of chosen) {
    const name = row.template || row.key;
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(row);
  }
  const heads = [...groups].map(([name, members]) =>
    members[0].template ? templateRow(name, members, opened.has(name)) : members[0],
  );
  return inOrder(heads, sort, isReversed).flatMap((head) => (head.isOpen ? [head, ...groups.get(head.key)] : [head]));
}

// Numbers and ages: the largest and the most recent come first.
function inOrder(rows, sort, isReversed) {
  const sign = (isReversed ? -1 : 1) * (typeof rows[0]?.[sort] === "number" ? -1 : 1);
  return [...rows].sort((a, b) => sign * compare(a[sort], b[sort]) || compare(a.key, b.key));
}
