import assert from "node:assert/strict";
import { test } from "node:test";
import { Cutter, wantedPieces } from "../src/cutter";
import { Store, pieceCount, pieceSize } from "../src/store";
import { body, manifestOf } from "./helpers";

test("a segment is put together from its pieces, in any order", () => {
  const bytes = body(40_000);
  const manifest = manifestOf(bytes);
  const store = new Store(1 << 20);
  assert.equal(store.put(manifest.id, 0, bytes.subarray(0, 16_384)), "unknown");
  store.add(manifest);
  for (const piece of [2, 0, 1]) {
    assert.equal(store.part(manifest.id, 0, pieceCount(manifest)), null);
    const part = bytes.subarray(piece * 16_384, (piece + 1) * 16_384);
    assert.equal(store.put(manifest.id, piece, part), "stored");
    assert.equal(store.put(manifest.id, piece, part), "duplicate");
    assert.deepEqual(store.piece(manifest.id, piece), part);
  }
  assert.deepEqual(new Uint8Array(store.part(manifest.id, 0, pieceCount(manifest)) as ArrayBuffer), bytes);
});

test("what goes out is a copy: players detach buffers", () => {
  const bytes = body(100);
  const manifest = manifestOf(bytes);
  const store = new Store(1 << 20);
  store.add(manifest);
  store.put(manifest.id, 0, bytes);
  structuredClone(null, { transfer: [store.part(manifest.id, 0, pieceCount(manifest)) as ArrayBuffer] });
  assert.deepEqual(store.piece(manifest.id, 0), bytes);
});

test("the bound holds, and eviction makes room", () => {
  const bytes = body(20_000);
  const store = new Store(30_000);
  const first = manifestOf(bytes);
  const second = { ...first, id: "f".repeat(16) };
  store.add(first);
  store.add(second);
  assert.equal(store.put(first.id, 0, bytes.subarray(0, 16_384)), "stored");
  assert.equal(store.put(second.id, 0, bytes.subarray(0, 16_384)), "full");
  assert.equal(store.putBody(1, body(20_000)), false);
  store.evict(first.id);
  assert.equal(store.size, 0);
  assert.equal(store.put(second.id, 0, bytes.subarray(0, 16_384)), "stored");
  store.clear();
  assert.equal(store.size, 0);
});

test("bodies are kept until they are dropped", () => {
  const store = new Store(1000);
  assert.ok(store.putBody(1, body(100)));
  assert.deepEqual(new Uint8Array(store.body(1) as ArrayBuffer), body(100));
  store.dropBody(1);
  store.dropBody(1);
  assert.equal(store.body(1), null);
  assert.equal(store.size, 0);
});

test("the cutter finds whole pieces wherever the body begins", () => {
  const bytes = body(50_000);
  const manifest = manifestOf(bytes);
  for (const [skip, at] of [[0, 0], [0, 16_384], [0, 20_000], [7, 0]] as const) {
    const cutter = new Cutter(manifest, skip, at);
    const sent = Buffer.concat([new Uint8Array(skip), bytes.subarray(at), Buffer.from("more")]);
    const found: number[] = [];
    for (let from = 0; from < sent.length; from += 1000) {
      for (const [piece, part] of cutter.push(sent.subarray(from, from + 1000))) {
        assert.deepEqual(part, bytes.subarray(piece * 16_384, (piece + 1) * 16_384));
        found.push(piece);
      }
    }
    const first = Math.ceil(at / 16_384);
    assert.deepEqual(found, [0, 1, 2, 3].slice(first), `${skip} ${at}`);
  }
});

test("only ranges of whole pieces can be verified", () => {
  const manifest = manifestOf(body(50_000));
  assert.deepEqual(wantedPieces(manifest, 0, 0), [0, 1, 2, 3]);
  assert.deepEqual(wantedPieces(manifest, 16_384, 32_768), [1, 2]);
  assert.deepEqual(wantedPieces(manifest, 32_768, 100_000), [2, 3]);
  assert.equal(wantedPieces(manifest, 1, 16_384), null);
  assert.equal(wantedPieces(manifest, 0, 100), null);
  assert.equal(wantedPieces(manifest, 65_536, 1), null);
  assert.deepEqual([pieceCount(manifest), pieceSize(manifest, 3), pieceSize(manifest, 4)], [4, 848, 0]);
});
