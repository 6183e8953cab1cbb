// What a test stands on: our tracker and a live stream, built from this tree, and pages in Chromium.

import { createServer } from "node:http";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";
import { chromium } from "playwright-core";

import { WEBRTC_ON_LOOPBACK, launch } from "../../lib/chromium.mjs";
import { freePort, start } from "../../lib/programs.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));

const PROCESS =
  "globalThis.process ??= { browser: true, env: {}, nextTick: (f, ...args) => queueMicrotask(() => f(...args)) };";

/** The page's script in one file, in a document that came over the network: Chromium keeps others
 * from loopback addresses. */
async function servePage(name) {
  const bundle = await build({
    entryPoints: [join(HERE, `${name}.mjs`)],
    bundle: true,
    write: false,
    format: "iife",
    platform: "browser",
    define: { global: "globalThis" },
    // What bundlers for browsers put in the place of Node's.
    banner: { js: PROCESS },
    logLevel: "error",
  });
  const script = bundle.outputFiles[0].contents;
  const page = `<!doctype html><meta charset="utf-8"><video muted playsinline></video><script src="/script.js"></script>`;
  const server = createServer(({ url }, response) => {
    const isScript = url === "/script.js";
    response.writeHead(200, { "Content-Type": isScript ? "text/javascript" : "text/html" });
    response.end(isScript ? script : page);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, stop: () => server.close() };
}

/** Everything that a test needs; `settings` is the tracker's configuration. */
export async function startAll({ page, settings = "", stream = false }) {
  const folder = await mkdtemp(join(tmpdir(), "shoal-webtorrent-"));
  const config = join(folder, "tracker.toml");
  const [trackerPort, streamPort, stunPort] = [await freePort(), await freePort(), await freePort()];
  await writeFile(config, `${settings}\n[stun]\nlisten = "127.0.0.1:${stunPort}"\n`);
  const tracker = `127.0.0.1:${trackerPort}`;
  const stops = [() => rm(folder, { recursive: true })];
  const programs = [await start(["tracker", "--config", config, "--listen", tracker], `http://${tracker}/healthz`)];
  const streamUrl = `http://127.0.0.1:${streamPort}/live/main.m3u8`;
  if (stream) {
    const args = ["publish", "--hls", "--segment-s", "2", "--listen", `127.0.0.1:${streamPort}`];
    programs.push(await start(args, streamUrl));
  }
  stops.push(...programs.map(({ stop }) => stop));
  const served = await servePage(page);
  stops.push(served.stop);
  const browser = await launch(chromium, WEBRTC_ON_LOOPBACK);
  stops.push(() => browser.close());
  return {
    tracker: `ws://${tracker}/announce`,
    stream: streamUrl,
    async open() {
      const context = await browser.newContext();
      const opened = await context.newPage();
      await opened.goto(served.url);
      return opened;
    },
    async metric(name) {
      const text = await (await fetch(`http://${tracker}/metrics`)).text();
      const line = text.split("\n").find((candidate) => candidate.startsWith(`shoal_tracker_webtorrent_${name} `));
      return Number(line.split(" ")[1]);
    },
    async stop() {
      for (const stop of stops.reverse()) await stop();
    },
  };
}

/** Waits until `holds` says so; `what` says what was waited for, `state` what was there instead. */
export async function eventually(what, secondsMax, holds, state = async () => "") {
  const until = Date.now() + secondsMax * 1000;
  while (!(await holds())) {
    if (Date.now() > until) throw new Error(`not within ${secondsMax} s: ${what}; ${JSON.stringify(await state())}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
