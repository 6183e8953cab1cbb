// DASH from `shoal publish`, in the forms that packagers give it, played by dash.js and Shaka through an
// origin-proxy that signs.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertPlayed, eventually, seconds } from "./lib/checks.mjs";
import { startProxy, startSource } from "./lib/edge.mjs";
import { stage } from "./lib/stage.mjs";

const WATCHED_S = 15;

const PERIOD_SEGMENTS = 3;
const PLAYERS = ["dash.js", "Shaka"];
const FORMS = {
  "DASH by duration": "",
  "DASH by number, listed, in short periods": `dash_timeline = true\ndash_period_segments = ${PERIOD_SEGMENTS}`,
  "DASH by time, listed": "dash_time = true",
};

const openPlayer = stage();

/** That `player` plays the stream; the segments that it asked for. */
async function watch(player, stream) {
  const viewer = await openPlayer({ player, stream });
  await eventually(`${player} plays`, 20, async () => (await viewer.read()).time > 1);
  await seconds(2);
  const start = await viewer.read();
  await seconds(WATCHED_S);
  const end = await viewer.read();
  await viewer.close();
  assertPlayed(start, end, player);
  assert.deepEqual(end.errors, [], player);
  assert.deepEqual(viewer.complaints, [], player);
  return end.requests.filter((url) => /\/(seg|time)-/.test(url));
}

for (const [name, settings] of Object.entries(FORMS)) {
  test(`${name}, played by ${PLAYERS.join(" and ")} through the proxy, and every segment is signed`, { timeout: 60_000 }, async (context) => {
    const source = await startSource(["--dash"], settings);
    context.after(() => source.stop());
    const proxy = await startProxy(source.url);
    context.after(() => proxy.stop());
    const asked = (await Promise.all(PLAYERS.map((player) => watch(player, proxy.dash)))).flat();
    assert.ok(asked.length > 10 * PLAYERS.length && asked.every((url) => url.startsWith(proxy.url)), `${asked}`);
    for (const url of asked.slice(-5)) {
      const answer = await fetch(url);
      assert.ok(answer.headers.get("shoal-record"), url);
      const atOrigin = await fetch(url.replace(proxy.url, source.url));
      assert.deepEqual(await answer.arrayBuffer(), await atOrigin.arrayBuffer(), url);
    }
  });
}
