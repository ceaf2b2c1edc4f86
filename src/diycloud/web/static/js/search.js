// The list follows what is typed: it fetches the same address with fragment=1 and swaps the rows. Links inside do likewise.
const WAIT_MS = 80;

export function start([panel]) {
  const form = panel.querySelector("form[role=search]");
  const input = form.querySelector("input[type=search]");
  const rows = panel.querySelector("[data-rows]");
  const announce = panel.querySelector("[data-announce]");
  let timer = 0;
  let running = null;
  let shown = location.search;

  const load = async (url, { push }) => {
    running?.abort();
    const mine = new AbortController();
    running = mine;
    rows.classList.add("busy");
    const fragment = new URL(url);
    fragment.searchParams.set("fragment", "1");
    try {
      const answer = await fetch(fragment, { signal: mine.signal, headers: { Accept: "text/html" } });
      if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
      rows.innerHTML = await answer.text();
    } catch (error) {
      if (error.name !== "AbortError") location.assign(url);  // whatever is wrong, the whole page shows it
      return;
    }
    rows.classList.remove("busy");
    history[push ? "pushState" : "replaceState"](null, "", url);
    shown = location.search;
    keepFilters(new URL(url));
    const total = Number(rows.querySelector("[data-total]")?.dataset.total ?? 0);
    announce.textContent = total === 1 ? "1 user found" : `${total} users found`;
  };

  const address = () => {
    const url = new URL(form.action);
    for (const [key, value] of new FormData(form)) if (value) url.searchParams.set(key, value);
    return url.href;
  };

  // Chips and hidden fields belong to the search: they carry the words that are typed, and the order that is chosen.
  const keepFilters = (now) => {
    for (const chip of panel.querySelectorAll("[data-keep] a")) {
      const url = new URL(chip.href);
      for (const key of ["search", "sort", "descending"]) {
        const value = now.searchParams.get(key);
        if (value) url.searchParams.set(key, value);
        else url.searchParams.delete(key);
      }
      chip.href = url.href;
    }
    for (const key of ["sort", "descending"]) {
      form.querySelector(`input[name=${key}]`)?.remove();
      const value = now.searchParams.get(key);
      if (value) form.append(Object.assign(document.createElement("input"), { type: "hidden", name: key, value }));
    }
  };

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => load(address(), { push: false }), WAIT_MS);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    load(address(), { push: false });
  });
  rows.addEventListener("click", (event) => {
    const link = event.target.closest("thead a, nav a");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const back = link.closest("nav") ? null : link.textContent.trim();
    load(link.href, { push: true }).then(() => {
      if (back) [...rows.querySelectorAll("thead a")].find((a) => a.textContent.trim() === back)?.focus();
      else panel.scrollIntoView({ block: "start" });
    });
  });
  window.addEventListener("popstate", () => {
    if (location.search === shown) return;  // only the part after # has changed
    input.value = new URLSearchParams(location.search).get("search") ?? "";
    load(location.href, { push: false });
  });
}
