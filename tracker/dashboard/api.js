// The tracker's API. The token stays in this tab.

const KEY = "shoal-admin-token";
const PATIENCE_MS = 8000;

export class Unauthorized extends Error {}

export const hasToken = () => sessionStorage.getItem(KEY) !== null;
export const setToken = (token) => sessionStorage.setItem(KEY, token);
export const forgetToken = () => sessionStorage.removeItem(KEY);

/** The answer, or `null` where there is nothing. */
export async function get(path) {
  const response = await ask("GET", path);
  return response && (await response.json());
}

export const post = (path, body) => ask("POST", path, body);
export const remove = (path) => ask("DELETE", path);

async function ask(method, path, body) {
  const token = sessionStorage.getItem(KEY);
  const response = await fetch(`/api/${path}`, {
    method,
    headers: token === null ? {} : { authorization: `Bearer ${token}` },
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(PATIENCE_MS),
    cache: "no-store",
  });
  if (response.status === 401) throw new Unauthorized();
  if (response.status === 404) return null;
  if (!response.ok) throw new Error(`the tracker answered ${response.status}: ${await response.text()}`);
  return response;
}
