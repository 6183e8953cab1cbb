// Segments that are played while they arrive.
import assert from "node:assert/strict";
import { test } from "node:test";
import { GRAIN_MS, Grains, Layout } from "../src/hlsjs/grain";
import { Own, delivery, setUp } from "./loading";

const PIECE_LEN = 16_384;

/** A box of `len` bytes. */
function box(type: string, len: number): Uint8Array {
  const bytes = new Uint8Array(len);
  new DataView(bytes.buffer).setUint32(0, len);
  bytes.set(Buffer.from(type), 4);
  return bytes;
}

/** A segment whose fragments have these lengths. */
function cmaf(...lens: number[]): ArrayBuffer {
  const fragments = lens.flatMap((len) => [box("moof", 100), box("mdat", len - 100)]);
  return new Uint8Array(Buffer.concat([box("styp", 24), ...fragments])).buffer;
}

function layoutOf(segment: ArrayBuffer, step = segment.byteLength): Layout {
  const layout = new Layout();
  for (let at = 0; at < segment.byteLength; at += step) layout.push(segment.slice(at, at + step));
  return layout;
}

test("the grain of chunked CMAF is a chunk, and a piece, for hls.js appends it when the next one begins", () => {
  const segment = cmaf(...Array.from({ length: 8 }, () => 100_000));
  for (const step of [segment.byteLength, PIECE_LEN, 5]) {
    const grainMs = layoutOf(segment, step).grainMs(4000, PIECE_LEN);
    assert.equal(grainMs, Math.ceil(4000 * ((24 + 100_000 + PIECE_LEN) / segment.byteLength)), `steps of ${step}`);
  }
});

test("a first chunk that is larger than the others makes the grain coarser", () => {
  const segment = cmaf(300_000, 100_000, 100_000, 100_000);
  const grainMs = layoutOf(segment).grainMs(4000, PIECE_LEN);
  assert.equal(grainMs, Math.ceil(4000 * ((24 + 300_000 + PIECE_LEN) / segment.byteLength)));
});

test("the grain is never finer than the least, which MPEG-TS has", () => {
  assert.equal(layoutOf(cmaf(...Array.from({ length: 100 }, () => 10_000))).grainMs(4000, 1), GRAIN_MS);
  const ts = new Uint8Array(188 * 1000);
  for (let at = 0; at < ts.length; at += 188) ts[at] = 0x47;
  assert.equal(layoutOf(ts.buffer, PIECE_LEN).grainMs(4000, PIECE_LEN), GRAIN_MS);
  assert.equal(layoutOf(ts.buffer, PIECE_LEN).grainMs(GRAIN_MS, PIECE_LEN), 0, "a segment no longer than it");
});

test("segments of one fragment, of no boxes, cut short, or not vouched for have to be whole", () => {
  const noise = new Uint8Array(100_000).fill(3).buffer;
  const cut = cmaf(100_000, 100_000).slice(0, 150_000);
  for (const segment of [cmaf(800_000), noise, new ArrayBuffer(100_000), cut]) {
    assert.equal(layoutOf(segment, PIECE_LEN).grainMs(4000, PIECE_LEN), 0);
  }
  assert.equal(layoutOf(cmaf(100_000, 100_000, 100_000)).grainMs(4000, 0), 0);
});

test("coarser segments are remembered for a while, and one that has to be whole ends it", () => {
  const grains = new Grains();
  assert.equal(grains.of("main 0"), 0);
  grains.learn("main 0", 1600);
  grains.learn("main 0", 500);
  assert.equal(grains.of("main 0"), 1400);
  for (let count = 0; count < 20; count += 1) grains.learn("main 0", 500);
  assert.equal(grains.of("main 0"), 500);
  grains.learn("main 0", 0);
  assert.equal(grains.of("main 0"), 0);
  assert.equal(grains.of("main 1"), 0);
});

/** A loader of a player with `progressive: true`, whose track has shown its grain if `grainMs` is given. */
function progressive(grainMs = 700, context = {}) {
  const set = setUp(context);
  const { host, callbacks, engine } = set;
  if (grainMs) host.grains.learn("main 0", grainMs);
  host.bufferMs = 2000;
  const chunks: ArrayBuffer[] = [];
  callbacks.onProgress = (_stats, _context, data) => chunks.push(data as ArrayBuffer);
  const errors: number[] = [];
  callbacks.onError = ({ code }) => errors.push(code);
  return { ...set, chunks, errors, waiting: () => engine?.waiting };
}

