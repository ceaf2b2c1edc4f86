// What every page must hold, found out in the page itself. Returns sentences about what does not; none if all is well.
(() => {
  const wrong = [];
  const say = (element, text) => wrong.push(`${element.outerHTML.slice(0, 120)}: ${text}`);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const shown = (element) => element.checkVisibility({ visibilityProperty: true });
  const name = (element) => (
    element.getAttribute("aria-label")
    || (element.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim()
    || [...(element.labels ?? [])].map((label) => label.textContent.trim()).join(" ")
    || element.textContent.trim()
  );

  // Names and structure (WCAG 1.3.1, 2.4.6, 3.3.2, 4.1.2)
  for (const e of all("input:not([type=hidden]), select, textarea")) if (shown(e) && !(e.labels?.length || e.getAttribute("aria-label"))) say(e, "has no label");
  for (const e of all("button, a[href], summary, [role=meter]")) if (shown(e) && !name(e)) say(e, "has no name");
  for (const e of all("img")) if (!e.hasAttribute("alt")) say(e, "has no alt");
  for (const e of all("th")) if (!e.hasAttribute("scope")) say(e, "has no scope");
  for (const e of all("table")) if (!e.caption) say(e, "has no caption");
  for (const attribute of ["aria-describedby", "aria-labelledby", "for"]) {
    for (const e of all(`[${attribute}]`)) {
      for (const id of e.getAttribute(attribute).trim().split(/\s+/)) if (!document.getElementById(id)) say(e, `${attribute} names ${id}, which is not there`);
    }
  }
  const ids = all("[id]").map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(`the id ${id} is there twice`);
  if (all("h1").length !== 1) wrong.push(`${all("h1").length} h1`);
  let level = 0;
  for (const e of all("h1, h2, h3, h4, h5, h6")) {
    const next = Number(e.tagName[1]);
    if (next > level + 1) say(e, `comes after h${level}`);
    level = next;
  }
  if (!document.documentElement.lang) wrong.push("no lang");
  if (all("main").length !== 1) wrong.push("not one main");
  for (const e of all("[tabindex]")) if (e.tabIndex > 0) say(e, "has a tabindex above 0");
  for (const e of all("a[href^='#']")) if (e.hash.length > 1 && !document.getElementById(e.hash.slice(1))) say(e, "leads nowhere");

  // Our own law: nothing inline, every form that posts carries the token
  for (const e of all("[style]")) say(e, "has an inline style");
  for (const e of all("script:not([src]), style")) say(e, "is inline");
  for (const e of all("*")) for (const a of e.attributes) if (a.name.startsWith("on")) say(e, `has ${a.name}`);
  for (const e of all("form[method=post]")) if (!e.querySelector("input[name=csrf]")?.value) say(e, "has no csrf");

  // No sideways scrolling (WCAG 1.4.10)
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`the page is ${document.documentElement.scrollWidth} wide on ${innerWidth}`);

  // Contrast of every text with what is painted behind it (WCAG 1.4.3)
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a)).concat(1);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 1]);
  };
  const light = (colour) => colour.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const e = node.parentElement;
    if (!node.textContent.trim() || !shown(e) || e.closest("[aria-disabled=true], :disabled, .visually-hidden, .skip, script")) continue;
    const ground = behind(e);
    const found = ratio(over(rgba(getComputedStyle(e).color), ground), ground);
    if (found < 4.5) say(e, `contrast ${found.toFixed(2)}`);
  }
  return wrong;
})()
