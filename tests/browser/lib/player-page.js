// Runs in the page: one player of one kind on one stream, and the books that the tests read.

/**
 * Starts each kind of player, and returns how it tells the wall-clock time (Unix, in milliseconds) of
 * what is at the playhead, or NaN while it does not know.
 */
const START = {
  async "hls.js"({ video, stream, books, shoal, settings }) {
    const hls = new Hls(settings);
    window.hls = hls;
    if (shoal) window.shoal = Shoal.attach(hls, shoal);
    keepBytes(hls, books.segments);
    hls.on(Hls.Events.ERROR, (_, error) => books.errors.push(`${error.details} fatal=${error.fatal}`));
    hls.on(Hls.Events.FRAG_LOADED, (_, { frag, part }) => books.requests.push((part ?? frag).url));
    hls.on(Hls.Events.KEY_LOADED, (_, { frag }) => books.keys.push(frag.decryptdata.uri));
    hls.on(Hls.Events.FRAG_LOAD_EMERGENCY_ABORTED, ({ frag }) => books.givenUp.push(frag.url));
    hls.on(Hls.Events.BUFFER_APPENDED, (_, { frag }) => {
      if (frag.sn !== "initSegment" && frag.loader) books.appendedEarly.push(frag.sn);
    });
    hls.loadSource(stream);
    hls.attachMedia(video);
    return () => hls.playingDate?.getTime() ?? NaN;
  },

  async Shaka({ video, stream, books, settings }) {
    const player = new shaka.Player();
    player.configure(settings);
    player.addEventListener("error", ({ detail }) => books.errors.push(`${detail.code} fatal=${detail.severity === 2}`));
    const { SEGMENT } = shaka.net.NetworkingEngine.RequestType;
    player.getNetworkingEngine().registerRequestFilter((type, request) => {
      if (type === SEGMENT) books.requests.push(request.uris[0]);
    });
    player.getNetworkingEngine().registerResponseFilter((type, { originalUri, data, originalRequest }) => {
      const [, range = ""] = originalRequest?.headers.Range?.match(/^bytes=(.+)$/) ?? [];
      if (type === SEGMENT && data.byteLength > 0) keepSegment(books.segments, { url: originalUri, range }, new Blob([data]));
    });
    await player.attach(video);
    await player.load(stream);
    return () => player.getPlayheadTimeAsDate()?.getTime() ?? NaN;
  },

  async "dash.js"({ video, stream, books, settings }) {
    const player = dashjs.MediaPlayer().create();
    let availabilityStart = NaN;
    player.on("manifestLoaded", ({ data }) => (availabilityStart = data.availabilityStartTime?.getTime() ?? NaN));
    player.on("error", ({ error }) => books.errors.push(`${error.code} ${error.message} fatal=true`));
    player.on("fragmentLoadingCompleted", ({ request: { type, url, range }, response }) => {
      if (type !== "MediaSegment") return;
      books.requests.push(url);
      if (response) keepSegment(books.segments, { url, range: range ?? "" }, new Blob([response]));
    });
    const { protection, ...rest } = settings;
    player.updateSettings(rest);
    player.initialize(video, stream, true);
    if (protection) player.setProtectionData(protection);
    // The first Period starts at 0, so that this is the presentation time.
    return () => availabilityStart + video.currentTime * 1000;
  },
};

/** How far the media go that `buffered` has. */
const bufferedEnd = ({ buffered }) => (buffered.length > 0 ? buffered.end(buffered.length - 1) : 0);

async function play({ player, ...options }) {
  const video = document.querySelector("video");
  const books = { requests: [], segments: [], keys: [], givenUp: [], appendedEarly: [], errors: [], waits: [], latencies: [], arrivals: [], looks: { taken: 0, idle: 0 } };
  let started = false;
  video.addEventListener("playing", () => (started = true));
  video.addEventListener("waiting", () => {
    if (started) books.waits.push(whereIs(video));
  });
  const dateAtPlayhead = await START[player]({ video, books, ...options });
  // dash.js begins by itself. Begun by others, before it listens, it takes itself for paused, and reloads no manifest.
  if (player !== "dash.js") video.play().catch(() => {});
  keepLooks(video, books.looks);
  let end = 0;
  setInterval(() => {
    const at = video.currentTime;
    // By the clock of the origin, which is this machine's.
    const latencyS = (Date.now() - dateAtPlayhead()) / 1000;
    if (!started || Number.isNaN(latencyS)) return;
    books.latencies.push(latencyS);
    const newEnd = bufferedEnd(video);
    // How old the newest media is when the player has it.
    if (newEnd > end) books.arrivals.push(latencyS - (newEnd - at));
    end = Math.max(end, newEnd);
  }, LOOK_MS);
  window.read = () => ({
    now: performance.now(),
    time: video.currentTime,
    bufferedTo: bufferedEnd(video),
    isEnded: video.ended,
    shoal: window.shoal?.getStats(),
    ...books,
  });
}