test("the first segment of a track is whole, and shows the grain of those that follow", async () => {
  const { engine, host, loader, load, chunks, data, waiting } = progressive(0);
  await load();
  assert.equal(engine?.grainMs, 0);
  waiting()?.onDelivered(delivery(cmaf(100_000, 100_000, 100_000, 100_000)));
  assert.equal(chunks.length, 1);
  assert.equal((data() as ArrayBuffer).byteLength, 0);
  assert.ok(host.grains.of("main 0") >= 1000);
  loader.destroy();
});

test("what is released goes to the player at once, and the end brings nothing twice", async () => {
  const { engine, loader, log, load, chunks, data, waiting } = progressive();
  const { stats } = loader;
  await load();
  assert.equal(engine?.grainMs, 700);
  waiting()?.onReleased(new ArrayBuffer(30_000), 100_000);
  assert.deepEqual([stats.loaded, stats.total], [30_000, 100_000]);
  assert.ok(stats.loading.first > 0);
  waiting()?.onReleased(new ArrayBuffer(20_000), 100_000);
  assert.deepEqual(log, []);
  waiting()?.onDelivered(delivery(new ArrayBuffer(50_000)));
  assert.deepEqual(log, ["success"]);
  assert.deepEqual(chunks.map((chunk) => chunk.byteLength), [30_000, 20_000, 50_000]);
  assert.equal((data() as ArrayBuffer).byteLength, 0);
  assert.deepEqual([stats.loaded, stats.total], [100_000, 100_000]);
  const { start, first, end } = stats.loading;
  assert.equal(Math.round(end - first), 800);
  assert.equal(Math.round(first - start), 40);
  assert.equal(stats.chunkCount, 0, "hls.js counts them");
  loader.destroy();
});

test("a load that is in time never looks slow, and one that is late looks as it is", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "setTimeout"] });
  let at = 1000;
  t.mock.method(performance, "now", () => at);
  const pass = (ms: number): void => {
    for (const until = at + ms; at < until; ) {
      at += 100;
      t.mock.timers.tick(100);
    }
  };
  const { host, loader, load, waiting } = progressive();
  const { loading } = loader.stats;
  await load();
  pass(1500);
  assert.ok(at - loading.start <= 200, "before the first byte");
  waiting()?.onReleased(new ArrayBuffer(10_000), 100_000);
  pass(1500);
  assert.ok(at - loading.start <= 200, `${at - loading.start}`);
  assert.equal(loading.first, loading.start);
  host.bufferMs = 50;
  pass(200);
  assert.equal(loading.start, 1000);
  assert.equal(loading.first, 2500);
  host.bufferMs = 2000;
  pass(200);
  assert.ok(at - loading.start <= 200);
  const { start } = loading;
  loader.destroy();
  pass(1000);
  assert.equal(loading.start, start, "nothing is touched after the end");
});

test("a bypass after a release ends with an error that hls.js answers by asking again", async () => {
  for (const failed of [false, true]) {
    const { loader, load, errors, waiting } = progressive();
    await load();
    waiting()?.onReleased(new ArrayBuffer(10_000), 100_000);
    waiting()?.onBypass(failed);
    assert.deepEqual(errors, [503]);
    assert.equal(Own.made.length, 0, "what would come may not fit");
    loader.destroy();
  }
});

/** A load of 100,000 bytes whose first 10,000 the player was handed before the engine stopped. */
async function brokenOff(context = {}) {
  const set = progressive(700, context);
  await set.load();
  set.waiting()?.onReleased(new ArrayBuffer(10_000), 100_000);
  set.waiting()?.onStopped();
  return set;
}

/** The own loader's answer. */
function answer(len: number, code: number): void {
  const [own] = Own.made;
  if (!own?.context || !own.callbacks) throw new Error("it was not asked");
  own.stats.loading.first = own.stats.loading.start + 20;
  own.stats.loading.end = own.stats.loading.first + 90;
  const data = Uint8Array.from({ length: len }, (_, at) => at / 1000).buffer;
  own.callbacks.onSuccess({ url: own.context.url, data, code }, own.stats, own.context, null);
}

