// Commands in a machine's guest, by Berth's agent there: one at a time, each with what it said.
import { post, vmPath } from '/api.js';
import { el } from '/dom.js';

// Words as a shell splits them, without its expansions; null: a quote is missing.
export function split(line) {
  const words = [];
  let word = null, quote = '';
  for (let i = 0; i < line.length; i++) {
    const c = line[i];
    if (quote ? c === quote : c === '"' || c === "'") {
      quote = quote ? '' : c;
      word ??= '';
    } else if (c === '\\' && quote !== "'" && i + 1 < line.length) {
      word = (word ?? '') + line[++i];
    } else if (!quote && /\s/.test(c)) {
      if (word !== null) words.push(word);
      word = null;
    } else {
      word = (word ?? '') + c;
    }
  }
  if (word !== null) words.push(word);
  return quote ? null : words;
}

export function commands(place, vm) {
  const said = el('div', { class: 'said' });
  const input = el('input', { name: 'command', class: 'mono', placeholder: 'ls -l /etc', autocomplete: 'off', spellcheck: 'false' });
  const run = el('button', { class: 'main' }, 'Run');
  place.replaceChildren(el('form', { class: 'line', onsubmit: async event => {
    event.preventDefault();
    const command = split(input.value);
    if (!command?.length) return;
    run.disabled = true;
    const entry = [el('strong', { class: 'mono' }, `# ${input.value}`)];
    try {
      const { status, signal, stdout, stderr } = await post(vmPath(vm, '/exec'), { command });
      entry.push(el('pre', {}, stdout), stderr ? el('pre', { class: 'error' }, stderr) : null,
        status || signal ? el('p', { class: 'soft' }, signal ? `ended by signal ${signal}` : `status ${status}`) : null);
      input.value = '';
    } catch (error) {
      entry.push(el('p', { class: 'error' }, error.message));
    }
    said.prepend(el('div', {}, entry.filter(Boolean)));
    run.disabled = false;
    input.focus();
  } }, input, run), said);
  input.focus();
}
