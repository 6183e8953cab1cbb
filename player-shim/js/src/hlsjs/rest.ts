// The rest of a segment whose beginning the player was handed already: a range of it. To end such a load
// with an error would be worse than a CDN alone: hls.js 1.7.4 may then wait for what follows until it stalls.
import type { LoaderContext, LoaderResponse, LoaderStats } from "./types";

/** Bytes of an object, the last one exclusive. */
export interface Range {
  rangeStart: number;
  rangeEnd: number;
}

/** Where the rest is, of an object or of a range of one. */
export function restAt(context: LoaderContext, handed: number, total: number): Range {
  const first = context.rangeStart ?? 0;
  return { rangeStart: first + handed, rangeEnd: first + total };
}

/** The rest in what a server sent, which may be the whole object; none if it is something else. */
export function restOf({ data, code }: LoaderResponse, { rangeStart, rangeEnd }: Range): ArrayBuffer | null {
  if (!(data instanceof ArrayBuffer)) return null;
  const len = rangeEnd - rangeStart;
  if (data.byteLength === len) return data;
  return code === 200 && data.byteLength >= rangeEnd ? data.slice(rangeStart, rangeEnd) : null;
}

/** What a load of `bytes` says of the CDN. */
export function paceOf({ loading }: LoaderStats, bytes: number): { bps: number; ttfbMs: number } {
  const streamedMs = Math.max(1, loading.end - loading.first);
  return { bps: (bytes * 8000) / streamedMs, ttfbMs: Math.max(0, loading.first - loading.start) };
}
