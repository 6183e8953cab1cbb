// An origin that misbehaves, behind the proxy: whoever watches through it sees nothing of that as long as there is
// media in the buffer, and gets the origin's bytes.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";

import { freePort } from "../lib/programs.mjs";
import { launch } from "./lib/browser.mjs";
import { assertNoStall, eventually, seconds } from "./lib/checks.mjs";
import { startProxy, startSource } from "./lib/edge.mjs";
import { openPlayer, servePlayers } from "./lib/players.mjs";

const SEGMENT_S = 2;
const WINDOW_SEGMENTS = 20;
/** How far behind the edge pages play. No fault lasts so long, on a machine that is half as fast as it should be. */
const BEHIND_S = 12;
/** Segments that one fault spoils, at most. */
const SEGMENT_FAULTS_MAX = 8;
const PAGES = [
  ["hls.js", "hls", { liveSyncDuration: BEHIND_S, liveMaxLatencyDuration: 3 * BEHIND_S }],
  ["Shaka", "dash", {
    manifest: { defaultPresentationDelay: BEHIND_S, dash: { ignoreSuggestedPresentationDelay: true } },
    streaming: {
      bufferingGoal: BEHIND_S,
      // By default it makes two attempts. All that a fault hits can be attempts at one segment; then it says that this
      // is fatal, and goes on nevertheless, since it is live. More attempts with pauses that grow would take too long.
      retryParameters: { maxAttempts: SEGMENT_FAULTS_MAX + 1, backoffFactor: 1 },
    },
  }],
  ["dash.js", "dash", { streaming: { delay: { liveDelay: BEHIND_S } } }],
];
/** Media that each page gets after a fault before the next one comes. */
const AFTERWARDS_S = 2 * SEGMENT_S;
const PATIENCE_S = 40;
/** The proxy waits so long for more of an answer. */
const STALL_MS = 1500;

const hits = (fault, times, target = "segment") => ({ rules: [{ target, times, fault }] });
const FAULTS = {
  "it is slow": hits({ slow: { bytes_per_s: 20_000 } }, 3),
  "it stalls": hits({ stall: { after_bytes: 1000 } }, 3),
  "it cuts segments short": hits({ truncate: { after_bytes: 1000 } }, 4),
  "it breaks connections": hits({ truncate: { after_bytes: 0 } }, 6, "any"),
  "it has a burst of errors": hits({ status: { code: 503 } }, SEGMENT_FAULTS_MAX, "any"),
};
const FROZEN_S = 2 * SEGMENT_S;
/** The proxy has older ones no longer. */
const PLAYLISTS_FRESH_S = SEGMENT_S;
/** What players may tell of: loads that they try again. */
const RETRIED = /^((frag|level|audioTrack)Load(Error|TimeOut)|100[12]) fatal=false$/;

let origin;
let backup;
let proxy;
let page;
let browser;
let pages;

/** Two of these publish the same bytes. */
const startUnixMs = Date.now() - WINDOW_SEGMENTS * SEGMENT_S * 1000;
const publish = (port) =>
  startSource(["--hls", "--dash"], `admin = true\nwindow_segments = ${WINDOW_SEGMENTS}\nstart_unix_ms = ${startUnixMs}`, port);

before(async () => {
  origin = await publish();
  backup = { port: await freePort() };
  proxy = await startProxy(origin.url, () =>
    `origin_backups = ["http://127.0.0.1:${backup.port}/"]\n[timeouts]\nstall_ms = ${STALL_MS}`);
  page = await servePlayers();
  browser = await launch();
  await openPages();
});
after(async () => {
  await browser?.close();
  page?.stop();
  await proxy?.stop();
  await origin?.stop();
  await backup?.stop?.();
});

/** Opens a page for each player, and waits until all play. */
async function openPages() {
  pages = await Promise.all(PAGES.map(([player, kind, settings]) =>
    openPlayer(browser, page, { player, stream: proxy[kind], settings })));
  await eventually("all play", PATIENCE_S, async () =>
    (await readAll()).every(({ time, bufferedTo }) => time > 1 && bufferedTo - time > BEHIND_S / 2));
}

