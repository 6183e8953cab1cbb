// A tracker of its own for a test, with networks of several countries.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { NETWORKS } from "./audience.mjs";
import { binary, freePort } from "./demo.mjs";

const START_MS_MAX = 30_000;
export const TOKEN = "the operator's token";

/** Starts `shoal tracker`; `settings` are more lines of TOML for its head. */
export async function startTracker(settings = "") {
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), "shoal-dashboard-"));
  const rules = NETWORKS.map(([country, asn, isp], i) =>
    `[[networks]]\ncidrs = ["10.${i}.0.0/16"]\ncountry = "${country}"\nasn = ${asn}\nisp = "${isp}"`);
  const config = [
    `listen = "127.0.0.1:${port}"`, `admin_token = "${TOKEN}"`, `trusted_proxies = ["127.0.0.0/8"]`, settings, ...rules,
    "[stun]", `listen = "127.0.0.1:0"`, "[limits]", "connections_per_address_max = 100000", "joins_burst = 100000", "drain_ms = 300",
  ];
  writeFileSync(join(folder, "tracker.toml"), config.join("\n"));
  const child = spawn(binary(), ["tracker", "--config", join(folder, "tracker.toml")], { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.on("data", (text) => (log = (log + text).slice(-20_000)));
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const url = `http://127.0.0.1:${port}`;
  const until = Date.now() + START_MS_MAX;
  while (!(await fetch(`${url}/readyz`).then(({ ok }) => ok, () => false))) {
    if (child.exitCode !== null || Date.now() > until) throw new Error(`the tracker does not start:\n${log}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return {
    url,
    socket: `ws://127.0.0.1:${port}/`,
    async stop() {
      child.kill("SIGINT");
      const late = setTimeout(() => child.kill("SIGKILL"), 10_000);
      await ended;
      clearTimeout(late);
      rmSync(folder, { recursive: true });
    },
  };
}
