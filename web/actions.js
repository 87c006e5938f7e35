// What can be done to a VM, and the buttons for it.
import { ask, post, vmPath } from '/api.js';
import { dialog, el, note } from '/dom.js';

const RUNS = ['running', 'paused', 'starting', 'stopping'];

export const runs = vm => RUNS.includes(vm.state);

async function act(vm, verb, body) {
  try {
    await post(vmPath(vm.id, `/${verb}`), body);
  } catch (error) {
    note(`${vm.name}: ${error.message}`, true);
  }
}

function confirmRemoval(vm, then) {
  const close = dialog(el('div', { class: 'form' }, el('h1', {}, `Remove ${vm.name}?`),
    el('p', { class: 'soft' }, 'Its disks in the manager’s folder go with it. There is no way back.'),
    el('div', { class: 'actions' }, el('button', { onclick: () => close() }, 'Keep it'),
      el('button', { class: 'bad', id: 'really-remove', onclick: async () => {
        close();
        try {
          await ask('DELETE', vmPath(vm.id));
          note(`${vm.name} is removed`);
          then?.();
        } catch (error) {
          note(`${vm.name}: ${error.message}`, true);
        }
      } }, 'Remove'))));
}

// all: with the rarer ones.
export function buttons(vm, all = false, removed = null) {
  const button = (words, run, { kind = '', when = true } = {}) =>
    when && el('button', { class: kind, 'data-do': words.toLowerCase(), onclick: event => {
      event.target.disabled = true;
      Promise.resolve(run()).finally(() => { event.target.disabled = false; });
    } }, words);
  const running = vm.state === 'running', paused = vm.state === 'paused';
  return el('div', { class: 'group' }, [
    button('Start', () => act(vm, 'start'), { kind: all ? 'main' : '', when: !runs(vm) && vm.state !== 'restarting' }),
    button('Stop', () => act(vm, 'stop'), { when: running || vm.state === 'restarting' }),
    button('Pause', () => act(vm, 'pause'), { when: running }),
    button('Resume', () => act(vm, 'resume'), { kind: all ? 'main' : '', when: paused }),
    all && button('Restart', () => act(vm, 'restart'), { when: running }),
    all && button('Reset', () => act(vm, 'reset'), { when: running }),
    button('Force off', () => act(vm, 'stop', { force: true }), { kind: 'bad', when: all ? runs(vm) : vm.state === 'stopping' }),
    button('Remove', () => confirmRemoval(vm, removed), { kind: 'bad', when: all && !runs(vm) }),
  ].filter(Boolean));
}
