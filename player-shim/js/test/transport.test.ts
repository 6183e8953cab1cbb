import assert from "node:assert/strict";
import { test } from "node:test";
import { CHUNK_HEADER_LEN, CHUNK_LEN_MAX } from "../src/abi.gen";
import { decodeActions } from "../src/codec";
import { Core } from "../src/core";
import type { Shim } from "../src/machine";
import { Reassembly, readChunk, writeChunk, type Chunk } from "../src/reassembly";
import { body, manifestOf } from "./helpers";

const bytes = body(20_000);
const manifest = manifestOf(bytes);
const chunk = (piece: number, offset: number, part: Uint8Array): Chunk => ({
  segment: manifest.id,
  piece,
  offset,
  bytes: part,
});

test("chunks round-trip", () => {
  const sent = chunk(63, 5, body(10));
  const frame = writeChunk(sent);
  assert.equal(frame.length, CHUNK_HEADER_LEN + 10);
  assert.deepEqual(readChunk(frame), { ...sent, segment: "0123456789abcdef" });
});

test("malformed chunks are refused", () => {
  assert.equal(readChunk(writeChunk(chunk(0, 0, new Uint8Array(0)))), null);
  assert.equal(readChunk(writeChunk(chunk(0, 0, new Uint8Array(CHUNK_LEN_MAX + 1)))), null);
  assert.equal(readChunk(new Uint8Array([0x11, 1, 2])), null);
  assert.equal(readChunk(new Uint8Array([0x12])), null);
});

test("chunks in order make the piece", () => {
  const reassembly = new Reassembly();
  assert.equal(reassembly.push(manifest, chunk(0, 0, bytes.subarray(0, 10_000))), "partial");
  assert.deepEqual(reassembly.push(manifest, chunk(1, 0, bytes.subarray(16_384))), bytes.subarray(16_384));
  const whole = reassembly.push(manifest, chunk(0, 10_000, bytes.subarray(10_000, 16_384)));
  assert.deepEqual(whole, bytes.subarray(0, 16_384));
});

test("whatever breaks the rules is told", () => {
  const reassembly = new Reassembly();
  assert.equal(reassembly.push(manifest, chunk(0, 1, body(1))), "broken");
  assert.equal(reassembly.push(manifest, chunk(2, 0, body(1))), "broken");
  assert.equal(reassembly.push(manifest, chunk(1, 0, body(16_384))), "broken");
  const many = manifestOf(body(16_384 * 20));
  for (let piece = 0; piece < 8; piece++) {
    assert.equal(reassembly.push(many, chunk(piece, 0, body(1))), "partial");
  }
  assert.equal(reassembly.push(many, chunk(8, 0, body(1))), "broken");
  reassembly.forget(many.id);
  assert.equal(reassembly.push(many, chunk(8, 0, body(1))), "partial");
});

test("actions are read by the generated table", () => {
  const words = new Uint32Array([0, 7, 0, 0xaa, 16_384, 5, 2, 1, 1, 2, 1, 0, 9, 3, 1, 4, 7, 3, 6]);
  let asked = 0;
  const arena = (): Uint8Array => {
    asked += 1;
    return body(8);
  };
  assert.deepEqual(decodeActions(words, arena), [
    { kind: "fetchCdn", fetch: 7, name: "00000000000000aa", first: 16_384, length: 5 },
    { kind: "deliverSegment", request: 1, segment: "0000000100000002", reportedBps: 2 ** 32 },
    { kind: "sendFrame", slot: 3, frame: body(8).slice(1, 4) },
    { kind: "close", slot: 3, reason: "replaced" },
  ]);
  assert.equal(asked, 1);
  assert.throws(() => decodeActions(new Uint32Array([99]), arena), /unknown/);
  assert.throws(() => decodeActions(new Uint32Array([4]), arena), /early/);
});

/** A machine that answers every tick with one bypass. */
function fakeShim(): Shim {
  return {
    next_wakeup_ms: () => -1,
    arena: () => new Uint8Array(0),
    tick: () => new Uint32Array([4, 1, 4, 2]),
    leave: () => new Uint32Array([4, 3]),
  } as unknown as Shim;
}

test("inputs given by an action wait for the actions before them", () => {
  const seen: number[] = [];
  const core: Core = new Core(
    fakeShim(),
    (action) => {
      if (action.kind !== "bypass") return;
      seen.push(action.request);
      if (action.request === 1) core.run((shim, now) => shim.leave(now));
    },
    (error) => assert.ifError(error),
  );
  core.run((shim, now) => shim.tick(now));
  assert.deepEqual(seen, [1, 2, 3]);
  core.stop();
});

test("an action that stops the machine is the last", () => {
  const seen: number[] = [];
  const core: Core = new Core(
    fakeShim(),
    (action) => {
      if (action.kind === "bypass") seen.push(action.request);
      core.stop();
    },
    (error) => assert.ifError(error),
  );
  core.run((shim, now) => shim.tick(now));
  assert.deepEqual(seen, [1]);
});

test("a fault stops the machine once and for all", () => {
  const faults: unknown[] = [];
  const core = new Core(
    fakeShim(),
    () => {
      throw new Error("unreachable");
    },
    (error) => faults.push(error),
  );
  core.run((shim, now) => shim.tick(now));
  core.run((shim, now) => shim.tick(now));
  assert.equal(faults.length, 1);
});
