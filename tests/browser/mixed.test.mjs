// Three pages in Chromium and five native viewers on one live stream.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { launch, openViewer } from "./lib/browser.mjs";
import { assertBytes, assertPlayed, eventually, offload, seconds } from "./lib/checks.mjs";
import { startDemo } from "./lib/demo.mjs";

let demo;
let browser;

before(async () => {
  demo = await startDemo({ viewers: 5 });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await demo?.stop();
});

const pageBytes = ({ stats }) => ({ cdn: stats.bytesCdn, p2p: stats.bytesP2p });

async function everybody(pages) {
  const readings = await Promise.all(pages.map((page) => page.read()));
  const { audience } = await demo.state();
  const natives = audience.viewers.filter((viewer) => viewer.native);
  const natively = natives.map(({ bytes_cdn: cdn, bytes_p2p: p2p }) => ({ cdn, p2p }));
  return { readings, natives, bytes: [...readings.map(pageBytes), ...natively] };
}

/** Bytes that came over links of each kind. */
function flows({ readings, natives }) {
  const kinds = { "browser to browser": 0, "native to browser": 0, "browser to native": 0, "native to native": 0 };
  const pages = new Set(readings.map(({ stats }) => stats.peer));
  for (const { native, down } of readings.flatMap(({ stats }) => stats.neighbours)) {
    kinds[native ? "native to browser" : "browser to browser"] += down;
  }
  for (const { peer, bytes_in } of natives.flatMap((viewer) => viewer.flows)) {
    kinds[pages.has(peer) ? "browser to native" : "native to native"] += bytes_in;
  }
  return kinds;
}

test("eight viewers of both kinds share a stream for a minute", { timeout: 170_000 }, async () => {
  const pages = [];
  for (let count = 0; count < 3; count += 1) {
    pages.push(await openViewer(browser, demo));
    await seconds(1);
  }
  const alone = await openViewer(browser, demo, { p2p: false });
  await eventually("all pages are linked with all others", 40, async () => {
    const readings = await Promise.all(pages.map((page) => page.read()));
    return readings.every(({ stats, time }) => stats.neighbours.length === 7 && time > 1);
  });
  await seconds(8);
  const start = await everybody(pages);
  const aloneStart = await alone.read();
  await seconds(60);
  const end = await everybody(pages);
  const aloneEnd = await alone.read();

  end.readings.forEach((reading, index) => assertPlayed(start.readings[index], reading, `page ${index}`));
  assertPlayed(aloneStart, aloneEnd, "the page without P2P");
  assert.ok(end.natives.every((viewer) => !viewer.stalled));
  const share = offload(start.bytes, end.bytes);
  console.log(`offload ${share.toFixed(3)} of at most 0.875`, flows(end));
  assert.ok(share >= 0.7, `offload ${share}`);
  for (const [kind, bytes] of Object.entries(flows(end))) {
    assert.ok(bytes > 0, `nothing went from ${kind}`);
  }
  for (const reading of end.readings) {
    assert.equal(reading.level, aloneEnd.level, "the quality is what the CDN alone gives");
    assert.equal(reading.stats.badPieces, 0);
    assert.ok(reading.startupMs < aloneEnd.startupMs + 1500, `${reading.startupMs} against ${aloneEnd.startupMs}`);
  }
  await assertBytes(end.readings);
  assert.deepEqual(pages.flatMap((page) => page.complaints), []);
  await Promise.all([...pages, alone].map((viewer) => viewer.close()));
});
