// Players with p2p-media-loader, unchanged, share a live stream through our tracker: pictures in several renditions
// and sound, each a swarm of its own on the one connection.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { eventually, startAll } from "./lib/bench.mjs";

let all;

before(async () => {
  all = await startAll({ page: "p2p-page", stream: true });
});
after(() => all?.stop());

test("two players exchange segments while they play, and when they change the quality", { timeout: 210_000 }, async () => {
  const pages = [await all.open(), await all.open()];
  const read = () => Promise.all(pages.map((page) => page.evaluate(() => window.read())));
  const { stream, tracker } = all;
  for (const page of pages) await page.evaluate((options) => window.play(options), { stream, tracker });
  const some = (readings, of) => readings.reduce((sum, reading) => sum + of(reading), 0);
  await eventually(
    "both play and bytes go from peer to peer",
    90,
    async () => {
      const readings = await read();
      const playing = readings.every(({ time }) => time > 3);
      return playing && some(readings, ({ down }) => down.p2p ?? 0) > 100_000;
    },
    read,
  );
  const readings = await read();
  assert.ok(readings.every(({ peers }) => peers >= 1), JSON.stringify(readings));
  assert.ok(some(readings, ({ up }) => up) > 0);
  assert.deepEqual(readings.flatMap(({ errors, warnings }) => [...errors, ...warnings]), []);
  assert.ok((await all.metric("answers_total")) >= 1);
  assert.equal(await all.metric("malformed_total"), 0);
  assert.equal(await all.metric("answers_refused_total"), 0);
  // Both change the quality: they meet in its swarm, and go on.
  const names = await pages[0].evaluate(() => window.renditions());
  const other = names.find((name) => readings.every(({ plays }) => plays !== name));
  const before = await read();
  for (const page of pages) await page.evaluate((name) => window.change(name), other);
  await eventually(
    "both play the other rendition, and share it",
    60,
    async () => {
      const now = await read();
      const going = now.every(({ time, plays }, at) => plays === other && time > before[at].time + 4);
      const more = now.some(({ shared }, at) => (shared[other] ?? 0) >= (before[at].shared[other] ?? 0) + 2);
      return going && more;
    },
    read,
  );
  const after = await read();
  assert.deepEqual(after.flatMap(({ errors, warnings }) => [...errors, ...warnings]), []);
  assert.ok(some(after, ({ shared }) => shared.audio ?? 0) > 0, JSON.stringify(after));
  assert.equal(await all.metric("malformed_total"), 0);
  // It never says goodbye: the socket closes.
  for (const page of pages) await page.context().close();
  await eventually("nobody is left", 30, async () => (await all.metric("viewers")) === 0);
});
