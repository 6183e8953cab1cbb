// The servers of a test: `shoal demo`, built from this tree, on ports of its own.

import { freePort, start } from "../../lib/programs.mjs";

/** Starts source, proxy, tracker and `viewers` native viewers. */
export async function startDemo({ viewers }) {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const args = ["demo", "--listen", `127.0.0.1:${port}`, "--viewers", String(viewers)];
  const program = await start(args, `${url}/demo/config`);
  const get = async (path) => (await fetch(url + path)).json();
  const config = await get("/demo/config");
  return {
    ...program,
    url,
    config,
    stream: `http://127.0.0.1:${config.stream_port}${config.stream_path}`,
    tracker: `ws://127.0.0.1:${config.tracker_port}/`,
    state: () => get("/demo/state"),
    mesh: (stream) => get(`/api/streams/${stream}/mesh`),
    control: (what) => fetch(`${url}/control/${what}`, { method: "POST", headers: { "x-shoal-demo": "1" } }),
  };
}
