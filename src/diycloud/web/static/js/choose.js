// Choosing rows: all of a page at once, and how many are chosen. The rows may be swapped by search.js.
export function start([form]) {
  const boxes = () => [...document.querySelectorAll(`input[name=user][form=${form.id}]`)];
  const all = form.querySelector("[data-all]");
  const every = all.querySelector("input");
  const count = form.querySelector("[data-count]");
  all.hidden = false;

  const tell = () => {
    const chosen = boxes().filter((box) => box.checked).length;
    count.textContent = chosen === 1 ? "1 user chosen" : `${chosen} users chosen`;
    every.checked = chosen > 0 && chosen === boxes().length;
    every.indeterminate = chosen > 0 && !every.checked;
  };

  every.addEventListener("change", () => {
    for (const box of boxes()) box.checked = every.checked;
    tell();
  });
  document.addEventListener("change", (event) => { if (event.target.name === "user") tell(); });
  window.addEventListener("pageshow", tell);  // a page that comes back brings its ticks along
}
