// Small helps for forms: the errors get the focus, a password can be seen, a form is sent once, waiting is counted down.
export function start() {
  document.querySelector("[data-focus]")?.focus();
  for (const box of document.querySelectorAll("[data-password]")) reveal(box);
  for (const form of document.querySelectorAll("form[data-form]")) once(form);
  for (const note of document.querySelectorAll("[data-countdown]")) countDown(note);
}

function reveal(box) {
  const input = box.querySelector("input");
  const button = box.querySelector("[data-show]");
  const word = button.firstChild;
  button.hidden = false;
  button.addEventListener("click", () => {
    const shown = input.type === "password";
    input.type = shown ? "text" : "password";
    word.textContent = shown ? "Hide" : "Show";
    button.setAttribute("aria-pressed", String(shown));
    input.focus();
  });
  input.form?.addEventListener("submit", () => { input.type = "password"; });  // browsers keep texts, not passwords
}

function once(form) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "yes";
    setTimeout(() => {
      for (const button of form.querySelectorAll("button:not([type=button])")) button.setAttribute("aria-disabled", "true");
    });
  });
  window.addEventListener("pageshow", () => {
    delete form.dataset.sent;
    for (const button of form.querySelectorAll("button[aria-disabled]")) button.removeAttribute("aria-disabled");
  });
}

function countDown(note) {
  const seconds = note.querySelector("[data-seconds]");
  let left = Number(note.dataset.countdown);
  const timer = setInterval(() => {
    left -= 1;
    seconds.textContent = String(Math.max(0, left));
    if (left > 0) return;
    clearInterval(timer);
    note.firstElementChild.textContent = "You can try again now.";
  }, 1000);
}
