// Every page works without this. Each module is fetched only where the page has something for it.
const parts = [
  ["[data-live]", "./live.js"],
  ["[data-follow]", "./follow.js"],
  ["[data-slide]", "./limits.js"],
  ["[data-search]", "./search.js"],
  ["[data-choose]", "./choose.js"],
  ["[data-copy]", "./copy.js"],
  ["form[data-form], [data-focus], [data-password], [data-countdown]", "./forms.js"],
  ["[data-drop]", "./drop.js"],
  ["form[data-passkey]", "./passkey.js"],
  ["[data-print]", "./print.js"],
];

for (const [selector, module] of parts) {
  const found = document.querySelectorAll(selector);
  if (found.length) import(module).then(({ start }) => start([...found]));
}

// The name menu closes as menus do: by Escape, and by a click or focus elsewhere.
const menu = document.querySelector("[data-menu]");
if (menu) {
  const away = (event) => { if (!menu.contains(event.target)) menu.open = false; };
  document.addEventListener("click", away);
  document.addEventListener("focusin", away);
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}
