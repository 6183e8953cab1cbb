// hls.js with Shoal attached, as any page would do it.

const SEEN_MAX = 2000;

export class Player {
  /** `on`: `onSegment(segment)`, `onPlaying()`, `onTrouble(text)`. */
  constructor(video, config, on) {
    Object.assign(this, { video, config, on });
    const host = location.hostname;
    this.stream = `http://${host}:${config.stream_port}${config.stream_path}`;
    this.options = { tracker: `ws://${host}:${config.tracker_port}/`, key: config.key, wasmUrl: "/shim/shoal_bg.wasm" };
    this.shoal = null;
    this.hls = null;
    // What was counted before P2P was switched in this tab: each attachment begins at zero.
    this.before = { bytes_cdn: 0, bytes_p2p: 0, bytes_up: 0, stalls: 0 };
    this.down = new Map();
    this.shares = [];
  }

  start() {
    if (!window.Hls) {
      this.on.onTrouble("The player is missing: run `cargo xtask wasm`, then start the demo again.");
      return;
    }
    if (!Hls.isSupported()) {
      this.on.onTrouble("This browser has no Media Source Extensions, which hls.js needs.");
      return;
    }
    this.hls = new Hls({ backBufferLength: 30 });
    this.#attach(true);
    this.hls.loadSource(this.stream);
    this.hls.attachMedia(this.video);
    this.hls.on(Hls.Events.ERROR, (_, error) => this.#onError(error));
    this.video.addEventListener("playing", () => this.on.onPlaying());
    this.video.play().catch(() => {});
  }

  /** Switches P2P while playback goes on. */
  setP2p(on) {
    if (!this.shoal) return;
    const { bytes_cdn, bytes_p2p, bytes_up, stalls } = this.stats();
    this.before = { bytes_cdn, bytes_p2p, bytes_up, stalls };
    this.shoal.destroy();
    this.down.clear();
    this.#attach(on);
  }

  /** The lines of this page that make it a Shoal page. */
  lines() {
    return [
      `<script src="/shim/shoal.iife.js"></script>`,
      ``,
      `const hls = new Hls();                      // the page has this already`,
      `const shoal = Shoal.attach(hls, {`,
      `  tracker: "${this.options.tracker}", key: "${this.options.key}" });`,
    ].join("\n");
  }

  stats() {
    const now = this.shoal?.getStats();
    const { video, hls, before } = this;
    const sum = (of, name) => before[of] + (now?.[name] ?? 0);
    const [bytes_cdn, bytes_p2p] = [sum("bytes_cdn", "bytesCdn"), sum("bytes_p2p", "bytesP2p")];
    const level = hls?.levels?.[hls.currentLevel];
    return {
      bytes_cdn, bytes_p2p,
      bytes_up: sum("bytes_up", "bytesUp"),
      stalls: sum("stalls", "stalls"),
      peer: now?.peer || null,
      offload: bytes_cdn + bytes_p2p > 0 ? bytes_p2p / (bytes_cdn + bytes_p2p) : NaN,
      started: video.currentTime > 0,
      stalled: !video.paused && video.readyState < 3 && video.currentTime > 0,
      buffer_s: bufferOf(video),
      latency_s: hls && Number.isFinite(hls.latency) && hls.latency > 0 ? hls.latency : NaN,
      level: level?.height ? `${level.height}p` : "",
      neighbours: (now?.neighbours ?? []).map(({ peer, down, up }) => ({ peer, bytes_in: down, bytes_out: up })),
    };
  }

  #attach(p2p) {
    if (!window.Shoal) return; // the demo says so above the picture
    const shoal = Shoal.attach(this.hls, { ...this.options, p2p });
    shoal.on("segment", (segment) => this.#onSegment(segment));
    this.shoal = shoal;
  }

  /** Neighbours push ahead of time: what each has sent since the last segment tells their shares. */
  #onSegment({ seq, level, bytesCdn, bytesP2p }) {
    const sent = this.shoal.getStats().neighbours.map(({ peer, down }) => {
      const bytes = Math.max(0, down - (this.down.get(peer) ?? 0));
      if (this.down.size < SEEN_MAX) this.down.set(peer, down);
      return { peer, bytes };
    }).filter(({ bytes }) => bytes > 0);
    if (sent.length > 0) this.shares = sent;
    const all = this.shares.reduce((sum, { bytes }) => sum + bytes, 0);
    const sources = all > 0
      ? this.shares.map(({ peer, bytes }) => ({ peer, bytes: (bytes / all) * bytesP2p })) : [];
    const height = this.hls.levels?.[level]?.height;
    const title = `segment ${seq}, ${level < 0 ? "sound" : height ? `${height}p` : "video"}`;
    this.on.onSegment({ title, bytes_cdn: bytesCdn, bytes_p2p: bytesP2p, sources });
  }

  #onError({ fatal, type, details }) {
    if (!fatal) return;
    this.on.onTrouble(`Playback stopped (${details}); trying again`);
    if (type === Hls.ErrorTypes.MEDIA_ERROR) this.hls.recoverMediaError();
    else setTimeout(() => { this.hls.loadSource(this.stream); this.hls.startLoad(); }, 1500);
  }
}

function bufferOf(video) {
  const { buffered, currentTime } = video;
  for (let i = 0; i < buffered.length; i += 1) {
    if (buffered.start(i) <= currentTime + 0.25 && currentTime < buffered.end(i)) return buffered.end(i) - currentTime;
  }
  return 0;
}
