import type { ShoalHandle, ShoalOptions } from "./api";
import { attachAt, VERSION } from "./attach";
import type { HlsLike } from "./hlsjs/types";

/** Only known while the script itself runs. */
const scriptUrl = (document.currentScript as HTMLScriptElement | null)?.src ?? "";

export function attach(hls: unknown, options: ShoalOptions): ShoalHandle {
  return attachAt(scriptUrl, hls as HlsLike, options);
}

export const version = VERSION;
