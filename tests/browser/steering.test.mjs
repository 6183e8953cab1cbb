// A broadcaster's playlist names two ways to the stream, the CDN and Shoal's proxy, and the proxy says which
// is taken: players go to the proxy and back, and nobody touches them.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { assertNoStall, eventually } from "./lib/checks.mjs";
import { startProxy, startSource } from "./lib/edge.mjs";
import { stage } from "./lib/stage.mjs";

const TOKEN = "the operator's token";
const STEERING = "/.shoal/steering";
const TTL_S = 2;
/** How hls.js tells that it has given up a load itself: when it is moved, one of video and one of audio at most. */
const GIVEN_UP = "aborted fatal=false";
const GIVEN_UP_MAX = { "hls.js": 2 * 2, Shaka: 0, "dash.js": 0 };
const PLAYERS = [["hls.js", "main.m3u8"], ["Shaka", "main.m3u8"], ["Shaka", "main.mpd"], ["dash.js", "main.mpd"]];
/** Requests in a row that show where a player is. */
const SETTLED_REQUESTS = 6;

let cdn;
let proxy;
let playlists;
const openPlayer = stage(async (keep) => {
  // The origin itself is the CDN here.
  cdn = await keep(startSource(["--hls", "--dash"]));
  proxy = await keep(startProxy(cdn.url, (url) =>
    `[steering]\nurl = "${url}${STEERING}"\nttl_s = ${TTL_S}\n[admin]\ntoken = "${TOKEN}"`));
  playlists = await keep(servePlaylists());
});

const steeringUrl = () => proxy.url + STEERING;
const fetchText = async (url) => (await fetch(url)).text();

/** The origin's multivariant playlist with each rendition on two pathways. */
async function hlsWithPathways() {
  const lines = (await fetchText(cdn.hls)).trim().split("\n");
  const rest = lines.slice(lines.findIndex((line) => /^#EXT-X-(MEDIA|STREAM-INF)/.test(line)));
  const on = (pathway, base) => rest.map((line) => line
    .replace(/GROUP-ID="(.*?)"/, `GROUP-ID="$1-${pathway}"`)
    .replace(/AUDIO="(.*?)"/, `AUDIO="$1-${pathway}"`)
    .replace(/^#EXT-X-STREAM-INF:.*/, `$&,PATHWAY-ID="${pathway}"`)
    .replace(/URI="(.*?)"/, `URI="${base}/live/$1"`)
    .replace(/^(?!#)/, `${base}/live/`));
  const steering = `#EXT-X-CONTENT-STEERING:SERVER-URI="${steeringUrl()}",PATHWAY-ID="CDN"`;
  return ["#EXTM3U", steering, ...on("CDN", cdn.url), ...on("SHOAL", proxy.url), ""].join("\n");
}

/** The origin's manifest with two service locations. dash.js 5.2 never asks if it may begin without an answer. */
async function dashWithPathways() {
  const locations = [["CDN", cdn.url], ["SHOAL", proxy.url]].map(([pathway, base]) =>
    `<BaseURL serviceLocation="${pathway}">${base}/live/</BaseURL>`);
  const steering = `<ContentSteering defaultServiceLocation="CDN" queryBeforeStart="true">${steeringUrl()}</ContentSteering>`;
  const text = await fetchText(cdn.dash);
  return text
    .replace(/(<MPD[^>]*>)/, `$1${locations.join("")}${steering}`)
    .replaceAll('value="time"', `value="${cdn.url}/live/time"`);
}

async function servePlaylists() {
  const server = createServer(async ({ url }, response) => {
    const text = await (url.endsWith(".mpd") ? dashWithPathways() : hlsWithPathways());
    const type = url.endsWith(".mpd") ? "application/dash+xml" : "application/vnd.apple.mpegurl";
    response.writeHead(200, { "Content-Type": type, "Access-Control-Allow-Origin": "*" });
    response.end(text);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${server.address().port}`, stop };
}

async function steer(sharePercent) {
  const answer = await fetch(`${proxy.url}/.shoal/admin/steering`, {
    method: "POST",
    headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
    body: JSON.stringify({ share_percent: sharePercent }),
  });
  assert.equal(answer.status, 200);
}

const isAt = (place) => async (viewer) => {
  const { requests } = await viewer.read();
  return requests.length >= SETTLED_REQUESTS && requests.slice(-SETTLED_REQUESTS).every((url) => url.startsWith(place.url));
};

test("hls.js, Shaka (HLS and DASH) and dash.js are moved to the proxy and back while they play", { timeout: 120_000 }, async () => {
  const viewers = await Promise.all(PLAYERS.map(([player, path]) =>
    openPlayer({ player, stream: `${playlists.url}/${path}` })));
  const allAt = (place) => async () => (await Promise.all(viewers.map(isAt(place)))).every(Boolean);
  await eventually("all begin at the CDN", 30, allAt(cdn));
  const start = await Promise.all(viewers.map((viewer) => viewer.read()));
  await steer(100);
  await eventually("all are at the proxy", 30, allAt(proxy));
  await steer(0);
  await eventually("all are at the CDN again", 30, allAt(cdn));
  for (const [index, viewer] of viewers.entries()) {
    const end = await viewer.read();
    assert.ok(end.time > start[index].time, "it plays on");
    assertNoStall(start[index], end, `page ${index} stalled`);
    assert.deepEqual(end.errors.filter((error) => error !== GIVEN_UP), []);
    assert.ok(end.errors.length <= GIVEN_UP_MAX[PLAYERS[index][0]], `${end.errors}`);
    assert.deepEqual(viewer.complaints, []);
    await viewer.close();
  }
});
