// What a test stands on: our tracker and a live stream, built from this tree, and pages in Chromium.

import { spawn, spawnSync } from "node:child_process";
import { createServer } from "node:http";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer as createTcpServer } from "node:net";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";
import { chromium } from "playwright-core";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const HERE = fileURLToPath(new URL(".", import.meta.url));
const START_MS_MAX = 20_000;
const BROWSER_ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--mute-audio",
  "--autoplay-policy=no-user-gesture-required",
  "--disable-features=WebRtcHideLocalIpsWithMdns",
  "--allow-loopback-in-peer-connection",
];

const PROCESS =
  "globalThis.process ??= { browser: true, env: {}, nextTick: (f, ...args) => queueMicrotask(() => f(...args)) };";

/** Builds the binary if need be, and returns its path; SHOAL names one that is there already. */
function binary() {
  if (process.env.SHOAL) return process.env.SHOAL;
  const made = spawnSync("cargo", ["build", "--quiet", "-p", "shoal", "--message-format=json"], {
    cwd: ROOT,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 64 << 20,
  });
  const lines = made.stdout.split("\n").filter((line) => line.startsWith("{"));
  const messages = lines.map((line) => JSON.parse(line));
  const shoal = messages.find((message) => message.target?.name === "shoal" && message.executable);
  if (made.status !== 0 || !shoal) throw new Error("environment: the shoal binary does not build");
  return shoal.executable;
}

async function freePort() {
  const server = createTcpServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts a command of ours and waits until `url` answers. */
async function start(program, args, url) {
  const child = spawn(program, args, { cwd: ROOT, stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.on("data", (text) => (log = (log + text).slice(-20_000)));
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const until = Date.now() + START_MS_MAX;
  while (!(await fetch(url).then((answer) => answer.ok, () => false))) {
    if (child.exitCode !== null || Date.now() > until) throw new Error(`${args[0]} does not start:\n${log}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return async () => {
    child.kill("SIGINT");
    const late = setTimeout(() => child.kill("SIGKILL"), 5_000);
    await ended;
    clearTimeout(late);
  };
}

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
  const program = binary();
  const folder = await mkdtemp(join(tmpdir(), "shoal-webtorrent-"));
  const config = join(folder, "tracker.toml");
  const [trackerPort, streamPort, stunPort] = [await freePort(), await freePort(), await freePort()];
  await writeFile(config, `${settings}\n[stun]\nlisten = "127.0.0.1:${stunPort}"\n`);
  const tracker = `127.0.0.1:${trackerPort}`;
  const stops = [() => rm(folder, { recursive: true })];
  stops.push(await start(program, ["tracker", "--config", config, "--listen", tracker], `http://${tracker}/healthz`));
  const streamUrl = `http://127.0.0.1:${streamPort}/live/main.m3u8`;
  if (stream) {
    const args = ["publish", "--hls", "--segment-s", "2", "--listen", `127.0.0.1:${streamPort}`];
    stops.push(await start(program, args, streamUrl));
  }
  const served = await servePage(page);
  stops.push(served.stop);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: BROWSER_ARGUMENTS,
  });
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
