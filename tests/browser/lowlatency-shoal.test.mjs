// hls.js with Shoal on low-latency HLS: pages share parts, and stay as close to the live edge as one without
// Shoal; those that ask for whole segments of the same stream share these.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertBytes, assertPlayed, eventually, offload, seconds } from "./lib/checks.mjs";
import { startProxy, startSource } from "./lib/edge.mjs";
import { bytesOf, median, readAll } from "./lib/players.mjs";
import { stage } from "./lib/stage.mjs";
import { startTracker } from "./lib/tracker.mjs";

/** What Shoal may add to the latency: nothing that can be told from chance. */
const ADDED_S_MAX = 0.3;
const WATCHED_S = 20;
/** What low-latency players fetch is fetched once: bytes from the CDN against a player without Shoal. */
const BYTES_RATIO_MAX = 1.1;
/** Makes the segments as large as those of 1.5 Mbit/s: parts of several pieces. */
const PADDING_BYTES = 300_000;

let source;
let proxy;
let tracker;
const openPlayer = stage(async (keep) => {
  source = await keep(startSource(["--ll-hls"], `padding_bytes = ${PADDING_BYTES}`));
  proxy = await keep(startProxy(source.url));
  tracker = await keep(startTracker());
});

function open(shares, settings = { maxLiveSyncPlaybackRate: 1.5 }) {
  const shoal = { tracker: tracker.socket, key: proxy.key, p2p: shares };
  return openPlayer({ player: "hls.js", stream: proxy.hls, shoal, settings });
}

function linked(viewers) {
  return eventually("they play, and are linked", 40, async () =>
    (await readAll(viewers)).every(({ time, shoal }) => time > 1 && shoal.neighbours.length >= viewers.length - 1));
}

/** Watches for a while; the readings before and after. */
async function watch(viewers) {
  await seconds(5);
  const start = await readAll(viewers);
  await seconds(WATCHED_S);
  const end = await readAll(viewers);
  viewers.forEach((viewer, index) => {
    assertPlayed(start[index], end[index], `viewer ${index}`);
    assert.deepEqual(end[index].errors.filter((error) => error.endsWith("fatal=true")), []);
    assert.deepEqual(viewer.complaints, []);
  });
  return [start, end];
}

/** What the sharing viewers took from each other, of at most 2/3, between two readings. */
function shareOf(start, end) {
  const share = offload(start.map(bytesOf), end.map(bytesOf));
  console.log(`offload ${share.toFixed(3)} of at most 0.667`);
  assert.ok(end.every(({ shoal }) => shoal.badPieces === 0));
  return share;
}

test("low-latency players share parts, at no cost in latency or bytes", { timeout: 100_000 }, async () => {
  const sharing = [await open(true), await open(true), await open(true)];
  const alone = await open(false);
  await linked(sharing);
  const [start, end] = await watch([...sharing, alone]);
  const latencies = end.map((reading, index) => median(reading.latencies.slice(start[index].latencies.length)));
  const grown = end.map((reading, index) => {
    const [before, after] = [bytesOf(start[index]), bytesOf(reading)];
    return after.cdn + after.p2p - before.cdn - before.p2p;
  });
  console.log(`latency ${latencies.map((s) => s.toFixed(2))} s, bytes ${grown}: the last without Shoal`);
  for (const index of sharing.keys()) {
    assert.ok(latencies[index] < latencies.at(-1) + ADDED_S_MAX, `${latencies}`);
    assert.ok(grown[index] < grown.at(-1) * BYTES_RATIO_MAX, `${grown}`);
    const asked = end[index].requests.slice(start[index].requests.length);
    assert.ok(asked.length > 20 && asked.every((url) => url.includes("/part-")), `${asked.slice(-5)}`);
    assert.deepEqual(end[index].givenUp, []);
  }
  const share = shareOf(start.slice(0, -1), end.slice(0, -1));
  assert.ok(share > 0.4, `offload ${share}`);
  await assertBytes(end);
});

test("viewers who want whole segments of a low-latency stream share them", { timeout: 100_000 }, async () => {
  const viewers = [];
  for (let count = 0; count < 3; count += 1) viewers.push(await open(true, { lowLatencyMode: false }));
  await linked(viewers);
  const [start, end] = await watch(viewers);
  const share = shareOf(start, end);
  assert.ok(share > 0.5, `offload ${share}`);
});

test("each sort shares with its own, and plays on when all others are gone", { timeout: 120_000 }, async () => {
  const low = [await open(true), await open(true)];
  const whole = [await open(true, { lowLatencyMode: false }), await open(true, { lowLatencyMode: false })];
  const viewers = [...low, ...whole];
  await eventually("they play, and are linked", 40, async () =>
    (await readAll(viewers)).every(({ time, shoal }) => time > 1 && shoal.neighbours.length >= 1));
  const [start, end] = await watch(viewers);
  for (const pair of [[0, 1], [2, 3]]) {
    const [before, after] = [start, end].map((readings) => pair.map((index) => bytesOf(readings[index])));
    const share = offload(before, after);
    console.log(`offload ${share.toFixed(3)} of at most 0.5`);
    assert.ok(share > 0.3, `viewers ${pair}: offload ${share}`);
  }
  const left = [low[0], whole[0]];
  const before = await readAll(left);
  await Promise.all([low[1], whole[1]].map((viewer) => viewer.page.close()));
  await tracker.stop();
  await seconds(10);
  (await readAll(left)).forEach((reading, index) => assertPlayed(before[index], reading, `viewer ${index} of those left`));
});
