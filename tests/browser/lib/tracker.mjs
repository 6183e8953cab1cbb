// A tracker of its own for a test, with networks of several countries.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { freePort, start } from "../../lib/programs.mjs";
import { NETWORKS } from "./audience.mjs";

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
  const url = `http://127.0.0.1:${port}`;
  const program = await start(["tracker", "--config", join(folder, "tracker.toml")], `${url}/readyz`);
  return {
    url,
    socket: `ws://127.0.0.1:${port}/`,
    async stop() {
      await program.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
