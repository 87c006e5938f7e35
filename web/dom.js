// Small helpers: elements, notes, numbers for people. Text is always set as text, never as HTML.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== 'string') node[name] = value;
    else if (value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined));
  return node;
}

export const $ = id => document.getElementById(id);

export function note(text, bad = false) {
  const node = el('div', { class: bad ? 'bad' : '' }, text);
  $('notes').append(node);
  setTimeout(() => node.remove(), bad ? 9000 : 4000);
}

export function dialog(content) {
  const node = $('dialog');
  node.replaceChildren(content);
  node.showModal();
  return () => node.close();
}

export function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit++;
  }
  return `${n >= 100 || unit === 0 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

export const rate = n => `${bytes(n)}/s`;
export const percent = n => `${n >= 10 ? Math.round(n) : n.toFixed(1)} %`;

export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}