test("if the engine stops after a release the own loader brings the rest, and nothing twice", async () => {
  const { loader, chunks, data, errors, log, owned, full } = await brokenOff();
  const { context, callbacks } = Own.made[0] ?? {};
  assert.deepEqual([context?.url, context?.rangeStart, context?.rangeEnd], [full.url, 10_000, 100_000]);
  assert.equal(callbacks?.onProgress, undefined, "it comes at once");
  answer(90_000, 206);
  assert.deepEqual(chunks.map((chunk) => chunk.byteLength), [10_000, 90_000]);
  assert.equal((data() as ArrayBuffer).byteLength, 0);
  assert.deepEqual([log, errors, owned], [["success"], [], [[90_000, false]]]);
  const { loading, loaded, total } = loader.stats;
  assert.deepEqual([loaded, total], [100_000, 100_000]);
  assert.equal(Math.round(loading.end - loading.first), 100, "as fast as the CDN was with the rest");
  assert.equal(Math.round(loading.first - loading.start), 20);
  loader.destroy();
});

test("the rest is cut from a whole object, and is within a range of one", async () => {
  const { loader, chunks } = await brokenOff();
  answer(100_000, 200);
  assert.deepEqual(chunks.map((chunk) => chunk.byteLength), [10_000, 90_000]);
  assert.equal(new Uint8Array(chunks[1] ?? new ArrayBuffer(0))[0], 10);
  loader.destroy();
  const ranged = await brokenOff({ rangeStart: 5_000, rangeEnd: 105_000 });
  assert.deepEqual([Own.made[0]?.context?.rangeStart, Own.made[0]?.context?.rangeEnd], [15_000, 105_000]);
  ranged.loader.destroy();
});

test("a rest of another length is an error that hls.js answers by asking again", async () => {
  for (const [len, code] of [[80_000, 206], [120_000, 206], [99_999, 200]] as const) {
    const { loader, chunks, errors, log } = await brokenOff();
    answer(len, code);
    assert.deepEqual([chunks.length, errors, log], [1, [503], []]);
    loader.destroy();
  }
});

test("what ends the own loader's load of the rest ends the load", async () => {
  const { loader, log, errors, callbacks, full } = await brokenOff();
  callbacks.onError = (error, context) => (assert.equal(context, full), errors.push(error.code));
  const [own] = Own.made;
  own?.callbacks?.onTimeout(own.stats, full, null);
  own?.callbacks?.onError({ code: 404, text: "gone" }, full, null, own.stats);
  loader.abort();
  assert.deepEqual([log, errors, own?.calls], [["timeout", "abort"], [404], ["load", "abort"]]);
  assert.ok(loader.stats.aborted);
  loader.destroy();
  assert.deepEqual(own?.calls, ["load", "abort", "destroy"]);
});

test("a bypass before a release is the own loader's", async () => {
  const { loader, load, errors, waiting } = progressive();
  await load();
  waiting()?.onBypass(false);
  assert.deepEqual(Own.made[0]?.calls, ["load"]);
  assert.deepEqual(errors, []);
  loader.destroy();
});

test("a load that goes on for ever after a release ends with the own loader's rest", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { engine, loader, load, errors, log, owned, waiting } = progressive();
  await load();
  waiting()?.onReleased(new ArrayBuffer(10_000), 100_000);
  t.mock.timers.tick(17_001);
  assert.deepEqual([Own.made[0]?.context?.rangeStart, engine?.abandoned], [10_000, 1]);
  answer(90_000, 206);
  assert.deepEqual([log, errors, owned], [["success"], [], [[90_000, true]]]);
  loader.destroy();
});

test("abort and destroy after a release end it", async () => {
  for (const end of ["abort", "destroy"] as const) {
    const { engine, loader, load, log, chunks, waiting } = progressive();
    await load();
    waiting()?.onReleased(new ArrayBuffer(10_000), 100_000);
    loader[end]();
    assert.equal(engine?.abandoned, 1);
    waiting()?.onReleased(new ArrayBuffer(10_000), 100_000);
    waiting()?.onDelivered(delivery(new ArrayBuffer(1)));
    assert.deepEqual(log, end === "abort" ? ["abort"] : []);
    assert.equal(chunks.length, 1);
    loader.destroy();
  }
});
