// Runs in the page: what its books say of segments and of stalls.

/** How often a video is looked at, in milliseconds. */
const LOOK_MS = 50;

/** Appends `{...what, len, sha256}` of what a player got to `segments`; the digest follows. */
function keepSegment(segments, what, blob) {
  const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const entry = { ...what, len: blob.size, sha256: "" };
  segments.push(entry);
  blob.arrayBuffer()
    .then((bytes) => crypto.subtle.digest("SHA-256", bytes))
    .then((digest) => (entry.sha256 = hex(digest)));
}

/**
 * Appends `{url, range, level, type, len, sha256}` to `segments` for each media segment, or part, that `hls` loads from now on;
 * `range` is what is asked of the URL, as `0-99`, or empty.
 */
function keepBytes(hls, segments) {
  const keep = ({ frag, part }, chunks) => {
    const { level, type, sn } = frag;
    const { url, byteRange: [from, to] } = part ?? frag;
    if (sn === "initSegment") return;
    keepSegment(segments, { url, range: to ? `${from}-${to - 1}` : "", level, type }, new Blob(chunks));
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
        keep(context, [...chunks, response.data.slice(0)]);
        callbacks.onSuccess(response, ...rest);
      };
      super.load(context, config, { ...callbacks, onSuccess, onProgress: onProgress && onChunk });
    }
  };
}

/** Looks at `video` from now on, and counts in `looks` how often, and how often it was not playing: `{taken, idle}`. */
function keepLooks(video, looks) {
  setInterval(() => {
    looks.taken += 1;
    if (video.paused || video.seeking || video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA) looks.idle += 1;
  }, LOOK_MS);
}

/** Where `video` is: its playhead, what it has, and how ready it is (`HTMLMediaElement.readyState`). */
function whereIs({ currentTime, buffered, readyState }) {
  const ranges = Array.from({ length: buffered.length }, (_, index) => `${buffered.start(index)}-${buffered.end(index)}`);
  return `at ${currentTime} of ${ranges.join(" ")}, ready ${readyState}`;
}
