// Choosing rows: all of a page at once, all that match, and how many are chosen. The rows may be swapped by search.js.
export function start([form]) {
  const boxes = () => [...document.querySelectorAll(`input[name=user][form=${form.id}]`)];
  const all = form.querySelector("[data-all]");
  const every = all.querySelector("input");
  const count = form.querySelector("[data-count]");
  all.hidden = false;

  const whole = () => document.querySelector(`input[name=everyone][form=${form.id}]`);

  const tell = () => {
    const ticked = boxes().filter((box) => box.checked).length;
    if (whole() && ticked < boxes().length) whole().checked = false;  // whoever takes one out does not mean all of them
    const chosen = whole()?.checked ? whole().dataset.shown : ticked;
    count.textContent = chosen === 1 ? "1 user chosen" : `${chosen} users chosen`;
    every.checked = ticked > 0 && ticked === boxes().length;
    every.indeterminate = ticked > 0 && !every.checked;
  };

  every.addEventListener("change", () => {
    for (const box of boxes()) box.checked = every.checked;
    tell();
  });
  document.addEventListener("change", (event) => { if (["user", "everyone"].includes(event.target.name)) tell(); });
  window.addEventListener("pageshow", tell);  // a page that comes back brings its ticks along
}
