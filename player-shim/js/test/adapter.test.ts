import assert from "node:assert/strict";
import { test } from "node:test";
import type { Engine } from "../src/engine";
import { HlsAdapter } from "../src/hlsjs/adapter";
import { Grains } from "../src/hlsjs/grain";
import type { HlsLike, LevelDetails, Loader } from "../src/hlsjs/types";
import type { Session } from "../src/session";
import { Own } from "./loading";

const SEGMENTS = 1;
const PARTS = 2;
const details: LevelDetails = { m3u8: "#EXTM3U", url: "https://cdn.example/i.m3u8", edge: 0, live: true };

/** A player of low-latency HLS, and what the engine is told of it. */
function setUp(lowLatencyMode: boolean) {
  const log: string[] = [];
  const engine = {
    playlist: (_text: string, _url: string, _level: number, wantsParts: boolean) => {
      const track = wantsParts ? PARTS : SEGMENTS;
      log.push(`follow ${track}`);
      return track;
    },
    endTrack: (track: number) => log.push(`end ${track}`),
    lookup: () => null,
  };
  const listeners = new Map<string, (event: string, data: never) => void>();
  const hls: HlsLike = {
    config: { loader: Own, lowLatencyMode } as unknown as HlsLike["config"],
    on: (event, listener) => listeners.set(event, listener),
    off: (event) => listeners.delete(event),
  };
  const session = {
    engine: engine as unknown as Engine,
    bufferMs: 1000,
    grains: new Grains(),
    look: () => {},
    onOwnLoad: () => {},
    onPlayback: () => {},
    destroy: () => session.onStop(),
    onReady: () => {},
    onStop: () => {},
    onAsked: () => {},
  };
  new HlsAdapter(hls, session as unknown as Session);
  const emit = (event: string, data: object = { details, level: 0 }): void => listeners.get(event)?.(event, data as never);
  const ask = async (isPart: boolean, type = "main"): Promise<void> => {
    const loader: Loader = new (hls.config.fLoader ?? Own)(hls.config);
    const frag = { sn: 1, level: 0, type, duration: 2 };
    const callbacks = { onSuccess() {}, onError() {}, onTimeout() {} };
    loader.load({ url: "https://cdn.example/seg", frag, part: isPart ? { index: 0 } : null }, {}, callbacks);
    await Promise.resolve();
    loader.destroy();
  };
  return { log, emit, ask, stop: () => session.destroy() };
}

test("a player of low latency shares parts, and whole segments once it asks for those", async () => {
  const { log, emit, ask, stop } = setUp(true);
  emit("hlsLevelLoaded");
  for (const isPart of [false, false, true, false, false]) await ask(isPart);
  assert.deepEqual(log, [`follow ${PARTS}`], "now and then a whole segment changes nothing");
  await ask(false);
  assert.deepEqual(log.splice(0), [`follow ${PARTS}`, `follow ${SEGMENTS}`, `end ${PARTS}`]);
  emit("hlsLevelLoaded");
  for (const isPart of [true, true, true]) await ask(isPart);
  assert.deepEqual(log, [`follow ${SEGMENTS}`, `follow ${PARTS}`, `end ${SEGMENTS}`]);
  stop();
});

test("sound and picture are told apart", async () => {
  const { log, emit, ask, stop } = setUp(true);
  emit("hlsAudioTrackLoaded");
  for (const isPart of [false, false, false]) await ask(isPart, "main");
  assert.deepEqual(log.splice(0), [`follow ${PARTS}`]);
  for (const isPart of [false, false, false]) await ask(isPart, "audio");
  assert.deepEqual(log, [`follow ${SEGMENTS}`, `end ${PARTS}`]);
  stop();
});

test("a player without low latency shares whole segments", () => {
  const { log, emit, stop } = setUp(false);
  emit("hlsLevelLoaded");
  assert.deepEqual(log, [`follow ${SEGMENTS}`]);
  stop();
});
