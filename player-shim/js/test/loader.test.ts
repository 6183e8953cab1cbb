import assert from "node:assert/strict";
import { test } from "node:test";
import type { Engine, Waiting } from "../src/engine";
import { loaderClass, type LoaderHost } from "../src/hlsjs/loader";
import { freshStats } from "../src/hlsjs/timings";
import type { HlsConfig, Loader, LoaderCallbacks, LoaderContext, LoaderStats } from "../src/hlsjs/types";

/** The player's own loader: records what is done to it. */
class Own implements Loader {
  static made: Own[] = [];
  context: LoaderContext | null = null;
  stats: LoaderStats = freshStats();
  calls: string[] = [];
  callbacks: LoaderCallbacks | null = null;
  startAtLoad = -1;

  constructor() {
    Own.made.push(this);
  }

  load(context: LoaderContext, _settings: object, callbacks: LoaderCallbacks): void {
    if (this.stats.loading.start) throw new Error("Loader can only be used once.");
    this.calls.push("load");
    this.startAtLoad = this.stats.loading.start = performance.now();
    this.context = context;
    this.callbacks = callbacks;
  }

  abort(): void {
    this.calls.push("abort");
    if (this.context) this.callbacks?.onAbort?.(this.stats, this.context, null);
  }

  destroy(): void {
    this.calls.push("destroy");
  }
}

/** An engine that knows one segment and answers when the test says so. */
class FakeEngine {
  waiting: Waiting | null = null;
  abandoned = 0;
  atOnce = false;
  faults: unknown[] = [];
  looks = 0;
  looksBeforeWant = 0;
  entry = { url: "" };

  lookup(url: string): { name: string; entry: { url: string } } | null {
    return url.includes("seg") ? { name: "00000000000000aa", entry: this.entry } : null;
  }

  want(_name: string, waiting: Waiting): number {
    this.waiting = waiting;
    this.looksBeforeWant = this.looks;
    if (this.atOnce) waiting.onBypass(false);
    return 1;
  }

  abandon(): void {
    this.abandoned += 1;
  }

  fault(error: unknown): void {
    this.faults.push(error);
  }
}

function setUp(context: Partial<LoaderContext> = {}, engine: FakeEngine | null = new FakeEngine()) {
  Own.made = [];
  const owned: [number, boolean][] = [];
  const host: LoaderHost = {
    engine: engine as unknown as Engine | null,
    bufferMs: 0,
    look: () => {
      if (engine) engine.looks += 1;
    },
    onOwnLoad: (_frag, bytes, _ms, failed) => owned.push([bytes, failed]),
  };
  const config = { loader: Own } as unknown as HlsConfig;
  const loader = new (loaderClass(host, Own))(config);
  const log: string[] = [];
  let success: unknown = null;
  const full: LoaderContext = {
    url: "https://cdn.example/v/seg-1.m4s?token=1",
    rangeStart: 0,
    rangeEnd: 0,
    frag: { sn: 1, level: 0, type: "main" },
    part: null,
    ...context,
  };
  const callbacks: LoaderCallbacks = {
    onSuccess: (response) => {
      success = response.data;
      log.push("success");
    },
    onError: () => log.push("error"),
    onTimeout: () => log.push("timeout"),
    onAbort: () => log.push("abort"),
  };
  const load = async (): Promise<void> => {
    loader.load(full, { loadPolicy: { maxLoadTimeMs: 60_000 } }, callbacks);
    await Promise.resolve();
  };
  return { engine, loader, log, load, owned, full, data: () => success };
}

test("a delivery goes to the player with the timings that the machine says", async () => {
  const { engine, loader, log, load, data } = setUp();
  const { stats } = loader;
  await load();
  const bytes = new ArrayBuffer(100_000);
  engine?.waiting?.onDelivered({ data: bytes, reportedBps: 1_000_000, ttfbMs: 40 });
  assert.deepEqual(log, ["success"]);
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
  ["init segments", { frag: { sn: "initSegment", level: 0, type: "main" } }],
  ["parts", { part: { index: 0 } }],
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
  engine?.waiting?.onDelivered({ data: new ArrayBuffer(1), reportedBps: 1, ttfbMs: 1 });
  assert.deepEqual(log, ["abort"]);
});

test("destroy without abort cancels silently", async () => {
  const { engine, loader, log, load } = setUp();
  await load();
  loader.destroy();
  assert.equal(engine?.abandoned, 1);
  engine?.waiting?.onDelivered({ data: new ArrayBuffer(1), reportedBps: 1, ttfbMs: 1 });
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
