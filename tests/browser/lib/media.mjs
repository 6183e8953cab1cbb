// What other packagers make of the built-in clip: ffmpeg and Shaka Packager.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const { resolve } = createRequire(import.meta.url);
const clip = (name) => fileURLToPath(new URL(`../../../live-source/clip/${name}.mp4`, import.meta.url));

/** How long the clip is, in seconds. */
export const CLIP_S = 24;
/** It has a keyframe so often. */
const SEGMENT_S = 2;

const QUIET = ["-hide_banner", "-loglevel", "error", "-nostdin"];
const HLS = ["-f", "hls", "-hls_time", SEGMENT_S];
const VOD = [...HLS, "-hls_playlist_type", "vod"];
const CMAF = ["-hls_segment_type", "fmp4"];
const DASH = ["-f", "dash", "-seg_duration", SEGMENT_S, "-adaptation_sets", "id=0,streams=v id=1,streams=a"];

/** Arguments by which ffmpeg makes video on demand, by form; all write `main.m3u8` or `main.mpd`. */
export const FORMS = {
  ts: [...VOD, "main.m3u8"],
  cmaf: [...VOD, ...CMAF, "main.m3u8"],
  "one-file": [...VOD, ...CMAF, "-hls_flags", "single_file", "main.m3u8"],
  dash: [...DASH, "main.mpd"],
  "dash-one-file": [...DASH, "-single_file", "1", "main.mpd"],
};

function remux(...input) {
  const both = ["v240", "audio"].flatMap((name) => [...input, "-i", clip(name)]);
  return [...QUIET, ...both, "-map", "0:v", "-map", "1:a", "-c", "copy"];
}

/** Has ffmpeg make the clip into `folder`, in the form of these arguments. */
export function packageClip(folder, form) {
  const made = spawnSync("ffmpeg", [...remux(), ...form].map(String), { cwd: folder, encoding: "utf8" });
  assert.equal(made.status, 0, `environment: ffmpeg: ${made.error ?? made.stderr}`);
}

/** Has ffmpeg publish the clip in `folder` as live HLS, for ever; `more` are arguments. */
export function publishClip(folder, more) {
  const window = ["-hls_list_size", 8, "-hls_flags", "delete_segments", "-hls_delete_threshold", 100];
  const words = [...remux("-re", "-stream_loop", -1), ...HLS, ...window, ...more, "main.m3u8"];
  const child = spawn("ffmpeg", words.map(String), { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
  const ended = new Promise((done) => child.once("exit", done));
  return {
    async stop() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/**
 * Has Shaka Packager make the clip into DASH in `folder`, encrypted by `scheme` (cenc or cbcs) from its first
 * sample. Key and its id are hexadecimal.
 */
export function encryptClip(folder, scheme, keyId, key) {
  const streams = [["v240", "video"], ["audio", "audio"]].map(([name, kind]) =>
    `in=${clip(name)},stream=${kind},init_segment=${kind}-init.mp4,segment_template=${kind}-$Number$.m4s`);
  const made = spawnSync(process.execPath, [
    resolve("shaka-packager"), ...streams, "--segment_duration", SEGMENT_S, "--generate_static_live_mpd",
    "--mpd_output", "main.mpd", "--enable_raw_key_encryption", "--protection_scheme", scheme, "--clear_lead", 0,
    "--keys", `label=:key_id=${keyId}:key=${key}`,
  ].map(String), { cwd: folder, encoding: "utf8" });
  assert.match(made.stdout, /completed successfully/, `environment: Shaka Packager: ${made.error ?? made.stderr}`);
}
