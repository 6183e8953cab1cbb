// What three viewers of a simulated swarm were told, played to the WebAssembly module: every answer
// is that of the native machine, whose digests `tests/swarm_trace.rs` writes.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import * as glue from "#glue";
import type { Module, Shim } from "../src/machine";

declare const SHIM_ROOT: string;
const wasm = join(SHIM_ROOT, "dist/player_shim_bg.wasm");
const options = { skip: existsSync(wasm) ? false : "run `cargo xtask wasm` first" };
const module = glue as unknown as Module;

if (!options.skip) glue.initSync({ module: readFileSync(wasm) });

interface Line {
  viewer: number;
  us: number;
  call: string;
  args: (string | number | boolean | { hex: string })[];
}

/** FNV-1a of 64 bits. */
class Digest {
  private state = 0xcbf29ce484222325n;

  add(bytes: Uint8Array): void {
    for (const byte of bytes) {
      this.state = BigInt.asUintN(64, (this.state ^ BigInt(byte)) * 0x100000001b3n);
    }
  }

  hex(): string {
    return this.state.toString(16).padStart(16, "0");
  }
}

const lines = (file: string): string[] =>
  readFileSync(join(SHIM_ROOT, "golden", file), "utf8").trim().split("\n");

const bytesOf = (words: Uint32Array | Float64Array): Uint8Array =>
  new Uint8Array(words.buffer, words.byteOffset, words.byteLength);

function call(shim: Shim, line: Line): Uint32Array {
  const args = line.args.map((arg) => (typeof arg === "object" ? Buffer.from(arg.hex, "hex") : arg));
  if (line.call === "read_playlist") {
    const window = shim.read_playlist(args[0] as string, args[1] as string);
    return Uint32Array.of(window?.track() ?? 0, window?.target_ms() ?? 0);
  }
  const method = shim[line.call as "tick"] as (...args: unknown[]) => Uint32Array;
  return method.call(shim, line.us / 1000, ...args);
}

test("a swarm's viewers get the same answers from the module as from the native machine", options, () => {
  const viewers = new Map<number, { shim: Shim; digest: Digest }>();
  const digests = lines("swarm.digests");
  const inputs = lines("swarm.jsonl");
  assert.equal(inputs.length, digests.length);
  assert.ok(inputs.length > 1000);
  inputs.forEach((text, at) => {
    const line = JSON.parse(text) as Line;
    let viewer = viewers.get(line.viewer);
    if (!viewer) {
      viewer = { shim: new module.Shim("", line.viewer, 1, line.us / 1000), digest: new Digest() };
      viewers.set(line.viewer, viewer);
    }
    const { shim, digest } = viewer;
    digest.add(bytesOf(call(shim, line)));
    digest.add(shim.arena());
    digest.add(bytesOf(Float64Array.of(shim.next_wakeup_ms())));
    digest.add(bytesOf(Float64Array.from(shim.stats())));
    assert.equal(digest.hex(), digests[at], `line ${at + 1}: ${text}`);
  });
  for (const { shim } of viewers.values()) shim.free();
});
