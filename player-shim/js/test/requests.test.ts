import assert from "node:assert/strict";
import { test } from "node:test";
import { Requests, type Delivery, type Waiting } from "../src/requests";
import { Store, type Manifest } from "../src/store";
import { body, manifestOf } from "./helpers";

const bytes = body(50_000);
const manifest = manifestOf(bytes);
const other: Manifest = { ...manifest, id: "fedcba9876543210" };

/** What one request got. */
class Player implements Waiting {
  parts: ArrayBuffer[] = [];
  totals: number[] = [];
  delivery: Delivery | null = null;
  bypasses: boolean[] = [];
  stops = 0;

  onReleased(data: ArrayBuffer, total: number): void {
    this.parts.push(data);
    this.totals.push(total);
  }

  onDelivered(delivery: Delivery): void {
    this.delivery = delivery;
  }

  onBypass(failed: boolean): void {
    this.bypasses.push(failed);
  }

  onStopped(): void {
    this.stops += 1;
  }

  all(): Uint8Array {
    return new Uint8Array(Buffer.concat([...this.parts, this.delivery?.data ?? new ArrayBuffer(0)].map((part) => Buffer.from(part))));
  }
}

/** A store with the first pieces of the segment. */
function storeWith(pieces: number): Store {
  const store = new Store(1 << 20);
  store.add(manifest);
  putUpTo(store, pieces);
  return store;
}

function putUpTo(store: Store, pieces: number, id = manifest.id): void {
  for (let piece = 0; piece < pieces; piece += 1) {
    const start = piece * manifest.pieceLen;
    store.put(id, piece, bytes.subarray(start, start + manifest.pieceLen));
  }
}

function ask(store: Store): { requests: Requests; player: Player } {
  const [requests, player] = [new Requests(store), new Player()];
  requests.add(1, player);
  return { requests, player };
}

test("what is released and what is delivered are the segment, each byte once", () => {
  const store = storeWith(1);
  const { requests, player } = ask(store);
  assert.ok(requests.release(1, manifest.id, 1));
  putUpTo(store, 3);
  assert.ok(requests.release(1, manifest.id, 3));
  assert.ok(requests.release(1, manifest.id, 3), "nothing new");
  putUpTo(store, 4);
  assert.ok(requests.deliver(1, manifest.id, 1_000_000, 40));
  assert.deepEqual(player.parts.map((part) => part.byteLength), [16_384, 32_768]);
  assert.deepEqual(player.totals, [50_000, 50_000]);
  assert.equal(player.delivery?.data.byteLength, 50_000 - 49_152);
  assert.equal(player.delivery?.pieceLen, manifest.pieceLen);
  assert.deepEqual(player.all(), bytes);
  assert.equal(requests.size, 0);
});

test("without a release the delivery is the whole segment", () => {
  const { requests, player } = ask(storeWith(4));
  assert.ok(requests.deliver(1, manifest.id, 1_000_000, 40));
  assert.deepEqual(player.parts, []);
  assert.deepEqual(player.all(), bytes);
});

test("two requests for a segment each get all of it", () => {
  const store = storeWith(2);
  const { requests, player } = ask(store);
  requests.release(1, manifest.id, 2);
  const second = new Player();
  requests.add(2, second);
  putUpTo(store, 4);
  for (const request of [1, 2]) assert.ok(requests.deliver(request, manifest.id, 1, 1));
  assert.deepEqual(player.all(), bytes);
  assert.deepEqual(second.all(), bytes);
});

test("a segment that was evicted or replaced after a release is not continued with another", () => {
  const store = storeWith(2);
  const { requests, player } = ask(store);
  requests.release(1, manifest.id, 2);
  store.evict(manifest.id);
  store.add(other);
  putUpTo(store, 4, other.id);
  assert.equal(requests.release(1, manifest.id, 4), false);
  assert.equal(requests.release(1, other.id, 4), false);
  assert.equal(requests.deliver(1, other.id, 1, 1), false);
  store.putBody(7, bytes.slice());
  assert.equal(requests.deliverBody(1, 7, 1, 1), false, "nothing vouches for it");
  requests.bypass(1, true);
  assert.equal(player.parts.length, 1);
  assert.equal(player.delivery, null);
  assert.deepEqual(player.bypasses, [true]);
});

test("what is not stored is not released", () => {
  const { requests, player } = ask(storeWith(2));
  assert.equal(requests.release(1, manifest.id, 3), false);
  assert.equal(requests.deliver(1, manifest.id, 1, 1), false);
  assert.deepEqual(player.parts, []);
});

test("an unverified body goes to who was handed nothing", () => {
  const store = storeWith(0);
  const { requests, player } = ask(store);
  store.putBody(7, bytes.slice());
  assert.ok(requests.deliverBody(1, 7, 1, 1));
  assert.deepEqual(player.all(), bytes);
  assert.equal(player.delivery?.pieceLen, 0);
});

test("after it was abandoned nothing comes", () => {
  const { requests, player } = ask(storeWith(4));
  requests.release(1, manifest.id, 1);
  assert.ok(requests.abandon(1));
  assert.equal(requests.abandon(1), false);
  assert.ok(requests.release(1, manifest.id, 2));
  assert.ok(requests.deliver(1, manifest.id, 1, 1));
  requests.stopAll();
  assert.equal(player.parts.length, 1);
  assert.equal(player.delivery, null);
  assert.deepEqual([player.bypasses, player.stops], [[], 0]);
});

test("all who wait are told that the engine stops, once", () => {
  const { requests, player } = ask(storeWith(4));
  requests.release(1, manifest.id, 1);
  requests.stopAll();
  requests.stopAll();
  requests.bypass(1, true);
  assert.deepEqual([player.bypasses, player.stops, requests.size], [[], 1, 0]);
});
