import assert from "node:assert/strict";
import { test } from "node:test";
import { freshStats, reportDelivery, resetStats } from "../src/hlsjs/timings";
import { bufferAheadMs } from "../src/hlsjs/playback";

/** What hls.js's abr-controller makes of the timings of one segment, in bit/s. */
function estimate(stats: ReturnType<typeof freshStats>): number {
  const { start, first, end } = stats.loading;
  return (stats.loaded * 8000) / (end - start - (first - start));
}

test("the player's estimate is what the machine reports, however fast the bytes came", () => {
  for (const bps of [300_000, 1_200_000, 25_000_000]) {
    const stats = freshStats();
    stats.loading.start = 9_990;
    reportDelivery(stats, 750_000, bps, 35, 10_000);
    assert.ok(Math.abs(estimate(stats) - bps) < 1);
    assert.ok(Math.abs(stats.loading.first - stats.loading.start - 35) < 1e-6);
    assert.ok(Math.abs(stats.bwEstimate - bps) < bps / 100);
  }
});

test("without a report the real timings count", () => {
  const stats = freshStats();
  stats.loading.start = 1_000;
  stats.loading.first = 1_100;
  reportDelivery(stats, 100_000, 0, 35, 2_000);
  assert.deepEqual(stats.loading, { start: 1_000, first: 1_100, end: 2_000 });
});

test("statistics can be handed to a second loader without being replaced", () => {
  const stats = freshStats();
  const { loading } = stats;
  stats.retry = 2;
  reportDelivery(stats, 10, 10, 1, 5);
  resetStats(stats);
  assert.equal(stats.loading, loading);
  assert.deepEqual(stats, { ...freshStats(), retry: 2 });
});

test("the buffer ahead ends at the first gap", () => {
  const ranges = (list: [number, number][]): TimeRanges =>
    ({ length: list.length, start: (i: number) => list[i]?.[0], end: (i: number) => list[i]?.[1] }) as TimeRanges;
  assert.equal(bufferAheadMs(ranges([[0, 4], [4.05, 9], [12, 20]]), 3), 6_000);
  assert.equal(bufferAheadMs(ranges([[5, 6]]), 1), 0);
  assert.equal(bufferAheadMs(ranges([]), 1), 0);
});