const readAll = () => Promise.all(pages.map((page) => page.read()));

async function tell(source, plan) {
  const answer = await fetch(`${source.url}/admin/faults`, { method: "PUT", body: JSON.stringify(plan) });
  assert.equal(answer.status, 200, await answer.text());
}

/** Each page gets more media, and plays. */
async function goOn(what) {
  const start = await readAll();
  await eventually(`all go on after ${what}`, PATIENCE_S, async () =>
    (await readAll()).every((now, index) =>
      now.bufferedTo > start[index].bufferedTo + AFTERWARDS_S && now.time > start[index].time + AFTERWARDS_S / 2));
}

/** What was new of the segments of `now`. */
const fresh = (before, now) => now.map(({ segments }, index) =>
  segments.slice(before[index].segments.length).filter(({ url, sha256 }) => sha256 && !url.includes("/init")));

/** What is new in each page is what `source` has; of what it has no more nothing is said. */
async function assertOrigins(source, before, now) {
  const known = new Map();
  for (const segments of fresh(before, now)) {
    let compared = 0;
    for (const { url, sha256 } of segments) {
      if (!known.has(url)) {
        const answer = await fetch(url.replace(proxy.url, source.url));
        const bytes = Buffer.from(await answer.arrayBuffer());
        known.set(url, answer.ok && createHash("sha256").update(bytes).digest("hex"));
      }
      if (!known.get(url)) continue;
      assert.equal(sha256, known.get(url), url);
      compared += 1;
    }
    assert.ok(compared > 0, `nothing of ${segments.length} could be compared`);
  }
}

/** That since `before` no page stalled, failed, or got other bytes than `source` has; what the pages say now. */
async function assertWell(source, before, what) {
  const now = await readAll();
  for (const [index, [player]] of PAGES.entries()) {
    assertNoStall(before[index], now[index], `${player}, ${what}`);
    const errors = now[index].errors.slice(before[index].errors.length);
    assert.deepEqual(errors.filter((error) => !RETRIED.test(error)), [], `${player}, ${what}`);
    assert.deepEqual(pages[index].complaints, [], `${player}, ${what}`);
  }
  await assertOrigins(source, before, now);
  return now;
}

test("players go on while the origin fails in every way that it can, and when another takes its place", { timeout: 240_000 }, async () => {
  let before = await readAll();
  for (const [what, plan] of Object.entries(FAULTS)) {
    await tell(origin, plan);
    await eventually(`${what}, for everybody`, PATIENCE_S, async () => {
      const { rules } = await (await fetch(`${origin.url}/admin/faults`)).json();
      return rules.every(({ times }) => times === 0);
    });
    await goOn(what);
    before = await assertWell(origin, before, what);
  }

  await tell(origin, { freeze_playlists: true });
  await seconds(FROZEN_S);
  await tell(origin, {});
  await goOn("its playlists froze");
  before = await assertWell(origin, before, "its playlists froze");

  backup = await publish(backup.port);
  await origin.stop();
  await goOn("it died");
  before = await assertWell(backup, before, "it died");

  // Names return, with other bytes. These pages would be lost at the origin itself as well: hls.js stands still, dash.js
  // gives up, Shaka stalls. Whoever comes afterwards must get nothing of what was there before.
  await Promise.all(pages.map((page) => page.close()));
  await tell(backup, { generation: 1 });
  assert.equal((await fetch(`${backup.url}/admin/reset-sequence`, { method: "POST" })).status, 204);
  await seconds(PLAYLISTS_FRESH_S);
  const known = before.flatMap(({ segments }) => segments.map(({ url }) => url));
  await openPages();
  before = (await readAll()).map((reading) => ({ ...reading, segments: [], errors: [], waits: [] }));
  await goOn("its numbering began anew");
  const now = await assertWell(backup, before, "its numbering began anew");
  for (const [index, { segments }] of now.entries()) {
    assert.ok(segments.some(({ url }) => known.includes(url)), `${PAGES[index][0]} got none of the names that were there before`);
  }
});
