// What hls.js is told of a segment's loading. Its ABR logic believes these numbers, so what
// neighbours sent in a burst is made to look as the machine says that the CDN would have looked.
import type { LoaderStats } from "./types";

/** Statistics of a loader that has not begun, as hls.js's own loaders make them. */
export function freshStats(): LoaderStats {
  return {
    aborted: false,
    loaded: 0,
    total: 0,
    retry: 0,
    chunkCount: 0,
    bwEstimate: 0,
    loading: { start: 0, first: 0, end: 0 },
    parsing: { start: 0, end: 0 },
    buffering: { start: 0, first: 0, end: 0 },
  };
}

/** Makes used statistics fit for another loader: hls.js keeps the object itself. */
export function resetStats(stats: LoaderStats): void {
  const { retry } = stats;
  Object.assign(stats, freshStats(), {
    retry,
    loading: Object.assign(stats.loading, { start: 0, first: 0, end: 0 }),
    parsing: stats.parsing,
    buffering: stats.buffering,
  });
}

/**
 * Records the end of a delivery of `bytes` at `end`: as long as they take at `reportedBps`, after
 * `ttfbMs` to the first one. The start lies before the real one, or after it.
 */
export function reportDelivery(
  stats: LoaderStats,
  bytes: number,
  reportedBps: number,
  ttfbMs: number,
  end: number,
): void {
  stats.loaded = stats.total = bytes;
  stats.loading.end = end;
  if (reportedBps > 0) {
    stats.loading.first = end - (bytes * 8000) / reportedBps;
    stats.loading.start = stats.loading.first - Math.max(0, ttfbMs);
  } else {
    stats.loading.first ||= end;
  }
  const streamedMs = Math.max(1, end - stats.loading.first);
  stats.bwEstimate = (bytes * 8000) / streamedMs;
}
