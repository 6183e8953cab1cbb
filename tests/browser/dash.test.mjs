// DASH from `shoal publish` (`SegmentTemplate`), played by dash.js and Shaka through an origin-proxy that
// signs.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { launch } from "./lib/browser.mjs";
import { assertPlayed, eventually, seconds } from "./lib/checks.mjs";
import { startProxy, startSource } from "./lib/edge.mjs";
import { openPlayer, servePlayers } from "./lib/players.mjs";

const WATCHED_S = 15;

let source;
let proxy;
let page;
let browser;

before(async () => {
  source = await startSource(["--dash"]);
  proxy = await startProxy(source.url);
  page = await servePlayers();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  page?.stop();
  await proxy?.stop();
  await source?.stop();
});

/** That `player` plays the stream; the segments that it asked for. */
async function watch(player) {
  const viewer = await openPlayer(browser, page, { player, stream: proxy.dash });
  await eventually(`${player} plays`, 20, async () => (await viewer.read()).time > 1);
  await seconds(2);
  const start = await viewer.read();
  await seconds(WATCHED_S);
  const end = await viewer.read();
  await viewer.close();
  assertPlayed(start, end, player);
  assert.deepEqual(end.errors, [], player);
  assert.deepEqual(viewer.complaints, [], player);
  return end.requests.filter((url) => url.includes("/seg-"));
}

test("dash.js and Shaka play DASH through the proxy, and every segment is signed", { timeout: 60_000 }, async () => {
  const asked = (await Promise.all(["dash.js", "Shaka"].map(watch))).flat();
  assert.ok(asked.length > 20 && asked.every((url) => url.startsWith(proxy.url)), `${asked}`);
  for (const url of asked.slice(-5)) {
    const answer = await fetch(url);
    assert.ok(answer.headers.get("shoal-record"), url);
    const atOrigin = await fetch(url.replace(proxy.url, source.url));
    assert.deepEqual(await answer.arrayBuffer(), await atOrigin.arrayBuffer(), url);
  }
});
