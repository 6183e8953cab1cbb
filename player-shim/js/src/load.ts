// The WebAssembly module, once a page.
import * as glue from "#glue";
import type { Module } from "./machine";

let loading: Promise<Module> | null = null;

/** Loads the module from `url`; all later calls get the same one. */
export function loadModule(url: string): Promise<Module> {
  loading ??= glue.default({ module_or_path: fetch(url) }).then(
    () => glue as unknown as Module,
    (error: unknown) => {
      loading = null;
      throw new Error(`page has no WebAssembly module at ${url}: ${String(error)}`);
    },
  );
  return loading;
}
