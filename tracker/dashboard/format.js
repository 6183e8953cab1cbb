// Numbers and colours as people read them.

export const CDN = "#ff9f43";
export const P2P = "#2dd4bf";
const UNKNOWN = "#7b8a9c";
const COLOURS = [
  "#4cc9f0", "#b18cff", "#f472b6", "#3ddc97", "#f2e05c",
  "#5b8cff", "#c8a27a", "#e879f9", "#a3e635", "#f87171",
];
const taken = new Map();

/** The colour of an ISP: the first ten to be asked for get one each, the others share. */
export function ofIsp(asn) {
  const key = Number(asn) || 0;
  if (key === 0) return UNKNOWN;
  if (!taken.has(key)) taken.set(key, COLOURS[taken.size % COLOURS.length]);
  return taken.get(key);
}

export function bytes(n) {
  if (!Number.isFinite(n)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i += 1; }
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

export function rate(bitsPerSecond) {
  if (!Number.isFinite(bitsPerSecond)) return "–";
  const units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
  let [n, i] = [bitsPerSecond, 0];
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i += 1; }
  return `${i < 2 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  return `${share > 0.995 && share < 1 ? (share * 100).toFixed(1) : Math.round(share * 100)} %`;
}

export const number = (n) => (Number.isFinite(n) ? Math.round(n).toLocaleString("en") : "–");
export const seconds = (ms) => (Number.isFinite(ms) ? `${(ms / 1000).toFixed(1)} s` : "–");

export function duration(s) {
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172_800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86_400)} d`;
}

/** An element; children that are text are text, whatever they hold. */
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "style") Object.assign(made.style, value);
    else if (key === "onclick") made.addEventListener("click", value);
    else if (value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}
