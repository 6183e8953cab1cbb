// webtorrent, unchanged: three pages share a file that only one of them had, and know each other from our tracker.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { eventually, startAll } from "./lib/bench.mjs";

const LENGTH = 3_000_000;

let all;

before(async () => {
  all = await startAll({ page: "torrent-page", settings: "public_api = true" });
});
after(() => all?.stop());

test("pages share a file, and the swarm is counted", { timeout: 120_000 }, async () => {
  const { tracker } = all;
  const seeder = await all.open();
  const { magnet, infoHash, digest } = await seeder.evaluate((options) => window.seed(options), { tracker, length: LENGTH });
  assert.ok(magnet.includes(encodeURIComponent(tracker)), magnet);
  const pages = [seeder];
  for (const _ of [1, 2]) {
    const page = await all.open();
    pages.push(page);
    assert.equal(await page.evaluate((options) => window.fetchAll(options), { magnet }), digest);
  }
  const swarm = async () => (await fetch(`http://${new URL(tracker).host}/api/swarms/${infoHash}`)).json();
  await eventually("all are known to have everything", 30, async () => (await swarm()).complete === 3, swarm);
  for (const page of pages) {
    const { peers, warnings, errors } = await page.evaluate(() => window.read());
    assert.ok(peers >= 1);
    assert.deepEqual([...warnings, ...errors], []);
  }
  assert.ok((await all.metric("answers_total")) >= 2);
  assert.equal(await all.metric("malformed_total"), 0);
  assert.equal(await all.metric("answers_refused_total"), 0);
  for (const page of pages) await page.context().close();
  await eventually("nobody is left", 30, async () => (await all.metric("viewers")) === 0);
});
