// All machines: a table that is kept up to date in place, and the dialogue for a new one.
import { get, post } from '/api.js';
import { buttons, runs } from '/actions.js';
import { bytes, dialog, duration, el, note, percent } from '/dom.js';
import { NAME, field } from '/forms.js';
import { draw } from '/plot.js';

const link = vm => `#/vm/${encodeURIComponent(vm.name)}`;

function row(vm) {
  const cells = {
    state: el('span'), cpu: el('span'), plot: el('canvas'), memory: el('span'), uptime: el('span'), actions: el('div'),
  };
  const node = el('tr', { 'data-vm': vm.name },
    el('td', {}, el('a', { class: 'name', href: link(vm) }, vm.name), el('div', { class: 'soft mono wide-only' }, vm.id)),
    el('td', {}, cells.state), el('td', { class: 'wide-only' }, cells.plot), el('td', { class: 'num' }, cells.cpu),
    el('td', { class: 'num wide-only' }, cells.memory), el('td', { class: 'num wide-only' }, cells.uptime), el('td', {}, cells.actions));
  let state = null;
  const update = (now, series) => {
    const last = series.points.at(-1);
    if (state !== now.state) {
      state = now.state;
      cells.state.className = `state ${state}`;
      cells.state.textContent = state;
      cells.actions.replaceChildren(buttons(now));
    }
    cells.cpu.textContent = runs(now) && last ? percent(last.cpu) : '–';
    cells.memory.textContent = runs(now) ? `${bytes(now.memory_resident_bytes)} of ${bytes(now.memory_bytes)}` : bytes(now.memory_bytes);
    cells.uptime.textContent = runs(now) && now.uptime_seconds !== undefined ? duration(now.uptime_seconds) : '–';
    draw(cells.plot, [{ values: series.points.map(p => p.cpu), colour: '--c1' }], { most: 100, bare: true });
  };
  return { node, update };
}

async function create(list) {
  const images = await get('/images').then(answer => answer.images ?? [], () => []);
  const { networks } = await get('/networks');
  const name = el('input', { name: 'name', required: true, pattern: NAME, placeholder: 'web-1', autofocus: true });
  const vcpus = el('input', { name: 'vcpus', type: 'number', min: '1', max: '64', value: '1' });
  const memory = el('input', { name: 'memory', type: 'number', min: '16', value: '512' });
  const image = el('select', { name: 'image' }, el('option', { value: '' }, 'none'), images.map(i => el('option', { value: i.name }, i.name)));
  const network = el('select', { name: 'network' }, el('option', { value: 'none' }, 'none'),
    networks.map(n => el('option', { value: n.name, selected: n.name === 'default' }, `${n.name} (${n.kind})`)));
  const kernel = el('input', { name: 'kernel', placeholder: 'path on the host, for a VM without a disk' });
  const initrd = el('input', { name: 'initrd', placeholder: 'path on the host' });
  const append = el('input', { name: 'append', placeholder: 'console=ttyS0' });
  const screen = el('input', { name: 'screen', type: 'checkbox', checked: true });
  const starts = el('input', { name: 'start', type: 'checkbox', checked: true });
  const words = el('p', { class: 'error' });
  const close = dialog(el('form', { onsubmit: async event => {
    event.preventDefault();
    const definition = { vcpus: Number(vcpus.value), memory_mib: Number(memory.value), vga: screen.checked ? 'std' : 'none' };
    if (network.value !== 'none') definition.nics = [{ network: network.value }];
    for (const input of [kernel, initrd, append]) if (input.value.trim()) definition[input.name] = input.value.trim();
    const body = { name: name.value, definition };
    if (image.value) body.image = image.value;
    try {
      const vm = await post('/vms', body);
      close();
      note(`${vm.name} is there`);
      list.look();
      if (starts.checked) await post(`/vms/${vm.id}/start`).catch(error => note(`${vm.name}: ${error.message}`, true));
      list.look();
    } catch (error) {
      words.textContent = error.message;
    }
  } }, el('h1', {}, 'New machine'),
  el('div', { class: 'fields' }, field('Name', name, true), field('CPUs', vcpus), field('Memory, MiB', memory), field('Image', image), field('Network', network),
    field('Kernel', kernel, true), field('Initial RAM disk', initrd), field('Kernel command line', append)),
  el('label', { class: 'check' }, screen, 'It has a screen'), el('label', { class: 'check' }, starts, 'Start it at once'), words,
  el('div', { class: 'actions' }, el('button', { type: 'button', onclick: () => close() }, 'Cancel'), el('button', { class: 'main', id: 'create' }, 'Create'))));
}

export function machines(place, usage) {
  const rows = new Map();
  const body = el('tbody');
  const table = el('div', { class: 'card' }, el('table', {}, el('thead', {}, el('tr', {}, el('th', {}, 'Name'), el('th', {}, 'State'),
    el('th', { class: 'wide-only' }, 'CPU'), el('th', { 'aria-label': 'CPU now' }), el('th', { class: 'num wide-only' }, 'Memory'),
    el('th', { class: 'num wide-only' }, 'Up'), el('th', {}, ''))), body));
  const empty = el('p', { class: 'card empty' }, 'No machines yet. “New machine” makes the first one.');
  place.replaceChildren(el('div', { class: 'head' }, el('h1', { class: 'grow' }, 'Machines'),
    el('button', { class: 'main', id: 'new', onclick: () => create(usage) }, 'New machine')), empty, table);
  const changed = () => {
    if (!usage.manager) return;
    empty.hidden = usage.vms.length > 0;
    table.hidden = !empty.hidden;
    const there = new Set(usage.vms.map(vm => vm.id));
    for (const [id, { node }] of rows) {
      if (there.has(id)) continue;
      node.remove();
      rows.delete(id);
    }
    usage.vms.forEach((vm, i) => {
      if (!rows.has(vm.id)) rows.set(vm.id, row(vm));
      const { node, update } = rows.get(vm.id);
      if (body.children[i] !== node) body.insertBefore(node, body.children[i] ?? null);
      update(vm, usage.of(vm.id));
    });
  };
  return { changed };
}
