// Runs in the page: what its books say of segments and of stalls.

const LOOK_MS = 50;
/** More than a part: who waits with that ahead waits for its decoder, which the machine has not let go on. */
const AHEAD_S = 0.6;

/** Appends `{url, level, type, sha256}` to `segments` for each media segment that `hls` loads from now on. */
function keepBytes(hls, segments) {
  const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const keep = ({ url, level, type, sn }, chunks) => {
    if (sn === "initSegment") return;
    const entry = { url, level, type, sha256: "" };
    segments.push(entry);
    new Blob(chunks).arrayBuffer()
      .then((bytes) => crypto.subtle.digest("SHA-256", bytes))
      .then((digest) => (entry.sha256 = hex(digest)));
  };
  const Loader = hls.config.fLoader ?? hls.config.loader;
  hls.config.fLoader = class extends Loader {
    load(context, config, callbacks) {
      // Copies, before the player hands the bytes to its worker, which takes them away.
      const chunks = [];
      const { onProgress } = callbacks;
      const onChunk = (stats, at, data, net) => {
        chunks.push(data.slice(0));
        onProgress(stats, at, data, net);
      };
      const onSuccess = (response, ...rest) => {
        keep(context.frag, [...chunks, response.data.slice(0)]);
        callbacks.onSuccess(response, ...rest);
      };
      super.load(context, config, { ...callbacks, onSuccess, onProgress: onProgress && onChunk });
    }
  };
}

function hasMedia({ currentTime, buffered }) {
  const ranges = Array.from({ length: buffered.length }, (_, index) => index);
  return ranges.some((index) => buffered.start(index) <= currentTime && buffered.end(index) > currentTime + AHEAD_S);
}

/** Notes in `waits` where `video` waits for media from now on, if `counts` then. */
function keepWaits(video, waits, counts) {
  video.addEventListener("waiting", () => {
    if (counts() && !hasMedia(video)) waits.push(whereIs(video));
  });
}

/** Looks at `video` from now on, and counts in `looks` how often, and how often it was not playing: `{taken, idle}`. */
function keepLooks(video, looks) {
  setInterval(() => {
    looks.taken += 1;
    const isReady = video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA || hasMedia(video);
    if (video.paused || video.seeking || !isReady) looks.idle += 1;
  }, LOOK_MS);
}

/** Where `video` is: its playhead, what it has, and how ready it is (`HTMLMediaElement.readyState`). */
function whereIs({ currentTime, buffered, readyState }) {
  const ranges = Array.from({ length: buffered.length }, (_, index) => `${buffered.start(index)}-${buffered.end(index)}`);
  return `at ${currentTime} of ${ranges.join(" ")}, ready ${readyState}`;
}
