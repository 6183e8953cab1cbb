// Numbers as people read them.

export function bytes(n) {
  if (!Number.isFinite(n)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i += 1; }
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

export function rate(bitsPerSecond) {
  if (!Number.isFinite(bitsPerSecond)) return "–";
  if (bitsPerSecond < 999_500) return `${Math.round(bitsPerSecond / 1000)} kbit/s`;
  const mega = bitsPerSecond / 1e6;
  return `${mega >= 100 ? Math.round(mega) : mega.toFixed(1)} Mbit/s`;
}

export function seconds(s) {
  return Number.isFinite(s) ? `${Math.max(0, s).toFixed(1)} s` : "–";
}

export function percent(share) {
  return Number.isFinite(share) ? `${Math.round(share * 100)} %` : "–";
}

export function count(n, one, many) {
  return `${n} ${n === 1 ? one : many}`;
}
