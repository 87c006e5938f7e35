// Networks, pools and events.
import { get } from '/api.js';
import { bytes, el } from '/dom.js';
import { editNetwork, editPool, remove } from '/forms.js';

function page(place, title, fill, more = null) {
  const content = el('div', { class: 'card' });
  place.replaceChildren(el('div', { class: 'head' }, el('h1', { class: 'grow' }, title), more), content);
  fill(content).catch(error => content.replaceChildren(el('p', { class: 'empty' }, error.message)));
  return content;
}

const group = (...buttons) => el('div', { class: 'group' }, buttons.filter(Boolean));
const button = (words, what, run, kind = '') => el('button', { class: kind, 'data-do': what, onclick: run }, words);

function table(heads, rows) {
  return el('table', {}, el('thead', {}, el('tr', {}, heads.map(head => el('th', {}, head)))),
    el('tbody', {}, rows.map(cells => el('tr', {}, cells.map(cell => el('td', {}, cell))))));
}

export function networks(place, usage) {
  const fill = async content => {
    const { networks: all } = await get('/networks');
    const { vms } = await get('/vms');
    const definitions = await Promise.all(vms.map(vm => get(`/vms/${vm.id}`).catch(() => null)));
    const members = name => definitions.filter(info => info?.definition?.nics?.some(nic => nic.network === name)).map(info => info.name);
    content.replaceChildren(table(['Name', 'State', 'Kind', 'Subnet', 'Machines', ''], all.map(n => [
      el('span', { class: 'name' }, n.name), el('span', { class: `state ${n.running ? 'running' : ''}` }, n.running ? 'running' : 'idle'),
      { nat: 'to the outside (NAT)', host: 'with the host', private: 'private' }[n.kind] ?? n.kind,
      el('span', { class: 'mono' }, n.subnet), members(n.name).join(', ') || '–',
      n.name !== 'default' && group(button('Change', `change ${n.name}`, () => editNetwork(n, again)),
        button('Remove', `remove ${n.name}`, () => remove(n.name, `/networks/${encodeURIComponent(n.name)}`, again), 'bad'))])));
  };
  const again = () => fill(content).catch(() => {});
  const content = page(place, 'Networks', fill, el('button', { class: 'main', id: 'new', onclick: () => editNetwork(null, again) }, 'New network'));
  return { event: event => event.event.startsWith('network-') && again() };
}

function share(used, all) {
  const bar = el('span');
  bar.style.width = `${Math.min(100, all ? used / all * 100 : 0)}%`;
  return el('div', { class: 'bar' }, bar);
}

export function pools(place) {
  let all = [];
  const fill = async content => {
    const answer = await get('/pools'), { host } = answer;
    all = answer.pools;
    content.replaceChildren(table(['Pool', 'Machines', 'CPU used', '', 'CPU promised', 'CPU limit', 'Shares', 'Memory used', '', ''], all.map(p => {
      const name = el('span', { class: 'name' }, p.pool);
      name.style.paddingLeft = `${p.depth * 1.2}rem`;
      return [name, p.vms.map(t => t.vm).join(', ') || '–', `${(p.cpu_used / 1000).toFixed(2)} CPUs`, share(p.cpu_used, p.cpu_limit || host.cpu),
        p.cpu_reservation ? `${p.cpu_reservation / 1000} CPUs` : '–', p.cpu_limit ? `${p.cpu_limit / 1000} CPUs` : 'none', String(p.cpu_shares ?? 100),
        bytes(p.memory_used), share(p.memory_used, p.memory_limit || host.memory),
        group(button('Change', `change ${p.pool}`, () => editPool(p, all, again)),
          p.pool !== 'host' && button('Remove', `remove ${p.pool}`, () => remove(p.pool, `/pools/${encodeURIComponent(p.pool)}`, again), 'bad'))];
    })));
  };
  const again = () => fill(content).catch(() => {});
  const content = page(place, 'Pools', fill, el('button', { class: 'main', id: 'new', onclick: () => editPool(null, all, again) }, 'New pool'));
  const timer = setInterval(() => fill(content).catch(() => {}), 3000);
  return { leave: () => clearInterval(timer) };
}

export function eventLine(event) {
  const { event: what, at, vm, id, ...more } = event;
  if (what === 'state') return el('div', {}, el('time', {}, at ? new Date(at).toLocaleString() : ''), el('strong', {}, vm ?? ''), el('span', { class: `state ${more.state}` }, more.state));
  const words = Object.entries(more).filter(([, value]) => value !== null && typeof value !== 'object').map(([key, value]) => `${key} ${value}`).join(', ');
  return el('div', {}, el('time', {}, at ? new Date(at).toLocaleString() : ''), el('strong', {}, vm ?? ''), el('span', {}, what), el('span', { class: 'soft' }, words));
}

export function eventList(place) {
  const log = el('div', { class: 'log' });
  page(place, 'Events', async content => {
    const { events } = await get('/history?last=200');
    log.append(...events.reverse().map(eventLine));
    content.replaceChildren(log);
    if (!events.length) log.append(el('p', { class: 'empty' }, 'Nothing has happened yet.'));
  });
  return { event: event => log.prepend(eventLine(event)) };
}
