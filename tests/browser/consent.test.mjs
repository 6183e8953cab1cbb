// A tracker that asks for consent, and pages whose viewers have given it, have not yet, or were not asked.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { launch, openViewer } from "./lib/browser.mjs";
import { assertBytes, assertPlayed, eventually, seconds } from "./lib/checks.mjs";
import { startDemo } from "./lib/demo.mjs";
import { TOKEN, startTracker } from "./lib/tracker.mjs";

let demo;
let tracker;
let browser;

before(async () => {
  // The demo's own tracker and viewers are not used: its stream is.
  demo = await startDemo({ viewers: 1 });
  tracker = await startTracker("privacy.consent = true");
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await tracker?.stop();
  await demo?.stop();
});

const open = (options) => openViewer(browser, demo, { tracker: tracker.socket, ...options });

async function metric(name) {
  const headers = { authorization: `Bearer ${TOKEN}` };
  const text = await (await fetch(`${tracker.url}/metrics`, { headers })).text();
  const line = text.split("\n").find((each) => each.startsWith(`shoal_tracker_${name} `));
  return Number(line.split(" ")[1]);
}

test("a page joins others only after its viewer has agreed", { timeout: 150_000 }, async () => {
  const agreed = await open({ consent: true });
  const asked = await open({ consent: false });
  const unasked = await open();
  const pages = { agreed, asked, unasked };
  for (const page of Object.values(pages)) {
    await eventually("the page plays", 30, async () => (await page.read()).time > 1);
  }
  await eventually("who has agreed is in", 20, async () => (await agreed.read()).stats.tracker === "joined");
  await eventually("who says nothing is refused", 20, async () => (await unasked.read()).stats.tracker === "refused");

  const start = { agreed: await agreed.read(), asked: await asked.read(), unasked: await unasked.read() };
  await seconds(12);
  for (const [name, page] of Object.entries(pages)) {
    const end = await page.read();
    assertPlayed(start[name], end, name);
    assert.equal(end.stats.bytesP2p, 0, name);
    assert.equal(end.stats.neighbours.length, 0, name);
    assert.ok(end.stats.bytesCdn > start[name].stats.bytesCdn, `${name} plays from the CDN`);
  }
  assert.equal(await metric("viewers"), 1, "nobody but the one that has agreed is in");
  assert.equal(await metric("introductions_total"), 0);

  await asked.page.evaluate(() => window.test.shoal.setConsent(true));
  await eventually("the two that have agreed are linked", 30, async () => {
    const readings = await Promise.all([agreed.read(), asked.read()]);
    return readings.every(({ stats }) => stats.tracker === "joined" && stats.neighbours.length === 1);
  });
  await eventually("they share", 40, async () => {
    // Whoever hears of new segments first may bring them all.
    const readings = await Promise.all([agreed.read(), asked.read()]);
    return readings.some(({ stats }) => stats.bytesP2p > 0);
  });
  assert.equal(await metric("introductions_total"), 1);

  await asked.page.evaluate(() => window.test.shoal.setConsent(false));
  await eventually("who takes it back is out", 20, async () => (await metric("viewers")) === 1);
  const alone = await asked.read();
  await seconds(8);
  const end = await asked.read();
  assertPlayed(alone, end, "the page that has taken it back");
  assert.equal(end.stats.neighbours.length, 0);
  assert.equal(end.stats.bytesP2p, alone.stats.bytesP2p);
  await assertBytes([end, await agreed.read(), await unasked.read()]);
  for (const page of Object.values(pages)) assert.deepEqual(page.complaints, []);
});
