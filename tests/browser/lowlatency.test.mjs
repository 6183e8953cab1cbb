// Low-latency HLS and DASH from `shoal publish`, played by hls.js, Shaka and dash.js: from there, and at
// the same time through an origin-proxy that signs. Once more through one whose origin holds no request back, so
// that the low latency is the proxy's, and once where parts are byte ranges of segments that grow.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertPlayed, eventually, seconds } from "./lib/checks.mjs";
import { startProxy, startSource } from "./lib/edge.mjs";
import { median } from "./lib/players.mjs";
import { startSimpleOrigin } from "./lib/simple-origin.mjs";
import { stage } from "./lib/stage.mjs";

/** Two segments: without low latency players stay three behind. And what the proxy may add. */
const LATENCY_S_MAX = 4;
const ADDED_S_MAX = 0.3;
/** Players find their place first: one that began late plays faster until then, Shaka by a tenth, dash.js by a thirtieth. */
const SETTLED_S = 5;
const CAUGHT_UP_S_MAX = 90;
/** It has found it when it came nearer by less than this in so many readings, of which the page takes 20 a second. */
const NEARER_S_MAX = 0.15;
const READINGS = 120;
const WATCHED_S = 18;

let source;
let proxy;
let simple;
let proxyOfSimple;
let sourceOfRanges;
let proxyOfRanges;
const openPlayer = stage(async (keep) => {
  source = await keep(startSource(["--ll-hls", "--ll-dash"]));
  proxy = await keep(startProxy(source.url));
  simple = await keep(startSimpleOrigin(source.url));
  proxyOfSimple = await keep(startProxy(simple.url));
  sourceOfRanges = await keep(startSource(["--ll-hls"], "part_byteranges = true"));
  proxyOfRanges = await keep(startProxy(sourceOfRanges.url));
});

/** What was new between two readings. */
const since = (before, after, what) => after[what].slice(before[what].length);

/** What is compared: how far behind the player is, and how old the newest media is when it has it. */
const COMPARED = ["latencyS", "ageS"];
/**
 * On HLS, Shaka 5.2 finds no steady distance with its live sync. Without it, it keeps the one it began with,
 * which was 1.4 to 2.4 s in twelve visits, with the proxy and without.
 */
const COMPARED_WITHOUT_SYNC = ["ageS"];

/** What a page says for low latency. */
const LIVE_SYNC = { liveSync: { enabled: true } };
const SETTINGS = {
  "hls.js hls": { maxLiveSyncPlaybackRate: 1.5 },
  // Without it, Shaka 5.2.12 resets its buffer before some parts (its issue 10589), and half of each segment is dropped.
  "Shaka hls": { manifest: { hls: { sequenceMode: true } } },
  "Shaka dash": {
    streaming: LIVE_SYNC,
    manifest: { defaultPresentationDelay: 2, dash: { ignoreSuggestedPresentationDelay: true, ignoreMinBufferTime: true } },
  },
};

async function watch(player, kind, stream, name, isRight) {
  const viewer = await openPlayer({ player, stream, settings: SETTINGS[`${player} ${kind}`] });
  await eventually(`${player} plays ${name}`, 20, async () => (await viewer.read()).time > 1);
  await seconds(SETTLED_S);
  await eventually(`${player} keeps its distance ${name}`, CAUGHT_UP_S_MAX, async () => {
    const [first, ...rest] = (await viewer.read()).latencies.slice(-READINGS);
    return rest.length === READINGS - 1 && Math.abs(first - rest.at(-1)) < NEARER_S_MAX;
  });
  const start = await viewer.read();
  await seconds(WATCHED_S);
  const end = await viewer.read();
  await viewer.close();
  assertPlayed(start, end, `${player} ${name}`);
  assert.deepEqual(end.errors.filter((error) => error.endsWith("fatal=true")), []);
  assert.deepEqual(viewer.complaints, []);
  const isMedia = (url) => !url.includes("/init");
  const requests = since(start, end, "requests").filter(isMedia);
  assert.ok(requests.length > 10 && requests.every((url) => isRight(url)), `${player} asks for ${requests.slice(-5)}`);
  const got = since(start, end, "segments").filter(({ url }) => isMedia(url));
  assert.ok(got.length > 10 && got.every(({ url, range }) => isRight(url, range)), `${player} gets ${JSON.stringify(got.slice(-5))}`);
  return { latencyS: median(since(start, end, "latencies")), ageS: median(since(start, end, "arrivals")) };
}

const isPart = (url) => url.includes("/part-");
const isSegment = (url) => url.includes("/seg-");
const isRange = (url, range = "0-") => isSegment(url) && range !== "";

async function assertAsNear({ player, kind, isRight, compared, edge, from = source }) {
  const [direct, proxied] = await Promise.all([
    watch(player, kind, from[kind], "without the proxy", isRight),
    watch(player, kind, edge[kind], "through the proxy", isRight),
  ]);
  console.log(`${player} ${kind}: direct`, direct, "proxied", proxied);
  for (const { latencyS } of [direct, proxied]) {
    assert.ok(latencyS > 0 && latencyS < LATENCY_S_MAX, `${latencyS} s behind`);
  }
  for (const what of compared) {
    const addedS = proxied[what] - direct[what];
    assert.ok(addedS < ADDED_S_MAX, `${what}: ${proxied[what]} through the proxy, ${direct[what]} without it`);
  }
}

for (const [player, kind, isRight, compared] of [
  ["hls.js", "hls", isPart, COMPARED],
  ["Shaka", "hls", isPart, COMPARED_WITHOUT_SYNC],
  ["dash.js", "dash", isSegment, COMPARED],
  ["Shaka", "dash", isSegment, COMPARED],
]) {
  test(`${player} plays low-latency ${kind} through the proxy as without it`, { timeout: 200_000 }, () =>
    assertAsNear({ player, kind, isRight, compared, edge: proxy }));
}

test("hls.js is as near where the origin holds no request back and the proxy does", { timeout: 200_000 }, async () => {
  await assertAsNear({ player: "hls.js", kind: "hls", isRight: isPart, compared: COMPARED, edge: proxyOfSimple });
  assert.deepEqual(simple.misled, []);
});

test("hls.js and Shaka are as near where parts are ranges of their segments", { timeout: 200_000 }, async () => {
  const of = { kind: "hls", from: sourceOfRanges, edge: proxyOfRanges };
  await Promise.all([
    assertAsNear({ ...of, player: "hls.js", isRight: isRange, compared: COMPARED }),
    // It asks for a segment from its first part on, and gets the others as they are made.
    assertAsNear({ ...of, player: "Shaka", isRight: isSegment, compared: COMPARED_WITHOUT_SYNC }),
  ]);
});
