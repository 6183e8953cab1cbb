// Our own programs, built from this tree, on ports of their own.

import { spawn, spawnSync } from "node:child_process";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const START_MS_MAX = 30_000;
const STOP_MS_MAX = 10_000;
const LOG_LEN_MAX = 20_000;

let built;

/** Builds the binary if need be, and returns its path; SHOAL names one that is there already. */
export function binary() {
  built ??= process.env.SHOAL ?? build();
  return built;
}

function build() {
  const cargo = spawnSync("cargo", ["build", "--quiet", "-p", "shoal", "--message-format=json"], {
    cwd: ROOT,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 64 << 20,
  });
  const messages = cargo.stdout.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  const made = messages.find((message) => message.target?.name === "shoal" && message.executable);
  if (cargo.status !== 0 || !made) throw new Error("environment: the shoal binary does not build");
  return made.executable;
}

export async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts `shoal` and waits until `url` answers. */
export async function start(args, url) {
  const child = spawn(binary(), args, { cwd: ROOT, stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.on("data", (text) => (log = (log + text).slice(-LOG_LEN_MAX)));
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const until = Date.now() + START_MS_MAX;
  while (!(await fetch(url).then(({ ok }) => ok, () => false))) {
    if (child.exitCode !== null || Date.now() > until) throw new Error(`${args[0]} does not start:\n${log}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return {
    log: () => log,
    async stop() {
      child.kill("SIGINT");
      const late = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
      await ended;
      clearTimeout(late);
    },
  };
}
