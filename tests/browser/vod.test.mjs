// Video on demand, as ffmpeg packages it and a plain server of files has it, through an origin-proxy: players play,
// seek forwards and backwards, and reach the end.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertFiles, seekToEnd } from "./lib/checks.mjs";
import { startProxy } from "./lib/edge.mjs";
import { serveFiles } from "./lib/files.mjs";
import { CLIP_S, FORMS, packageClip } from "./lib/media.mjs";
import { stage } from "./lib/stage.mjs";

const PLAYERS = { m3u8: ["hls.js", "Shaka"], mpd: ["Shaka", "dash.js"] };
/**
 * Seconds into the clip: past what is buffered, back, and near the end. Not where segments meet: dash.js 5.2 waits for
 * ever where something that it has ends, at the server of files itself as well.
 */
const SEEKS = [13, 7, CLIP_S - 3];
/** Players with a buffer of so many seconds have not got all when they are sent elsewhere. */
const BUFFER_S = 5;
const SETTINGS = {
  "hls.js": { maxBufferLength: BUFFER_S, maxMaxBufferLength: BUFFER_S },
  Shaka: { streaming: { bufferingGoal: BUFFER_S } },
  "dash.js": { streaming: { buffer: { bufferTimeDefault: BUFFER_S, bufferTimeAtTopQuality: BUFFER_S } } },
};

let files;
let proxy;
const openPlayer = stage(async (keep) => {
  files = await keep(serveFiles());
  for (const [name, form] of Object.entries(FORMS)) packageClip(files.add(name), form);
  proxy = await keep(startProxy(files.url));
});

async function watch(player, stream) {
  const viewer = await openPlayer({ player, stream, settings: SETTINGS[player] });
  const reading = await seekToEnd(viewer, player, CLIP_S, SEEKS);
  await viewer.close();
  return reading;
}

for (const [name, form] of Object.entries(FORMS)) {
  const path = `/${name}/${form.at(-1)}`;
  const players = PLAYERS[form.at(-1).split(".")[1]];
  test(`${players.join(" and ")} play ${name}, seek and reach the end, with the bytes of the files`, { timeout: 120_000 }, async () => {
    const readings = await Promise.all(players.map((player) => watch(player, proxy.url + path)));
    for (const { segments } of readings) assertFiles(segments, proxy.url, files.read);
    const asked = files.asked.filter((path) => path.startsWith(`/${name}/`) && path !== `/${name}/${form.at(-1)}`);
    assert.equal(new Set(asked).size, asked.length, `each file is asked for once: ${asked}`);
  });
}
