"use strict";

const collator = new Intl.Collator("en", { numeric: true });

/** Which of two sort keys comes first; an empty one, a missing value, is last in both directions. */
function compareKeys(a, b, kind, down) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const order = kind === "number" ? Number(a) - Number(b) : collator.compare(a, b);
  return down ? -order : order;
}

/** Makes each heading of a table a button: ascending, descending, then the first order again. */
function makeSortable(table) {
  const body = table.tBodies[0];
  const first = [...body.rows];
  table.caption.append("; choose a heading to sort by it");
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
      const direction = next === undefined ? "ascending" : next;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (direction) head.setAttribute("aria-sort", direction);
      const key = (row) => row.cells[column].dataset.key;
      const sorted = (a, b) => compareKeys(key(a), key(b), head.dataset.kind, direction === "descending");
      body.append(...(direction ? first.slice().sort(sorted) : first));
    });
  });
}

/** Opens what is folded around the place that the address names, where the browser does not do so itself. */
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  const folded = target && target.closest("details");
  if (folded && !folded.open) {
    folded.open = true;
    target.scrollIntoView();
  }
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
window.addEventListener("hashchange", reveal);
reveal();
