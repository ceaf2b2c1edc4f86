// Buttons that print the page.
export function start(buttons) {
  for (const button of buttons) {
    button.hidden = false;
    button.addEventListener("click", () => print());
  }
}
