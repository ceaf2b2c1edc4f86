// Sizes and cores as the server writes them (src/diycloud/units.py, web/templating.py).
const UNITS = ["T", "G", "M", "K"];
const FACTOR = { T: 2 ** 40, G: 2 ** 30, M: 2 ** 20, K: 2 ** 10, "": 2 ** 20 };

/** Bytes of `1.5G`; a bare number is M, as in every form. NaN if it is no size. */
export function parseSize(text) {
  const match = /^([0-9]{1,15}(?:\.[0-9]{1,6})?)\s?([KMGT]?)(i?B)?$/i.exec(text.trim());
  return match ? Number(match[1]) * FACTOR[match[2].toUpperCase()] : NaN;
}

/** The shortest text of bytes that stays exact for slider stops: `512M`, `1.5G`. */
export function formatSize(bytes) {
  for (const unit of UNITS) {
    const value = bytes / FACTOR[unit];
    if (value >= 1 && Number.isInteger(value * 4)) return `${value}${unit}`;
  }
  return `${bytes}B`;
}

/** Rounded for reading: `1.4G`. */
export function human(bytes) {
  for (const unit of UNITS) {
    if (bytes >= FACTOR[unit]) return `${(bytes / FACTOR[unit]).toFixed(1).replace(/\.0$/, "")}${unit}`;
  }
  return `${Math.round(bytes)}B`;
}

/** `1`, `0.5`, `0.42`. */
export const cores = (value) => String(Math.round(value * 100) / 100);

/** `10 000`, with thin spaces. */
export const count = (value) => String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f");

export const amount = { cpu: cores, memory: human, disk: human, tasks: count };
