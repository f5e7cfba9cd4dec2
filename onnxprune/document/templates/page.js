"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // Numbers by their value, words as people sort them; what has no figure stands last.
  const words = new Intl.Collator(undefined, { numeric: true });
  const compare = (a, b) => {
    const [x, y] = [a.dataset.value, b.dataset.value];
    if (x !== undefined && y !== undefined) return Number(x) - Number(y);
    if (x !== undefined || y !== undefined) return x === undefined ? Infinity : -Infinity;
    return words.compare(a.textContent.trim(), b.textContent.trim());
  };
  const sort = (head, column) => {
    const body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => {
      const found = compare(a.cells[column], b.cells[column]);
      return Math.abs(found) === Infinity || up ? found : -found;
    };
    body.append(...[...body.rows].sort(order));
  };
  document.addEventListener("click", (event) => {
    const head = event.target.closest("thead th");
    if (head && event.target.closest("button")) sort(head, head.cellIndex);
  });

  const toggle = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => (toggle.textContent = dark() ? "Light" : "Dark");
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  show();

  // A link into a folded table opens it; paper has no folds.
  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.closest("details")) target.closest("details").open = true;
  };
  addEventListener("hashchange", open);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));
  open();
})();
