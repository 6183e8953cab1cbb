// The WebAssembly module itself, where it has been built.
import assert from "node:assert/strict";
import { createHash, generateKeyPairSync, sign } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import * as glue from "#glue";
import type { Module } from "../src/machine";
import { Verifier, parseKey } from "../src/verify";
import { body } from "./helpers";

declare const SHIM_ROOT: string;
const wasm = join(SHIM_ROOT, "dist/player_shim_bg.wasm");
const options = { skip: existsSync(wasm) ? false : "run `cargo xtask wasm` first" };
const module = glue as unknown as Module;

if (!options.skip) glue.initSync({ module: readFileSync(wasm) });

interface Line {
  now: number;
  call: string;
  args: (string | number | boolean | { hex: string })[];
  words: number[];
  arena: string;
  wakeup: number;
  stats: number[];
}

test("the module does to the letter what the native machine does", options, () => {
  const shim = new module.Shim("have_batch_ms=50", 1, 2, 1000);
  const lines = readFileSync(join(SHIM_ROOT, "golden/trace.jsonl"), "utf8").trim().split("\n");
  assert.ok(lines.length > 20);
  for (const text of lines) {
    const line = JSON.parse(text) as Line;
    const args = line.args.map((arg) => (typeof arg === "object" ? Buffer.from(arg.hex, "hex") : arg));
    let words: number[];
    if (line.call === "read_playlist") {
      const window = shim.read_playlist(args[0] as string, args[1] as string);
      words = [window?.track() ?? 0, window?.target_ms() ?? 0];
    } else {
      const method = shim[line.call as "tick"] as (...args: unknown[]) => Uint32Array;
      words = [...method.call(shim, line.now, ...args)];
    }
    assert.deepEqual(words, line.words, text);
    assert.equal(Buffer.from(shim.arena()).toString("hex"), line.arena, text);
    assert.equal(shim.next_wakeup_ms(), line.wakeup, text);
    assert.deepEqual([...shim.stats()], line.stats, text);
  }
  shim.free();
});

const STREAM = "07".repeat(16);
const { publicKey, privateKey } = generateKeyPairSync("ed25519");
const key = publicKey.export({ format: "jwk" }).x as string;

/** A record of `bytes` as the origin-proxy makes it (`docs/protocol/records.md`). */
function recordOf(bytes: Uint8Array): Buffer {
  const pieceLen = 16_384;
  const hashes = [];
  for (let at = 0; at < bytes.length; at += pieceLen) {
    const digest = createHash("sha256").update(bytes.subarray(at, at + pieceLen)).digest();
    hashes.push(digest.subarray(0, 16));
  }
  const head = Buffer.alloc(49);
  head.writeUInt8(1, 0);
  head.fill(7, 1, 17);
  head.writeBigUInt64BE(0xaan, 17);
  head.writeBigUInt64BE(9n, 29);
  head.writeUInt32BE(2000, 37);
  head.writeUInt32BE(bytes.length, 41);
  head.writeUInt32BE(pieceLen, 45);
  const root = createHash("sha256").update(Buffer.concat(hashes)).digest();
  const signed = Buffer.concat([Buffer.from("shoal record v1\0"), head, root]);
  return Buffer.concat([head, sign(null, signed, privateKey), ...hashes]);
}

test("records are trusted by signature and stream, pieces by hash", options, async () => {
  const bytes = body(40_000);
  const record = recordOf(bytes);
  const verifier = await Verifier.create(module, [key]);
  verifier.stream = STREAM;
  const manifest = await verifier.fromHeader(record.toString("base64url"));
  assert.ok(manifest);
  assert.equal(manifest.name, "00000000000000aa");
  assert.equal(manifest.len, 40_000);
  assert.deepEqual(Buffer.from(manifest.bytes), record);
  assert.ok(await verifier.isPiece(manifest, 2, bytes.subarray(32_768)));
  assert.ok(!(await verifier.isPiece(manifest, 1, bytes.subarray(0, 16_384))));
  assert.ok(!(await verifier.isPiece(manifest, 3, new Uint8Array(0))));
  assert.ok(await verifier.fromBytes(record));
});

test("forged, foreign and malformed records are not trusted", options, async () => {
  const record = recordOf(body(40_000));
  const verifier = await Verifier.create(module, [key]);
  assert.equal(await verifier.fromBytes(record), null, "of another stream");
  verifier.stream = STREAM;
  const forged = Buffer.from(record);
  forged[20] = 1;
  assert.equal(await verifier.fromBytes(forged), null);
  assert.equal(await verifier.fromBytes(record.subarray(1)), null);
  assert.equal(await verifier.fromHeader("?"), null);
  const other = generateKeyPairSync("ed25519").publicKey.export({ format: "jwk" }).x as string;
  const stranger = await Verifier.create(module, [other]);
  stranger.stream = STREAM;
  assert.equal(await stranger.fromBytes(record), null);
});

test("keys are read in every notation, and mistakes are the page's", options, async () => {
  const bytes = Buffer.from(key, "base64url");
  for (const text of [key, bytes.toString("base64"), bytes.toString("hex"), ` ${key}\n`]) {
    assert.deepEqual(Buffer.from(parseKey(text)), bytes);
  }
  assert.throws(() => parseKey("abc"), /page/);
  await assert.rejects(Verifier.create(module, []), /page/);
});
