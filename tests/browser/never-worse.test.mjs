// Whatever of ours is missing or dies, pages go on playing from the CDN.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { closePages, launch, openViewer } from "./lib/browser.mjs";
import { assertBytes, assertPlayed, eventually, seconds } from "./lib/checks.mjs";
import { startDemo } from "./lib/demo.mjs";

let demo;
let browser;

before(async () => {
  demo = await startDemo({ viewers: 2 });
  browser = await launch();
});
afterEach(() => closePages(browser));
after(async () => {
  await browser?.close();
  await demo?.stop();
});

const playing = (viewer) =>
  eventually("the page plays", 20, async () => (await viewer.read()).time > 1);

test("a page plays without tracker, WebRTC, the right key or the module", { timeout: 90_000 }, async () => {
  const cases = {
    "no tracker": { tracker: "ws://127.0.0.1:9/" },
    "WebRTC off": { rtc: false },
    "P2P off": { p2p: false },
    "another key": { key: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" },
    "no module": { wasmUrl: "/shim/missing.wasm" },
  };
  const viewers = {};
  for (const [name, options] of Object.entries(cases)) viewers[name] = await openViewer(browser, demo, options);
  for (const viewer of Object.values(viewers)) await playing(viewer);
  await seconds(4);
  const start = {};
  for (const [name, viewer] of Object.entries(viewers)) start[name] = await viewer.read();
  await seconds(15);
  for (const [name, viewer] of Object.entries(viewers)) {
    const end = await viewer.read();
    assertPlayed(start[name], end, name);
    assert.equal(end.stats.bytesP2p, 0, name);
    assert.deepEqual(viewer.complaints, [], name);
    await viewer.close();
  }
});

test("the tracker dies mid-play and comes back; then all peers vanish", { timeout: 150_000 }, async () => {
  const viewer = await openViewer(browser, demo);
  await eventually("it shares", 30, async () => (await viewer.read()).stats.bytesP2p > 0);
  const start = await viewer.read();
  assert.equal((await demo.control("tracker/stop")).status, 204);
  await seconds(12);
  const without = await viewer.read();
  assertPlayed(start, without, "the page without a tracker");
  assert.ok(without.stats.bytesP2p > start.stats.bytesP2p, "links need no tracker");
  assert.equal((await demo.control("tracker/start")).status, 204);
  await eventually("it joins again by itself", 45, async () => (await viewer.read()).stats.tracker === "joined");

  const before = await viewer.read();
  for (let count = 0; count < 2; count += 1) await demo.control("native/remove");
  await seconds(15);
  const alone = await viewer.read();
  assertPlayed(before, alone, "the page that is left alone");
  assert.equal(alone.stats.neighbours.length, 0);
  await assertBytes([alone]);
  assert.deepEqual(viewer.complaints, []);
});
