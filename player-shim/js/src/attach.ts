// The public way in.
import type { ShoalHandle, ShoalOptions } from "./api";
import { HlsAdapter } from "./hlsjs/adapter";
import type { HlsLike } from "./hlsjs/types";
import { loadModule } from "./load";
import { Session } from "./session";

export const VERSION = "0.1.0";

/**
 * Lets an hls.js player share its stream. Call it before `hls.loadSource`; later works, too. The
 * player starts as without Shoal: the machine is loaded in the background.
 */
export function attachAt(scriptUrl: string, hls: HlsLike, options: ShoalOptions): ShoalHandle {
  if (!hls?.config?.loader || typeof hls.on !== "function") {
    throw new TypeError("page gave Shoal.attach something that is no hls.js player");
  }
  const wasmUrl = options.wasmUrl ?? new URL("shoal_bg.wasm", scriptUrl || document.baseURI).href;
  const session = new Session(options, () => loadModule(wasmUrl));
  new HlsAdapter(hls, session);
  return session;
}
