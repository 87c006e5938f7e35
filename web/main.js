// The page: signs in, follows the address behind '#', and keeps one view and one look at usage going.
import { events, get, hasToken, setToken, takeTokenFromAddress } from '/api.js';
import { $, bytes, el, note } from '/dom.js';
import { Usage } from '/usage.js';
import { machines } from '/machines.js';
import { machine } from '/machine.js';
import { eventList, networks, pools } from '/lists.js';

let view = null; // { changed(), event(event), leave() }, each optional
let listening = null;

const usage = new Usage(() => {
  const { host_cpus: cpus, host_memory_bytes: memory } = usage.manager;
  const running = usage.vms.filter(vm => vm.pid).length;
  $('host').textContent = `${running} running · ${cpus} CPUs · ${bytes(memory)}`;
  view?.changed?.();
}, error => {
  if (error.status === 401) askForToken(error);
});

function show() {
  view?.leave?.();
  const [, place = '', name] = location.hash.split('/').map(decodeURIComponent);
  for (const link of $('nav').children) link.classList.toggle('here', link.hash === `#/${place === 'vm' ? '' : place}`);
  const views = { '': machines, vm: machine, networks, pools, events: eventList };
  view = (views[place] ?? machines)($('view'), usage, name);
  view.changed?.();
}

async function listen() {
  listening?.abort();
  listening = new AbortController();
  const { signal } = listening;
  while (!signal.aborted) {
    await events(event => {
      view?.event?.(event);
      if (event.event !== 'usage') usage.look();
    }, signal).catch(error => {
      if (error.status === 401) listening.abort();
    });
    await new Promise(done => setTimeout(done, 3000));
  }
}

function begin() {
  $('leave').hidden = !hasToken();
  show();
  usage.look();
  listen();
}

function askForToken(error) {
  usage.stop();
  listening?.abort();
  view?.leave?.();
  view = null;
  const token = el('input', { type: 'password', name: 'token', autocomplete: 'current-password', autofocus: true, required: true });
  const words = el('p', { class: 'error' }, hasToken() ? error.message : '');
  const form = el('form', { class: 'card', onsubmit: async event => {
    event.preventDefault();
    setToken(token.value.trim());
    try {
      await get('/daemon');
      begin();
    } catch (why) {
      setToken(null);
      words.textContent = why.message;
    }
  } }, el('h1', {}, 'Sign in'), el('p', { class: 'soft' }, 'Make a token on the host: ', el('code', {}, 'berth token create NAME')),
  el('label', {}, 'Token', token), words, el('div', { class: 'actions' }, el('button', { class: 'main' }, 'Sign in')));
  $('view').replaceChildren(el('div', { class: 'door' }, form));
  token.focus();
}

addEventListener('hashchange', show);
addEventListener('visibilitychange', () => document.hidden || (view && usage.look()));
addEventListener('unhandledrejection', event => note(event.reason?.message ?? 'something went wrong', true));
$('leave').addEventListener('click', () => {
  setToken(null);
  location.reload();
});
takeTokenFromAddress();
get('/daemon').then(begin, error => error.status === 401 ? askForToken(error) : note(error.message, true));
