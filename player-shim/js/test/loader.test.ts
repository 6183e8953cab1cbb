import assert from "node:assert/strict";
import { test } from "node:test";
import type { LoaderContext } from "../src/hlsjs/types";
import { FakeEngine, Own, delivery, setUp } from "./loading";

test("a delivery goes to the player with the timings that the machine says", async () => {
  const { engine, loader, log, load, data } = setUp();
  const { stats } = loader;
  await load();
  const bytes = new ArrayBuffer(100_000);
  engine?.waiting?.onDelivered(delivery(bytes));
  assert.deepEqual(log, ["success"]);
  assert.equal(engine?.grainMs, 0, "whole segments, unless the player wants progress");
  assert.equal(data(), bytes);
  assert.equal(loader.stats, stats, "hls.js keeps the object");
  const { start, first, end } = stats.loading;
  assert.equal(Math.round(end - first), 800);
  assert.equal(Math.round(first - start), 40);
  assert.equal(stats.loaded, 100_000);
  assert.equal(Own.made.length, 0);
  loader.destroy();
  assert.equal(engine?.abandoned, 0);
});

test("the machine hears of the buffer before it is asked", async () => {
  const { engine, load } = setUp();
  await load();
  assert.equal(engine?.looksBeforeWant, 1);
});

test("nothing is reported as loaded before it is delivered", async () => {
  const { loader, load } = setUp();
  await load();
  assert.equal(loader.stats.loaded, 0);
  assert.equal(loader.stats.loading.first, 0);
  assert.ok(loader.stats.loading.start > 0);
  loader.destroy();
});

test("the engine fetches with the player's URL", async () => {
  const { engine, loader, load, full } = setUp();
  await load();
  assert.equal(engine?.entry.url, full.url);
  loader.destroy();
});

for (const [what, context] of [
  ["init segments", { frag: { sn: "initSegment", level: 0, type: "main", duration: 0 } }],
  ["what no playlist listed", { url: "https://cdn.example/key.bin" }],
  ["what is no fragment", { frag: undefined }],
] as [string, Partial<LoaderContext>][]) {
  test(`${what} are the player's own loader's`, async () => {
    const { engine, load } = setUp(context);
    await load();
    assert.equal(engine?.waiting, null);
    assert.deepEqual(Own.made[0]?.calls, ["load"]);
  });
}

test("a part of a segment is the engine's, and looks young while it is in time", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const { engine, host, loader, asked, load, data } = setUp({ part: { index: 0 } });
  host.bufferMs = 1000;
  await load();
  assert.deepEqual(asked, [[1, true]]);
  const { start } = loader.stats.loading;
  while (performance.now() < start + 3);
  t.mock.timers.tick(100);
  assert.ok(loader.stats.loading.start >= start + 3, "hls.js would give it up after half of its duration");
  const bytes = new ArrayBuffer(100_000);
  engine?.waiting?.onDelivered(delivery(bytes));
  assert.equal(data(), bytes);
  assert.equal(engine?.grainMs, 0);
  assert.equal(Own.made.length, 0);
});

test("without an engine everything is the own loader's, with the same statistics", async () => {
  const { loader, log, load, owned } = setUp({}, null);
  const { stats } = loader;
  await load();
  const own = Own.made[0] as Own;
  assert.equal(own.stats, stats);
  stats.loaded = 5;
  own.callbacks?.onSuccess({ url: "", data: "x" }, stats, own.context as LoaderContext, null);
  assert.deepEqual(log, ["success"]);
  assert.deepEqual(owned, [[5, false]]);
  loader.destroy();
  assert.deepEqual(own.calls, ["load", "destroy"]);
});

test("a bypass, at once or later, hands over to the own loader", async () => {
  for (const atOnce of [true, false]) {
    const engine = new FakeEngine();
    engine.atOnce = atOnce;
    const { loader, load, log } = setUp({}, engine);
    await load();
    if (!atOnce) engine.waiting?.onBypass(true);
    const own = Own.made[0] as Own;
    assert.deepEqual(own.calls, ["load"]);
    assert.equal(own.stats, loader.stats);
    assert.ok(own.startAtLoad > 0);
    loader.abort();
    assert.deepEqual(own.calls, ["load", "abort"]);
    assert.deepEqual(log, ["abort"]);
    loader.destroy();
    assert.equal(engine.abandoned, 0);
  }
});

test("abort tells the engine and the player, and nothing comes after it", async () => {
  const { engine, loader, log, load } = setUp();
  await load();
  loader.abort();
  assert.deepEqual(log, ["abort"]);
  assert.equal(engine?.abandoned, 1);
  assert.ok(loader.stats.aborted);
  loader.destroy();
  engine?.waiting?.onDelivered(delivery(new ArrayBuffer(1), 1, 1));
  assert.deepEqual(log, ["abort"]);
});

test("destroy without abort cancels silently", async () => {
  const { engine, loader, log, load } = setUp();
  await load();
  loader.destroy();
  assert.equal(engine?.abandoned, 1);
  engine?.waiting?.onDelivered(delivery(new ArrayBuffer(1), 1, 1));
  engine?.waiting?.onBypass(false);
  assert.deepEqual(log, []);
  assert.equal(Own.made.length, 0);
});

test("an engine that throws is stopped, and the player does not notice", async () => {
  const engine = new FakeEngine();
  engine.lookup = () => {
    throw new Error("unreachable executed");
  };
  const { load } = setUp({}, engine);
  await load();
  assert.equal(engine.faults.length, 1);
  assert.deepEqual(Own.made[0]?.calls, ["load"]);
});

test("an answer that never comes is replaced by the own loader's", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { engine, load, loader } = setUp();
  await load();
  t.mock.timers.tick(15_001);
  assert.deepEqual(Own.made[0]?.calls, ["load"]);
  assert.equal(engine?.abandoned, 1);
  loader.destroy();
});

test("a loader serves once", async () => {
  const { load, loader } = setUp();
  await load();
  await assert.rejects(load, /once/);
  loader.destroy();
});

test("a segment whose playlist is heard of in the same turn is the engine's", async () => {
  const engine = new FakeEngine();
  const { lookup } = engine;
  engine.lookup = () => null;
  const { load, loader } = setUp({}, engine);
  const loaded = load();
  engine.lookup = lookup;
  await loaded;
  assert.ok(engine.waiting);
  assert.equal(Own.made.length, 0);
  loader.destroy();
});

test("abort and destroy before the engine is asked end the request", async () => {
  for (const end of ["abort", "destroy"] as const) {
    const { engine, load, loader, log } = setUp();
    const loaded = load();
    loader[end]();
    await loaded;
    assert.equal(engine?.waiting, null);
    assert.deepEqual(log, end === "abort" ? ["abort"] : []);
  }
});
