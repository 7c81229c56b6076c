// Asks before something is changed, and shows first what would come of it.

import { plan } from "./api.js";
import { h, table } from "./dom.js";
import { planSteps, summarisePlan } from "./words.js";

/** Ask whether to do something. `title` is the question, `doing` the word on the button ("" for a plan that is only
 * shown), `remark` what there is to know. `request` is what POST /fleet/v2/plan is asked, null where that cannot plan
 * it. `field` is the label of a line of text that `act(text)` gets; that does it, and may throw. */
export function confirm({ title, doing, remark = "", request = null, field = "", act }) {
  const dialog = h("dialog", { "aria-labelledby": "question" });
  const stopping = new AbortController();
  const text = field && h("input", { type: "text", maxlength: "200", "aria-label": field, placeholder: field });
  const shown = h("div", { class: "plan", role: "status" });
  const failure = h("p", { class: "failure", role: "alert" });
  const close = () => dialog.close();
  const go = doing && h("button", { type: "submit", class: "go", disabled: request !== null }, doing);
  const form = h("form", { method: "dialog", onsubmit: (event) => submit(event) },
    h("h2", { id: "question" }, title),
    remark && h("p", {}, remark),
    request && shown,
    text && h("p", {}, text),
    failure,
    h("p", { class: "buttons" }, h("button", { type: "button", onclick: close }, doing ? "Cancel" : "Close"), go));

  async function submit(event) {
    event.preventDefault();
    if (!go || go.disabled) return;
    go.disabled = true;
    failure.textContent = "";
    try {
      await act(text ? text.value.trim() : "");
      close();
    } catch (error) {
      failure.textContent = error.message;
      go.disabled = false;
    }
  }

  async function show() {
    shown.replaceChildren(h("p", { class: "quiet" }, "Asking fleetd what would come of it …"));
    try {
      shown.replaceChildren(...renderPlan(await plan(request, stopping.signal)));
    } catch (error) {
      if (error.name === "AbortError") return;
      shown.replaceChildren(h("p", { class: "failure" }, `What would come of it is not known: ${error.message}`));
    }
    if (go) go.disabled = false;
  }

  dialog.append(form);
  dialog.addEventListener("close", () => {
    stopping.abort();
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
  if (request) show();
}

function renderPlan(found) {
  const rows = planSteps(found).map((step) => [step.action, step.unit, step.places, step.reason]);
  return [
    h("p", {}, `By the cluster at revision ${found.revision}: ${summarisePlan(found)}.`),
    rows.length ? table("What would come of it", ["Step", "Unit", "Machine", "Why"], rows) : null,
  ].filter(Boolean);
}
