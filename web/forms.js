// Dialogues that make, change and remove things: networks and pools.
import { ask } from '/api.js';
import { dialog, el, note } from '/dom.js';

export const field = (words, input, wide) => el('label', { class: wide ? 'wide' : '' }, words, input);
export const NAME = '[A-Za-z0-9][A-Za-z0-9._\\-]{0,62}';

// Asks for fields and sends them. send(): the request's promise; done(): it was taken.
function form(title, fields, button, send, done) {
  const words = el('p', { class: 'error' });
  const close = dialog(el('form', { onsubmit: async event => {
    event.preventDefault();
    try {
      await send();
      close();
      done();
    } catch (error) {
      words.textContent = error.message;
    }
  } }, el('h1', {}, title), fields, words,
  el('div', { class: 'actions' }, el('button', { type: 'button', onclick: () => close() }, 'Cancel'),
    el('button', { class: 'main', id: 'save' }, button))));
}

// { name: value } of the inputs that say something else than before.
function changes(inputs, before) {
  const all = inputs.map(input => [input.name, input.type === 'checkbox' ? input.checked : input.type === 'number' ? Number(input.value || 0) * Number(input.dataset.unit ?? 1)
    : input.value.trim()]);
  return Object.fromEntries(all.filter(([name, value]) => before ? value !== before[name] : value !== '' && value !== 0 && value !== false));
}

const number = (name, value, unit, step = 'any') => el('input', { name, type: 'number', min: '0', step, 'data-unit': String(unit), value: value ? String(value / unit) : '' });

// network: what there is, or null for a new one.
export function editNetwork(network, done) {
  const name = el('input', { name: 'network', required: true, pattern: NAME, value: network?.name ?? '', disabled: Boolean(network), autofocus: !network });
  const kind = el('select', { name: 'kind' }, [['nat', 'to the outside (NAT)'], ['host', 'with the host'], ['private', 'private']].map(([value, words]) =>
    el('option', { value, selected: value === (network?.kind ?? 'nat') }, words)));
  const subnet = el('input', { name: 'subnet', placeholder: 'follows from the name', value: network?.subnet ?? '' });
  const mtu = el('input', { name: 'mtu', type: 'number', min: '1280', max: '9000', value: String(network?.mtu ?? 1500) });
  const policy = el('input', { name: 'policy', placeholder: 'everything is let through', value: network?.policy ?? '' });
  const isolated = el('input', { name: 'isolated', type: 'checkbox', checked: Boolean(network?.isolated) });
  const inputs = [kind, subnet, mtu, policy, isolated];
  form(network ? `Network ${network.name}` : 'New network', [el('div', { class: 'fields' }, field('Name', name, true), field('Kind', kind), field('Subnet', subnet), field('MTU', mtu),
    field('Policy', policy)), el('label', { class: 'check' }, isolated, 'Its machines do not reach each other')], network ? 'Change' : 'Create',
  () => network ? ask('PATCH', `/networks/${encodeURIComponent(network.name)}`, changes(inputs, network))
    : ask('POST', '/networks', { network: name.value, ...changes(inputs) }), done);
}

export function editPool(pool, pools, done) {
  const name = el('input', { name: 'pool', required: true, pattern: NAME, value: pool?.pool ?? '', disabled: Boolean(pool), autofocus: !pool });
  const parent = el('select', { name: 'parent' }, pools.filter(p => p.pool !== pool?.pool).map(p =>
    el('option', { value: p.pool, selected: p.pool === (pool?.parent || 'host') }, p.pool)));
  const inputs = [number('cpu_shares', pool?.cpu_shares ?? 100, 1, '1'), number('cpu_reservation', pool?.cpu_reservation, 1000), number('cpu_limit', pool?.cpu_limit, 1000),
    number('memory_reservation', pool?.memory_reservation, 1048576), number('memory_limit', pool?.memory_limit, 1048576), number('disk_limit', pool?.disk_limit, 1048576),
    number('iops_limit', pool?.iops_limit, 1, '1'), number('net_limit', pool?.net_limit, 1000000)];
  const words = ['CPU shares', 'CPUs promised', 'CPUs at most', 'Memory promised, MiB', 'Memory at most, MiB', 'Disks at most, MiB/s', 'Disks at most, operations/s', 'Networks at most, Mbit/s'];
  const root = pool?.pool === 'host';
  form(pool ? `Pool ${pool.pool}` : 'New pool', el('div', { class: 'fields' }, field('Name', name), root ? null : field('Part of', parent), inputs.map((input, i) => field(words[i], input))),
    pool ? 'Change' : 'Create', () => {
      const values = changes(inputs, pool ? Object.fromEntries(inputs.map(input => [input.name, pool[input.name] ?? 0])) : null);
      if (!root && parent.value && parent.value !== (pool?.parent || 'host')) values.parent = parent.value;
      return pool ? ask('PATCH', `/pools/${encodeURIComponent(pool.pool)}`, values) : ask('POST', '/pools', { pool: name.value, ...values });
    }, done);
}

export function remove(words, path, done) {
  const close = dialog(el('div', { class: 'form' }, el('h1', {}, `Remove ${words}?`), el('div', { class: 'actions' }, el('button', { onclick: () => close() }, 'Keep it'),
    el('button', { class: 'bad', id: 'really-remove', onclick: async () => {
      close();
      try {
        await ask('DELETE', path);
        note(`${words} is removed`);
      } catch (error) {
        note(error.message, true);
      }
      done();
    } }, 'Remove'))));
}
