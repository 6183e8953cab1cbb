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

/** Of what is seen of a viewer that plays. */
const IDLE_MAX = 0.02;
/** Faster, media was jumped over. */
const RATE_MAX = 1.02;
/**
 * Without a sound card Chromium's clock stands still while the machine is taken away: with eight seconds in the
 * buffer, and nothing to wait for, pages played at 0.73 to 0.96x on nine to four tenths of a core.
 */
const RATE_MIN = 0.5;

/** Between two readings the viewer has played all the time, without a stall or a jump. */
export function assertPlayed(before, after, name) {
  assertNoStall(before, after, `${name} stalled: ${after.errors}`);
  const taken = after.looks.taken - before.looks.taken;
  const idle = (after.looks.idle - before.looks.idle) / taken;
  assert.ok(idle < IDLE_MAX, `${name} does not play in ${idle.toFixed(3)} of ${taken} looks`);
  const wallS = (after.now - before.now) / 1000;
  const rate = (after.time - before.time) / wallS;
  assert.ok(rate > RATE_MIN && rate < RATE_MAX, `${name} plays at ${rate.toFixed(3)}x over ${wallS.toFixed(1)} s`);
}

/**
 * Waits until all viewers have played without a stall or a jump for so long in a row, and `check` throws nothing of
 * their readings before and after: a player that began late, or was held up, has to find its place first.
 */
export async function eventuallyPlayed(viewers, { forS, withinS }, check) {
  const until = Date.now() + (forS + withinS) * 1000;
  const taken = [];
  for (;;) {
    const end = await Promise.all(viewers.map((viewer) => viewer.read()));
    taken.push(end);
    const isOld = (readings) => readings.every(({ now }, index) => end[index].now - now >= forS * 1000);
    while (taken.length > 1 && isOld(taken[1])) taken.shift();
    const [start] = taken;
    if (isOld(start)) {
      try {
        end.forEach((reading, index) => {
          assertPlayed(start[index], reading, `viewer ${index}`);
          check(start[index], reading);
        });
        return [start, end];
      } catch (notYet) {
        if (Date.now() > until) throw notYet;
      }
    }
    await seconds(1);
  }
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

const sum = (list, of) => list.reduce((total, item) => total + of(item), 0);

/** Share of the bytes that peers brought, between two readings of `{cdn, p2p}`. */
export function offload(before, after) {
  const p2p = sum(after, (viewer) => viewer.p2p) - sum(before, (viewer) => viewer.p2p);
  const cdn = sum(after, (viewer) => viewer.cdn) - sum(before, (viewer) => viewer.cdn);
  return p2p / (p2p + cdn);
}
