// Gauges that move: one stream of readings per page, by server-sent events. It rests while the page is hidden.
import { amount } from "./units.js";

const TRACE = 60;  // readings a trace holds
const HIGH = 80;
const FULL = 95;

export function start(areas) {
  for (const area of areas) watch(area);
}

function watch(area) {
  const gauges = new Map([...area.querySelectorAll("[data-gauge]")].map((gauge) => [gauge.dataset.gauge, makeGauge(gauge)]));
  const state = area.parentElement.querySelector("[data-live-state]") ?? document.querySelector("[data-live-state]");
  let stream = null;

  const say = (text, kind) => {
    if (!state) return;
    state.textContent = text;
    state.classList.toggle("on", kind === "on");
    state.classList.toggle("lost", kind === "lost");
  };
  const show = (event) => {
    const reading = JSON.parse(event.data);
    for (const [kind, update] of gauges) if (reading[kind]) update(reading[kind]);
    say("Live", "on");
  };
  const open = () => {
    stream = new EventSource(area.dataset.live);
    stream.addEventListener("message", show);
    stream.addEventListener("usage", show);
    stream.addEventListener("unavailable", () => say("No readings now: the agent does not answer", "lost"));
    stream.addEventListener("error", () => {
      const ended = stream.readyState === EventSource.CLOSED;
      say(ended ? "Live readings ended. Reload for a new reading." : "Connecting again…", "lost");
    });
  };
  const close = () => { stream?.close(); stream = null; };

  open();
  document.addEventListener("visibilitychange", () => {
    close();
    if (!document.hidden) open();
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => { if (event.persisted && !stream) open(); });
}

function makeGauge(gauge) {
  const kind = gauge.dataset.gauge;
  const used = gauge.querySelector("[data-used]");
  const limit = gauge.querySelector("[data-limit]");
  const note = gauge.querySelector("[data-note]");
  const meter = gauge.querySelector(".rule");
  const fill = gauge.querySelector(".rule-fill");
  const mark = gauge.querySelector(".rule-mark");
  const trace = makeTrace(gauge.querySelector("[data-trace]"));

  return (reading) => {
    if (!used || reading.used === null) return;
    const share = reading.limit > 0 ? Math.max(0, Math.min(100, (100 * reading.used) / reading.limit)) : 0;
    const whole = Math.round(share);
    used.textContent = amount[kind](reading.used);
    limit.textContent = amount[kind](reading.limit);
    fill.setAttribute("width", `${share.toFixed(1)}%`);
    mark.setAttribute("x", `${share.toFixed(1)}%`);
    meter.setAttribute("aria-valuenow", String(whole));
    meter.setAttribute("aria-valuetext", gauge.querySelector(".gauge-value").textContent);
    gauge.classList.toggle("is-high", whole >= HIGH && whole < FULL);
    gauge.classList.toggle("is-full", whole >= FULL);
    note.textContent = whole >= FULL ? gauge.dataset.full : whole >= HIGH ? gauge.dataset.high : `${100 - whole} % left`;
    trace?.(share);
  };
}

function makeTrace(svg) {
  if (!svg) return null;
  const points = [];
  const line = svg.querySelector("polyline");
  const area = svg.querySelector("polygon");
  return (share) => {
    points.push(share);
    if (points.length > TRACE) points.shift();
    if (points.length < 2) return;
    svg.removeAttribute("hidden");
    const first = TRACE - points.length;
    const text = points.map((value, i) => `${first + i},${(38 - value * 0.36).toFixed(1)}`).join(" ");
    line.setAttribute("points", text);
    area.setAttribute("points", `${first},40 ${text} ${TRACE - 1},40`);
  };
}
