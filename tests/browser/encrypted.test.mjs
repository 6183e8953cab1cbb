// Encrypted streams through an origin-proxy: HLS with AES-128 from ffmpeg, and DASH with Common Encryption from Shaka
// Packager. Pages with Shoal share what is encrypted, and each asks for its keys itself.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { assertFiles, assertNoStall, eventually, offload, seekToEnd } from "./lib/checks.mjs";
import { startProxy } from "./lib/edge.mjs";
import { serveFiles } from "./lib/files.mjs";
import { CLIP_S, FORMS, encryptClip, packageClip, publishClip } from "./lib/media.mjs";
import { bytesOf, readAll } from "./lib/players.mjs";
import { stage } from "./lib/stage.mjs";
import { startTracker } from "./lib/tracker.mjs";

const KEY = "key.bin";
const KEY_LEN = 16;
/** Of Common Encryption. */
const CLEAR = { keyId: randomBytes(KEY_LEN), key: randomBytes(KEY_LEN) };
const CLEAR_KEYS = {
  Shaka: { drm: { clearKeys: { [CLEAR.keyId.toString("hex")]: CLEAR.key.toString("hex") } } },
  "dash.js": {
    protection: { "org.w3.clearkey": { clearkeys: { [CLEAR.keyId.toString("base64url")]: CLEAR.key.toString("base64url") } } },
  },
};
const SEEKS = [13, CLIP_S - 3];
const PAGES = 2;
/** Segments that are listed before pages come, and that each page gets once they are linked. */
const SEGMENTS_BEFORE = 5;
const SEGMENTS = 6;

let files;
let proxy;
const openPlayer = stage(async (keep) => {
  files = await keep(serveFiles());
  const accessFile = join(files.add("log"), "access.json");
  proxy = await keep(startProxy(files.url, () => `[log]\naccess_file = "${accessFile}"`));
  proxy.asked = () => readFileSync(accessFile, "utf8").trim().split("\n").map((line) => JSON.parse(line).path);
});

/** A new folder with a key, and the arguments by which ffmpeg encrypts with it. */
function addWithKey(name) {
  const folder = files.add(name);
  const [key, info] = [join(folder, KEY), join(folder, "key.txt")];
  writeFileSync(key, randomBytes(KEY_LEN));
  writeFileSync(info, `${KEY}\n${key}\n`);
  return { folder, arguments: ["-hls_key_info_file", info] };
}

async function watch(player, path, settings) {
  const viewer = await openPlayer({ player, stream: proxy.url + path, settings });
  const { segments } = await seekToEnd(viewer, `${player} on ${path}`, CLIP_S, SEEKS);
  await viewer.close();
  assertFiles(segments, proxy.url, files.read);
}

test("hls.js and Shaka play HLS that AES-128 encrypts", { timeout: 120_000 }, async () => {
  const { folder, arguments: encrypted } = addWithKey("aes");
  packageClip(folder, [...encrypted, ...FORMS.ts]);
  await Promise.all(["hls.js", "Shaka"].map((player) => watch(player, "/aes/main.m3u8")));
});

for (const scheme of ["cenc", "cbcs"]) {
  test(`Shaka and dash.js play DASH that ${scheme} encrypts`, { timeout: 120_000 }, async () => {
    encryptClip(files.add(scheme), scheme, CLEAR.keyId.toString("hex"), CLEAR.key.toString("hex"));
    await Promise.all(Object.entries(CLEAR_KEYS).map(([player, keys]) => watch(player, `/${scheme}/main.mpd`, keys)));
  });
}

/** Has ffmpeg publish in `folder`, until there is something to play. */
async function publish(folder, encrypted) {
  const publisher = publishClip(folder, encrypted);
  const playlist = join(folder, "main.m3u8");
  await eventually("ffmpeg publishes", 60, () =>
    existsSync(playlist) && readFileSync(playlist, "utf8").split("#EXTINF").length > SEGMENTS_BEFORE);
  return publisher;
}

test("two pages share a live stream that AES-128 encrypts, and each asks the proxy for the key", { timeout: 180_000 }, async (context) => {
  const { folder, arguments: encrypted } = addWithKey("live");
  const publisher = await publish(folder, encrypted);
  context.after(() => publisher.stop());
  const tracker = await startTracker();
  context.after(() => tracker.stop());
  const shoal = { tracker: tracker.socket, key: proxy.key };
  const open = () => openPlayer({ player: "hls.js", stream: `${proxy.url}/live/main.m3u8`, shoal });
  const viewers = [];
  while (viewers.length < PAGES) viewers.push(await open());
  await eventually("they play, and are linked", 60, async () =>
    (await readAll(viewers)).every(({ time, shoal }) => time > 1 && shoal.neighbours.length === viewers.length - 1));
  const start = await readAll(viewers);
  await eventually(`${SEGMENTS} segments for each`, 60, async () =>
    (await readAll(viewers)).every(({ segments }, index) =>
      segments.length >= start[index].segments.length + SEGMENTS && segments.every(({ sha256 }) => sha256)));
  const end = await readAll(viewers);
  await Promise.all(viewers.map((viewer) => viewer.close()));

  const share = offload(start.map(bytesOf), end.map(bytesOf));
  console.log(`offload ${share.toFixed(3)} of at most 0.5`);
  assert.ok(share > 0.2, `offload ${share}`);
  const keyUrl = `${proxy.url}/live/${KEY}`;
  for (const [index, { errors, keys, segments, shoal }] of end.entries()) {
    assertNoStall(start[index], end[index], `page ${index} stalled`);
    assert.deepEqual([errors, viewers[index].complaints, shoal.badPieces], [[], [], 0]);
    // What Shoal had in its hands is what the files are, encrypted, and nothing else.
    assertFiles(segments, proxy.url, files.read);
    const lens = new Set(segments.map(({ len }) => len));
    const passed = shoal.segments.map(({ bytesCdn, bytesP2p }) => bytesCdn + bytesP2p);
    assert.ok(passed.length > 0 && passed.every((len) => lens.has(len)), `${passed} of ${[...lens]}`);
    assert.deepEqual([...new Set(keys)], [keyUrl]);
  }
  const asked = proxy.asked().filter((path) => path === `/live/${KEY}`);
  assert.equal(asked.length, PAGES, "each page asks for the key itself");
});
