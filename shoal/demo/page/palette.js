// One colour for each ISP, the same wherever it is shown.

export const CDN = "#ff9f43";
export const UNKNOWN = "#7b8a9c";

const COLOURS = [
  "#4cc9f0", "#b18cff", "#f472b6", "#3ddc97", "#f2e05c",
  "#5b8cff", "#c8a27a", "#e879f9", "#a3e635", "#f87171",
];
const taken = new Map();

/** The colour of the ISP with this AS number; the first ISPs to come never share one. */
export function ofIsp(asn) {
  if (!asn) return UNKNOWN;
  if (!taken.has(asn)) {
    let slot = asn % COLOURS.length;
    const free = COLOURS.length - Math.min(taken.size, COLOURS.length);
    const used = new Set([...taken.values()]);
    while (free > 0 && used.has(COLOURS[slot])) slot = (slot + 1) % COLOURS.length;
    taken.set(asn, COLOURS[slot]);
  }
  return taken.get(asn);
}

export function withAlpha(hex, alpha) {
  const byte = Math.round(Math.min(1, Math.max(0, alpha)) * 255);
  return hex + byte.toString(16).padStart(2, "0");
}
