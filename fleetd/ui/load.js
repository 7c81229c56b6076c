// Loads the page again if one of its files could not be had, as when the network has just changed.

const PAUSE = 1000; // milliseconds between two attempts

let isLost = false;

function again() {
  fetch(location.pathname, { cache: "no-store" }).then(() => location.reload(), () => setTimeout(again, PAUSE));
}

addEventListener("error", ({ target }) => {
  if (isLost || !["SCRIPT", "LINK"].includes(target.tagName)) return;
  isLost = true;
  setTimeout(again, PAUSE);
}, true);
