// A part of a page that follows what happens: the server says that it would look different, and it is fetched again.
export function start(areas) {
  for (const area of areas) follow(area);
}

function follow(area) {
  const says = document.querySelector("[data-follow-says]");
  let stream = null;
  let wanted = false;

  const shown = () => area.querySelector("[data-mark]");
  const isBusy = () => area.contains(document.activeElement) && document.activeElement.matches("select, input");
  const refresh = async () => {
    wanted = isBusy();  // nobody's choice is taken out of their hands
    if (wanted) return;
    const answer = await fetch(area.dataset.fragment, { headers: { Accept: "text/html" } }).catch(() => null);
    if (!answer?.ok || answer.redirected) {
      close();  // signed out, or the server is away: the page as it is says no less
      return;
    }
    const kept = area.contains(document.activeElement) ? document.activeElement.name : "";
    area.innerHTML = await answer.text();
    if (kept) area.querySelector(".btn")?.focus();
    if (says) says.textContent = shown()?.dataset.said ?? "";
  };
  const open = () => {
    stream = new EventSource(area.dataset.follow);
    stream.addEventListener("message", (event) => {
      if (JSON.parse(event.data).mark !== shown()?.dataset.mark) refresh();
    });
  };
  const close = () => { stream?.close(); stream = null; };

  open();
  area.addEventListener("focusout", () => { if (wanted) setTimeout(refresh); });
  document.addEventListener("visibilitychange", () => {
    close();
    if (!document.hidden) open();
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => { if (event.persisted && !stream) open(); });
}
