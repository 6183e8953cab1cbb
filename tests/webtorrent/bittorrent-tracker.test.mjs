// bittorrent-tracker's client, which webtorrent has inside, unchanged: its browser build, with real
// WebRTC.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { eventually, startAll } from "./lib/bench.mjs";

const SWARM = "aa01020304050607080910111213141516171819";
const OTHER = "bb01020304050607080910111213141516171819";

let all;

before(async () => {
  all = await startAll({ page: "client-page", settings: `[webtorrent]\ninfo_hashes = ["${SWARM}"]` });
});
after(() => all?.stop());

async function join(infoHash, number) {
  const page = await all.open();
  // Bytes above 0x7f, as random ids have them: escapes and two-byte characters on the wire.
  const peerId = `2d5348303030312d8090a0b0c0d0e0f0010203${number}`;
  await page.evaluate((options) => window.join(options), { tracker: all.tracker, infoHash, peerId });
  return { page, peerId, read: () => page.evaluate(() => window.read()) };
}

test("clients meet, speak, scrape and leave", { timeout: 150_000 }, async () => {
  const a = await join(SWARM, "04");
  await eventually("the first is in", 30, async () => (await a.read()).updates.length > 0, a.read);
  const b = await join(SWARM, "05");
  for (const [me, other] of [[a, b], [b, a]]) {
    await eventually("they have met", 60, async () => (await me.read()).received.length > 0, me.read);
    assert.deepEqual((await me.read()).received, [`hello from ${other.peerId}`]);
  }
  await a.page.evaluate(() => window.client.scrape());
  await eventually("a scrape", 30, async () => (await a.read()).scrapes.length > 0, a.read);
  assert.deepEqual((await a.read()).scrapes[0], { complete: 0, incomplete: 2, downloaded: 0 });
  await b.page.evaluate(() => window.client.update());
  await eventually("an update", 30, async () => (await b.read()).updates.length > 1, b.read);
  assert.equal((await b.read()).peers, 1, "they have met already");
  await b.page.evaluate(() => window.client.stop());
  await eventually("one has left", 30, async () => (await all.metric("viewers")) === 1);
  for (const client of [a, b]) {
    const { errors, warnings } = await client.read();
    assert.deepEqual([...errors, ...warnings], []);
    await client.page.context().close();
  }
});

test("a refusal is a warning that names its reason, and the socket stays", { timeout: 90_000 }, async () => {
  const client = await join(OTHER, "06");
  await eventually("a warning", 30, async () => (await client.read()).warnings.length > 0, client.read);
  const { warnings, errors } = await client.read();
  assert.match(warnings[0], /not served/);
  assert.deepEqual(errors, []);
  await client.page.context().close();
});
