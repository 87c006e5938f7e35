// The manager's REST API (GET /v1/openapi.json). The token lives in this tab only and goes with every
// request as a header, so that no other site can ask in its name.

const KEY = 'berth-token';

export class Refusal extends Error {
  constructor(status, error) {
    super(error.hint ? `${error.text}; ${error.hint}` : error.text);
    this.status = status;
    this.code = error.code;
  }
}

// A link may bring a token behind its '#', which browsers send to nobody.
export function takeTokenFromAddress() {
  const found = /^#token=([\w.-]+)$/.exec(location.hash);
  if (!found) return;
  setToken(found[1]);
  history.replaceState(null, '', '#/');
}

export function setToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}

export function hasToken() {
  return sessionStorage.getItem(KEY) !== null;
}

function headers(more) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  return new Refusal(response.status, body.error ?? { code: 'unknown', text: `the manager answers ${response.status}` });
}

export async function ask(method, path, body) {
  const options = { method, headers: headers({}), cache: 'no-store' };
  if (body !== undefined) {
    options.headers['Content-Type'] = 'application/json';
    options.body = JSON.stringify(body);
  }
  const response = await fetch(`/v1${path}`, options);
  if (!response.ok) throw await refusal(response);
  return response.json();
}

export const get = path => ask('GET', path);
export const post = (path, body) => ask('POST', path, body);
export const vmPath = (vm, more = '') => `/vms/${encodeURIComponent(vm)}${more}`;

// Calls each(event) for every event until signal; comes back when the connection ends.
export async function events(each, signal) {
  const response = await fetch('/v1/events', { headers: headers({}), signal, cache: 'no-store' });
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (text + value).split('\n');
    text = lines.pop();
    for (const line of lines) if (line) each(JSON.parse(line));
  }
}

// Where a WebSocket of that path is, and the protocols that prove who asks.
export function streamAddress(path) {
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1${path}`;
}

export function streamProtocols() {
  const token = sessionStorage.getItem(KEY);
  return token ? ['berth.stream', `berth.token.${token}`] : ['berth.stream'];
}
