// hls.js with `progressive: true` and Shoal: six seconds behind, segments are played while they arrive.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertBytes, assertNoStall, eventually, offload } from "./lib/checks.mjs";
import { startProxy, startSource } from "./lib/edge.mjs";
import { bytesOf, readAll } from "./lib/players.mjs";
import { stage } from "./lib/stage.mjs";
import { startTracker } from "./lib/tracker.mjs";

const PAGES = 3;
/** Segments of video that each page is watched for. */
const SEGMENTS = 10;
/** What is counted begins after so many. */
const SEGMENTS_BEFORE = 4;
/** The source makes segments of chunks, as encoders for low latency do; hls.js takes them whole. */
const SETTINGS = { progressive: true, lowLatencyMode: false, liveSyncDuration: 6, liveMaxLatencyDuration: 20 };

let source;
let proxy;
let tracker;
const openPlayer = stage(async (keep) => {
  source = await keep(startSource(["--ll-hls", "--segment-s", "4"], "padding_bytes = 250000"));
  proxy = await keep(startProxy(source.url));
  tracker = await keep(startTracker());
});

/** Pages that are linked with one another, and play. */
async function openPages(settings) {
  const viewers = [];
  for (let count = 0; count < PAGES; count += 1) {
    const shoal = { tracker: tracker.socket, key: proxy.key };
    viewers.push(await openPlayer({ player: "hls.js", stream: proxy.hls, shoal, settings }));
  }
  await eventually("they play, and are linked", 40, async () =>
    (await readAll(viewers)).every(({ time, shoal }) => time > 1 && shoal.neighbours.length >= PAGES - 1));
  await segmentsPass(viewers, SEGMENTS_BEFORE);
  return viewers;
}

const videos = (reading) => reading.segments.filter(({ type }) => type === "main");

/** hls.js waits 0.8 of a segment for a playlist, and asks again. */
const errorsOf = ({ errors }) => errors.filter((error) => !/^(level|audioTrack)LoadTimeOut fatal=false/.test(error));

/** Each page gets so many more segments. */
async function segmentsPass(viewers, count) {
  const start = await readAll(viewers);
  await eventually(`${count} segments for each`, 12 * count, async () =>
    (await readAll(viewers)).every((reading, index) => videos(reading).length >= videos(start[index]).length + count));
}

/** Watches for a while, and checks what holds in any case; the readings before and after, and the offload. */
async function watch(viewers) {
  const start = await readAll(viewers);
  await segmentsPass(viewers, SEGMENTS);
  const end = await readAll(viewers);
  viewers.forEach((viewer, index) => {
    assert.ok(end[index].time > start[index].time, `page ${index} stands still`);
    assertNoStall(start[index], end[index], `page ${index} stalled`);
    assert.deepEqual(errorsOf(end[index]), []);
    assert.deepEqual(end[index].givenUp, [], "no load that was slow on purpose was given up");
    assert.deepEqual(viewer.complaints, []);
    assert.equal(end[index].shoal.badPieces, 0);
  });
  await assertBytes(end);
  return { start, end, share: offload(start.map(bytesOf), end.map(bytesOf)) };
}

/** Segments of which something was appended before they were whole. */
const early = (reading) => new Set(reading.appendedEarly).size;

test("three pages share segments that they play while they arrive", { timeout: 150_000 }, async () => {
  const viewers = await openPages(SETTINGS);
  const { start, end, share } = await watch(viewers);
  const counts = end.map((reading, index) => early(reading) - early(start[index]));
  console.log(`progressive: offload ${share.toFixed(3)} of at most 0.667; played while they arrived: ${counts}`);
  assert.ok(share > 0.3, `offload ${share}`);
  for (const count of counts) assert.ok(count > 0, `${counts}`);
});

test("without `progressive` segments are played when they are whole", { timeout: 150_000 }, async () => {
  const viewers = await openPages({ ...SETTINGS, progressive: false });
  const { end, share } = await watch(viewers);
  console.log(`whole: offload ${share.toFixed(3)} of at most 0.667`);
  assert.ok(share > 0.3, `offload ${share}`);
  assert.deepEqual(end.map(early), end.map(() => 0));
});

/**
 * The page ends Shoal when something of a segment of video was appended and the rest is still to come. What it fetches
 * from then on is in `fetched`.
 */
const giveUp = () => new Promise((resolve) => {
  const { hls, shoal, fetch } = window;
  const onAppended = (_, { frag }) => {
    if (frag.type !== "main" || frag.sn === "initSegment" || !frag.loader) return;
    hls.off(Hls.Events.BUFFER_APPENDED, onAppended);
    window.fetched = [];
    window.fetch = (what, init) => {
      const { url, headers } = new Request(what, init);
      window.fetched.push({ url, range: headers.get("Range") });
      return fetch(what, init);
    };
    shoal.destroy();
    resolve(frag.url);
  };
  hls.on(Hls.Events.BUFFER_APPENDED, onAppended);
});

test("a page that gives Shoal up while it plays a segment goes on", { timeout: 150_000 }, async () => {
  const viewers = await openPages(SETTINGS);
  const start = await readAll(viewers);
  // One that brings all for the others has its segments whole at once.
  const counts = start.map(early);
  const index = counts.indexOf(Math.max(...counts));
  const url = await viewers[index].page.evaluate(giveUp);
  await segmentsPass(viewers, SEGMENTS_BEFORE);
  const end = await readAll(viewers);
  const fetched = await viewers[index].page.evaluate(() => window.fetched);
  const ranges = fetched.filter((request) => request.url === url).map(({ range }) => range);
  assert.equal(ranges.length, 1, `the rest was asked for once: ${ranges}`);
  assert.match(ranges[0], /^bytes=[1-9]/);
  await assertBytes(end);
  assertNoStall(start[index], end[index], "it stalled");
  assert.deepEqual(errorsOf(end[index]), [], "the load did not end with an error");
  assert.equal(videos(end[index]).filter((segment) => segment.url === url).length, 1, "the rest of the segment came");
});
