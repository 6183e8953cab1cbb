// What must hold of every viewer.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";

export const seconds = (count) => new Promise((resolve) => setTimeout(resolve, count * 1000));

/** Waits until `holds` does; `what` says what was waited for. */
export async function eventually(what, secondsMax, holds) {
  const until = Date.now() + secondsMax * 1000;
  for (;;) {
    if (await holds()) return;
    assert.ok(Date.now() < until, `not within ${secondsMax} s: ${what}`);
    await seconds(0.5);
  }
}

/** Between two readings the viewer has not waited for media; where it did is told. */
export function assertNoStall(before, after, message) {
  assert.deepEqual(after.waits.slice(before.waits.length), [], message);
}

/** Of the looks at a viewer that plays. */
const IDLE_MAX = 0.02;

/** Between two readings the viewer has played at full speed, without a stall. */
export function assertPlayed(before, after, name) {
  assertNoStall(before, after, `${name} stalled: ${after.errors}`);
  const taken = after.looks.taken - before.looks.taken;
  const idle = (after.looks.idle - before.looks.idle) / taken;
  assert.ok(idle < IDLE_MAX, `${name} does not play in ${idle.toFixed(3)} of ${taken} looks`);
  // Without a sound card Chromium's clock falls behind while the host takes the machine away, with media in the buffer.
  const wall = (after.now - before.now) / 1000;
  const rate = (after.time - before.time) / wall;
  assert.ok(rate > 0.98 && rate < 1.02, `${name} plays at ${rate.toFixed(3)}x over ${wall.toFixed(1)} s`);
}

/** Every segment that a page got is the origin's, byte for byte. */
export async function assertBytes(readings) {
  const expected = new Map();
  let compared = 0;
  for (const { url, sha256 } of readings.flatMap((reading) => reading.segments)) {
    if (!sha256) continue; // still being hashed when it was read
    if (!expected.has(url)) {
      const answer = await fetch(url);
      const bytes = answer.ok ? Buffer.from(await answer.arrayBuffer()) : null;
      expected.set(url, bytes && createHash("sha256").update(bytes).digest("hex"));
    }
    const known = expected.get(url);
    if (known === null) continue; // has left the window
    assert.equal(sha256, known, url);
    compared += 1;
  }
  assert.ok(compared > 10, `only ${compared} segments could be compared`);
}

/** What hls.js says of loads that a seek ends, and of a machine that is too slow for a moment. */
const OF_SEEKS = /^(aborted|buffer(StalledError|NudgeOnStall|SeekOverHole)) fatal=false$/;
/** What is played after each seek, in seconds, and how long that may take. */
const PLAYED_S = 1;
const PLAYED_WITHIN_S = 30;

/**
 * That `viewer` plays a stream of `lengthS` from its start, and after seeking to each of `seeks`; from the last on until
 * the end. What the page says then.
 */
export async function seekToEnd(viewer, name, lengthS, seeks) {
  const isPlaying = (from) => async () => {
    const { time } = await viewer.read();
    return time > from + PLAYED_S;
  };
  const isAtEnd = async () => {
    const { isEnded, segments } = await viewer.read();
    return isEnded && segments.every(({ sha256 }) => sha256);
  };
  await eventually(`${name} plays`, PLAYED_WITHIN_S, isPlaying(0));
  for (const [index, to] of seeks.entries()) {
    await viewer.page.evaluate((to) => (document.querySelector("video").currentTime = to), to);
    await eventually(`${name} plays from ${to} s`, PLAYED_WITHIN_S, index === seeks.length - 1 ? isAtEnd : isPlaying(to));
  }
  const end = await viewer.read();
  assert.ok(Math.abs(end.time - lengthS) < 0.5, `${name} ends at ${end.time} s`);
  assert.deepEqual([end.errors.filter((error) => !OF_SEEKS.test(error)), viewer.complaints], [[], []], name);
  return end;
}

/** Every segment that a page got through the server at `url` is what `read` finds at its path, and in its range of that. */
export function assertFiles(segments, url, read) {
  for (const segment of segments) {
    assert.ok(segment.url.startsWith(url), segment.url);
    const [from, to] = segment.range ? segment.range.split("-").map(Number) : [0, Infinity];
    const bytes = read(new URL(segment.url).pathname).subarray(from, to + 1);
    const expected = createHash("sha256").update(bytes).digest("hex");
    assert.deepEqual([segment.len, segment.sha256], [bytes.length, expected], `${segment.url} ${segment.range}`);
  }
  assert.ok(segments.length > 0, "it got segments");
}

const sum = (list, of) => list.reduce((total, item) => total + of(item), 0);

/** Share of the bytes that peers brought, between two readings of `{cdn, p2p}`. */
export function offload(before, after) {
  const p2p = sum(after, (viewer) => viewer.p2p) - sum(before, (viewer) => viewer.p2p);
  const cdn = sum(after, (viewer) => viewer.cdn) - sum(before, (viewer) => viewer.cdn);
  return p2p / (p2p + cdn);
}
