// A live source and an origin-proxy that signs before it, on ports of their own.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { binary, freePort, start } from "../../lib/programs.mjs";

const HLS = "/live/main.m3u8";
const DASH = "/live/main.mpd";

/** Starts `shoal publish` with these flags. */
export async function startSource(...flags) {
  const listen = `127.0.0.1:${await freePort()}`;
  const url = `http://${listen}`;
  const path = flags.some((flag) => flag.endsWith("hls")) ? HLS : DASH;
  const program = await start(["publish", ...flags, "--listen", listen], url + path);
  return { ...program, url, hls: url + HLS, dash: url + DASH };
}

/** Starts `shoal origin-proxy` before the server at `origin`; `settings` makes more lines of TOML of its URL. */
export async function startProxy(origin, settings = () => "") {
  const listen = `127.0.0.1:${await freePort()}`;
  const url = `http://${listen}`;
  const folder = mkdtempSync(join(tmpdir(), "shoal-edge-"));
  const config = join(folder, "proxy.toml");
  const keys = spawnSync(binary(), ["keygen"], { encoding: "utf8" }).stdout;
  const [, key] = keys.match(/public_key = "(.+)"/);
  writeFileSync(config, [`listen = "${listen}"`, `origin = "${origin}/"`, keys, settings(url)].join("\n"));
  const program = await start(["origin-proxy", "--config", config], `${url}/readyz`);
  return {
    ...program,
    url,
    key,
    hls: url + HLS,
    dash: url + DASH,
    metrics: async () => (await fetch(`${url}/metrics`)).text(),
    async stop() {
      await program.stop();
      rmSync(folder, { recursive: true });
    },
  };
}
