// Actions out of the words that the machine returns: player-shim/src/abi.rs specifies them.
import { KINDS, type Action } from "./abi.gen";

/** Two words as 16 hexadecimal digits. */
export function idOf(high: number, low: number): string {
  return high.toString(16).padStart(8, "0") + low.toString(16).padStart(8, "0");
}

/** All actions in `words`. `arena` is asked at most once, and only if an action has bytes. */
export function decodeActions(words: Uint32Array, arena: () => Uint8Array): Action[] {
  const actions: Action[] = [];
  let bytes: Uint8Array | null = null;
  let at = 0;
  const next = (): number => {
    const word = words[at++];
    if (word === undefined) throw new Error("local machine returned an action that ends early");
    return word;
  };
  while (at < words.length) {
    const kind = KINDS[next()];
    if (!kind) throw new Error("local machine returned an unknown action");
    const action: Record<string, unknown> = { kind: kind[0] };
    for (const [name, type] of kind[1]) {
      if (typeof type !== "number") action[name] = type[next()];
      else if (type === 0) action[name] = next();
      else if (type === 1) action[name] = next() !== 0;
      else if (type === 2) action[name] = idOf(next(), next());
      else if (type === 3) action[name] = next() * 2 ** 32 + next();
      else action[name] = (bytes ??= arena()).slice(next(), next());
    }
    actions.push(action as unknown as Action);
  }
  return actions;
}
