// What the demo's server offers. Nothing here throws: no answer is `null`.

async function json(path) {
  try {
    const answer = await fetch(path, { signal: AbortSignal.timeout(4000) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

export const config = () => json("/demo/config");
export const state = () => json("/demo/state");
export const mesh = (stream) => json(`/api/streams/${stream}/mesh`);

/** Flips a switch of the demo; resolves to why it did not work, or to null. */
export async function control(what, action) {
  try {
    const answer = await fetch(`/control/${what}/${action}`, { method: "POST", headers: { "x-shoal-demo": "1" } });
    return answer.ok ? null : await answer.text();
  } catch {
    return "The demo does not answer.";
  }
}

/** Tells the demo how this tab is doing, so that it counts in the audience's figures. */
export async function reportTab(id, stats, gone) {
  const body = JSON.stringify({
    id, gone, peer: stats.peer,
    bytes_cdn: stats.bytes_cdn, bytes_p2p: stats.bytes_p2p, bytes_up: stats.bytes_up,
    stalls: stats.stalls, stalled: stats.stalled,
    buffer_ms: Math.round((stats.buffer_s || 0) * 1000), lag_ms: Math.round((stats.latency_s || 0) * 1000),
    flows: stats.neighbours.map(({ peer, bytes_in, bytes_out }) => ({ peer, bytes_in, bytes_out })),
  });
  if (gone) return void navigator.sendBeacon("/demo/tab", body);
  try {
    await fetch("/demo/tab", { method: "POST", body, signal: AbortSignal.timeout(4000) });
  } catch {
    // The next report says it again.
  }
}
