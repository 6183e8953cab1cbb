// Two players with p2p-media-loader, unchanged, share a live stream through our tracker.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { eventually, startAll } from "./lib/bench.mjs";

let all;

before(async () => {
  all = await startAll({ page: "p2p-page", stream: true });
});
after(() => all?.stop());

test("two players exchange segments while they play", { timeout: 150_000 }, async () => {
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
  // It never says goodbye: the socket closes.
  for (const page of pages) await page.context().close();
  await eventually("nobody is left", 30, async () => (await all.metric("viewers")) === 0);
});
