// The serial console: xterm.js on a WebSocket. xterm.js comes from Debian's package libjs-xterm.
import { streamAddress, streamProtocols, vmPath } from '/api.js';
import { el } from '/dom.js';

function script(src) {
  return new Promise((done, failed) => {
    if (document.querySelector(`script[src="${src}"]`)) return done();
    const node = el('script', { src, onload: done, onerror: () => failed(new Error(`cannot load ${src}; the host needs Debian's package libjs-xterm`)) });
    document.head.append(node);
  });
}

// Shows it in place; returns how to leave.
export async function openConsole(place, vm) {
  await script('/vendor/xterm/xterm.js');
  await script('/vendor/xterm/addons/fit/fit.js');
  const Terminal = window.Terminal;
  Terminal.applyAddon(window.fit);
  const terminal = new Terminal({ fontSize: 14, cursorBlink: true, scrollback: 5000, theme: { background: '#0d1117', foreground: '#d5dde5' },
    fontFamily: 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace' });
  const box = el('div', { class: 'terminal' });
  place.replaceChildren(box);
  terminal.open(box);
  terminal.fit();
  const socket = new WebSocket(streamAddress(vmPath(vm, '/console')), streamProtocols());
  socket.binaryType = 'arraybuffer';
  const decoder = new TextDecoder();
  socket.onopen = () => terminal.focus();
  socket.onmessage = message => terminal.write(decoder.decode(message.data, { stream: true }));
  socket.onclose = () => terminal.write('\r\n\x1b[2m[the console is closed]\x1b[0m\r\n');
  terminal.on('data', data => {
    if (socket.readyState === WebSocket.OPEN) socket.send(new TextEncoder().encode(data));
  });
  const resize = () => terminal.fit();
  addEventListener('resize', resize);
  return () => {
    removeEventListener('resize', resize);
    socket.onclose = null;
    socket.close();
    terminal.dispose();
  };
}
