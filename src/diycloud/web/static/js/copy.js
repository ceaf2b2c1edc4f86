// Copy buttons beside commands and secrets. Without the clipboard (a page without TLS) the text is selected instead.
export function start(buttons) {
  for (const button of buttons) {
    const text = button.parentElement.querySelector("[data-copy-text]");
    const word = button.querySelector("[data-copy-word]");
    const before = word.textContent;
    const say = (what, done) => {
      word.textContent = what;
      button.classList.toggle("done", done);
      setTimeout(() => { word.textContent = before; button.classList.remove("done"); }, 2000);
    };
    word.setAttribute("role", "status");
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
        say("Copied", true);
      } catch {
        getSelection().selectAllChildren(text);
        say("Selected", false);
      }
    });
  }
}
