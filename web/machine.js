// One machine: plots, console, screen, definition, events.
import { get, vmPath } from '/api.js';
import { buttons, runs } from '/actions.js';
import { bytes, duration, el, percent, rate } from '/dom.js';
import { commands } from '/commands.js';
import { openConsole } from '/console.js';
import { openScreen } from '/screen.js';
import { eventLine } from '/lists.js';
import { draw } from '/plot.js';

const PLOTS = [
  { title: 'CPU', lines: [['cpu', '--c1']], most: vm => vm.vcpus * 100, show: p => [percent(p.cpu)], label: percent },
  { title: 'Memory', lines: [['memory', '--c2']], most: vm => vm.memory_bytes, base: 1024, show: p => [bytes(p.memory)], label: bytes },
  { title: 'Disk', lines: [['read', '--c1'], ['written', '--c3']], base: 1024, show: p => [rate(p.read), ' read · ', rate(p.written), ' written'], label: rate },
  { title: 'Network', lines: [['received', '--c1'], ['sent', '--c4']], base: 1024, show: p => [rate(p.received), ' in · ', rate(p.sent), ' out'], label: rate },
];

function plot(kind) {
  const value = el('div', { class: 'value', 'data-plot': kind.title.toLowerCase() }, '–');
  const canvas = el('canvas');
  const node = el('section', { class: 'card plot' }, el('h2', {}, kind.title), value, canvas);
  const update = (vm, points) => {
    const last = points.at(-1);
    value.replaceChildren(...(runs(vm) && last ? kind.show(last).map((part, i) => i % 2 ? el('small', {}, part) : part) : ['–']));
    draw(canvas, kind.lines.map(([key, colour]) => ({ values: points.map(p => p[key]), colour })),
      { most: kind.most?.(vm) ?? 0, base: kind.base ?? 10, label: kind.label });
  };
  return { node, update };
}

async function details(place, name) {
  const info = await get(vmPath(name));
  const definition = info.definition ?? {};
  const facts = [['Id', info.id], ['Folder', info.folder], ['CPUs', definition.vcpus ?? 1], ['Memory', `${definition.memory_mib ?? 256} MiB`],
    ['Autostart', info.autostart ? 'yes' : 'no'], ['Restart', info.restart],
    ['Disks', (definition.disks ?? []).map(d => d.path).join(', ') || 'none'],
    ['Networks', (definition.nics ?? []).map(n => n.network).join(', ') || 'none'], ['Last end', info.text || info.reason || '–']];
  place.replaceChildren(el('dl', {}, facts.flatMap(([key, value]) => [el('dt', {}, key), el('dd', {}, String(value ?? '–'))])),
    el('p', { class: 'soft' }, 'Definition'), el('pre', {}, JSON.stringify(definition, null, 2)));
}

async function history(place, name) {
  const { events } = await get(`/history?vm=${encodeURIComponent(name)}`);
  place.replaceChildren(el('div', { class: 'log' }, events.reverse().map(eventLine)));
}

export function machine(place, usage, name) {
  const title = el('h1', {}, name), state = el('span'), up = el('span', { class: 'soft grow' }), actions = el('div');
  const plots = PLOTS.map(plot);
  const tabs = el('div', { class: 'tabs', role: 'tablist' }), pane = el('div', { class: 'pane' });
  let leave = null, tab = null, shown = null;

  async function open(which) {
    leave?.();
    leave = null;
    tab = which;
    for (const button of tabs.children) button.classList.toggle('here', button.dataset.tab === which);
    pane.className = which === 'console' || which === 'screen' ? 'pane dark' : 'pane';
    pane.replaceChildren();
    const now = () => tab === which && pane.isConnected;
    try {
      let left = null;
      if (which === 'console' && shown && !runs(shown)) pane.replaceChildren(el('p', { class: 'soft' }, 'It does not run.'));
      else if (which === 'console') left = await openConsole(pane, name);
      else if (which === 'screen') left = (await openScreen(pane, name)).leave;
      else if (which === 'commands' && !shown?.agent) pane.replaceChildren(el('p', { class: 'soft' }, 'Its guest has no agent that is ready.'));
      else if (which === 'commands') commands(pane, name);
      else if (which === 'events') await history(pane, name);
      else await details(pane, name);
      if (now()) leave = left;
      else left?.();
    } catch (error) {
      if (now()) pane.replaceChildren(el('p', { class: 'error' }, error.message));
    }
  }

  for (const [which, words] of [['console', 'Console'], ['screen', 'Screen'], ['commands', 'Commands'], ['details', 'Details'], ['events', 'Events']]) {
    tabs.append(el('button', { 'data-tab': which, role: 'tab', onclick: () => open(which) }, words));
  }
  place.replaceChildren(el('div', { class: 'head' }, title, state, up, actions), el('div', { class: 'plots' }, plots.map(p => p.node)),
    el('section', { class: 'card' }, tabs, pane));

  const changed = () => {
    const vm = usage.vms.find(v => v.name === name || v.id === name);
    if (!vm) {
      if (usage.manager) {
        leave?.();
        leave = null;
        place.replaceChildren(el('p', { class: 'card empty' }, `There is no machine ${name}.`));
      }
      return;
    }
    const other = !shown || shown.state !== vm.state, began = !shown || runs(shown) !== runs(vm), agent = !shown?.agent !== !vm.agent;
    shown = vm;
    if (other) {
      state.className = `state ${vm.state}`;
      state.textContent = vm.state;
      actions.replaceChildren(buttons(vm, true, () => { location.hash = '#/'; }));
    }
    up.textContent = runs(vm) && vm.uptime_seconds !== undefined ? `up ${duration(vm.uptime_seconds)}` : '';
    for (const p of plots) p.update(vm, usage.of(vm.id).points);
    if (began || (tab === 'commands' && agent)) open(tab ?? 'console');
  };
  return { changed, leave: () => { tab = null; leave?.(); } };
}
