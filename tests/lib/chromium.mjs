// Chromium as all tests start it. `chromium` is playwright's, of whichever package the test belongs to.

const EXECUTABLE = process.env.CHROMIUM ?? "/usr/bin/chromium";
const ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--mute-audio",
  "--autoplay-policy=no-user-gesture-required",
];

/** For pages that find one another over WebRTC by their loopback addresses. */
export const WEBRTC_ON_LOOPBACK = [
  "--disable-quic",
  "--disable-features=WebRtcHideLocalIpsWithMdns",
  "--allow-loopback-in-peer-connection",
];

const WITHOUT_QUIC = ["--disable-quic"];

/** For a server on loopback under `host` (name and port) with a certificate that nobody vouches for; `keyHash` names its key. */
const knownAs = (host, keyHash) => [
  `--host-resolver-rules=MAP ${host.split(":")[0]} 127.0.0.1`,
  `--ignore-certificate-errors-spki-list=${keyHash}`,
];

/** For such a server that is spoken to by HTTP/3 alone. */
export const overQuic = (host, keyHash) => [`--origin-to-force-quic-on=${host}`, ...knownAs(host, keyHash)];

/** For such a server that is spoken to over TCP. */
export const overTls = (host, keyHash) => [...WITHOUT_QUIC, ...knownAs(host, keyHash)];

export function launch(chromium, more = WITHOUT_QUIC) {
  return chromium.launch({ executablePath: EXECUTABLE, headless: true, args: [...ARGUMENTS, ...more] });
}
