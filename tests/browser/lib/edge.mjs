// A live source and an origin-proxy that signs before it, on ports of their own.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { binary, freePort, start } from "../../lib/programs.mjs";

const HLS = "/live/main.m3u8";
const DASH = "/live/main.mpd";

/** A file with these settings. */
function writeSettings(text) {
  const folder = mkdtempSync(join(tmpdir(), "shoal-edge-"));
  const file = join(folder, "settings.toml");
  writeFileSync(file, text);
  return { file, remove: () => rmSync(folder, { recursive: true }) };
}

/** Starts `shoal publish` with these flags, at `port` if it must be that; `settings` are lines of TOML. */
export async function startSource(flags, settings = "", port = 0) {
  const listen = `127.0.0.1:${port || (await freePort())}`;
  const url = `http://${listen}`;
  const path = flags.some((flag) => flag.endsWith("hls")) ? HLS : DASH;
  const config = writeSettings(settings);
  const program = await start(["publish", "--config", config.file, ...flags, "--listen", listen], url + path);
  config.remove();
  return { ...program, url, hls: url + HLS, dash: url + DASH };
}

/** Starts `shoal origin-proxy` before the server at `origin`; `settings` makes more lines of TOML of its URL. */
export async function startProxy(origin, settings = () => "") {
  const listen = `127.0.0.1:${await freePort()}`;
  const url = `http://${listen}`;
  const keys = spawnSync(binary(), ["keygen"], { encoding: "utf8" }).stdout;
  const [, key] = keys.match(/public_key = "(.+)"/);
  const config = writeSettings([`listen = "${listen}"`, `origin = "${origin}/"`, keys, settings(url)].join("\n"));
  const program = await start(["origin-proxy", "--config", config.file], `${url}/readyz`);
  config.remove();
  return { ...program, url, key, hls: url + HLS, dash: url + DASH };
}
