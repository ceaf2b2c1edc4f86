// A slide for each limit, tied to the exact number: either moves the other. The number is what is sent.
import { formatSize, parseSize } from "./units.js";

const GIB = 2 ** 30;
const CORES = [0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024];
const SIZES = [1 / 4, 1 / 2, 3 / 4, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192]
  .map((gib) => gib * GIB);
const DISKS = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].map((gib) => gib * GIB);
const TASKS = [32, 64, 128, 256, 512, 1024, 2048, 4096];

const kinds = {
  cpu: { stops: CORES, parse: (text) => Number(text.trim() || NaN), format: String, words: (value) => `${value} core${value === 1 ? "" : "s"}` },
  memory: { stops: SIZES, parse: parseSize, format: formatSize, words: formatSize },
  disk: { stops: DISKS, parse: parseSize, format: formatSize, words: formatSize },
  tasks: { stops: TASKS, parse: (text) => Number(text.trim() || NaN), format: String, words: (value) => `${value} processes` },
};

export function start(slides) {
  for (const slide of slides) couple(slide);
}

/** The stops that the host can give; more can still be typed, and is then refused with the reason. */
function stopsUpTo(stops, most) {
  const fitting = stops.filter((stop) => stop <= most);
  return fitting.length ? fitting : stops.slice(0, 1);
}

function couple(slide) {
  const limit = slide.closest("[data-limit-kind]");
  const { stops: all, parse, format, words } = kinds[limit.dataset.limitKind];
  const exact = limit.querySelector("input:not([type=range])");
  const range = slide.querySelector("input[type=range]");
  const stops = stopsUpTo(all, Number(limit.dataset.most));
  const last = Math.max(1, stops.length - 1);

  range.max = String(last);
  range.step = "any";
  slide.querySelector("[data-least]").textContent = format(stops[0]);
  slide.querySelector("[data-greatest]").textContent = format(stops.at(-1));
  drawTicks(slide.querySelector("[data-ticks]"), stops.length);

  const show = (value, text) => {
    const share = (100 * value) / last;
    slide.querySelector(".rule-fill").setAttribute("width", `${share.toFixed(2)}%`);
    range.setAttribute("aria-valuetext", text);
  };
  const fromExact = () => {
    const value = parse(exact.value);
    if (!Number.isFinite(value)) return;
    const at = position(stops, value);
    range.value = String(at);
    show(at, words(value));
  };
  const fromRange = () => {
    const at = Math.round(Number(range.value));
    exact.value = format(stops[at]);
    range.value = String(at);
    show(at, words(stops[at]));
  };
  range.addEventListener("input", fromRange);
  // With step `any` the keys would move by hundredths: they go from stop to stop, also from a number in between.
  range.addEventListener("keydown", (event) => {
    const now = Number(range.value);
    const to = {
      ArrowRight: Math.floor(now) + 1, ArrowUp: Math.floor(now) + 1, ArrowLeft: Math.ceil(now) - 1, ArrowDown: Math.ceil(now) - 1,
      PageUp: Math.floor(now) + 3, PageDown: Math.ceil(now) - 3, Home: 0, End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    range.value = String(Math.max(0, Math.min(last, to)));
    range.dispatchEvent(new Event("input", { bubbles: true }));
  });
  exact.addEventListener("input", fromExact);
  slide.hidden = false;
  fromExact();
}

/** Where a value lies on the slide: at a stop, or between two in proportion. */
function position(stops, value) {
  if (value <= stops[0]) return 0;
  const above = stops.findIndex((stop) => stop >= value);
  if (above < 0) return stops.length - 1;
  return above - 1 + (value - stops[above - 1]) / (stops[above] - stops[above - 1]);
}

function drawTicks(group, number) {
  for (let i = 0; i < number; i += 1) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const x = `${(100 * i) / Math.max(1, number - 1)}%`;
    for (const [name, value] of Object.entries({ x1: x, x2: x, y1: 16, y2: 22, stroke: "currentColor" })) line.setAttribute(name, value);
    group.append(line);
  }
}
