// The servers of a test: `shoal demo`, built from this tree, on ports of its own.

import { spawn, spawnSync } from "node:child_process";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const START_MS_MAX = 30_000;

/** Builds the binary if need be, and returns its path. */
export function binary() {
  const build = spawnSync("cargo", ["build", "--quiet", "-p", "shoal", "--message-format=json"], {
    cwd: ROOT,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 64 << 20,
  });
  const messages = build.stdout.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  const made = messages.find((message) => message.target?.name === "shoal" && message.executable);
  if (build.status !== 0 || !made) throw new Error("environment: the shoal binary does not build");
  return made.executable;
}

export async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts source, proxy, tracker and `viewers` native viewers. */
export async function startDemo({ viewers }) {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const child = spawn(binary(), ["demo", "--listen", `127.0.0.1:${port}`, "--viewers", String(viewers)], {
    cwd: ROOT,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let log = "";
  child.stderr.on("data", (text) => (log = (log + text).slice(-20_000)));
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const get = async (path) => (await fetch(url + path)).json();
  const until = Date.now() + START_MS_MAX;
  let config;
  while (!config) {
    if (child.exitCode !== null || Date.now() > until) throw new Error(`the demo does not start:\n${log}`);
    config = await get("/demo/config").catch(() => undefined);
    if (!config) await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return {
    url,
    config,
    stream: `http://127.0.0.1:${config.stream_port}${config.stream_path}`,
    tracker: `ws://127.0.0.1:${config.tracker_port}/`,
    state: () => get("/demo/state"),
    mesh: (stream) => get(`/api/streams/${stream}/mesh`),
    control: (what) => fetch(`${url}/control/${what}`, { method: "POST", headers: { "x-shoal-demo": "1" } }),
    log: () => log,
    async stop() {
      child.kill("SIGINT");
      const late = setTimeout(() => child.kill("SIGKILL"), 10_000);
      await ended;
      clearTimeout(late);
    },
  };
}
