// The serial console: xterm.js on a WebSocket. xterm.js is made of Debian's package node-xterm when Berth is built.
import { streamAddress, streamProtocols, vmPath } from '/api.js';
import { el } from '/dom.js';

let current = null; // the terminal that is shown

// What can be read on it.
export function shown() {
  if (!current) return '';
  const { lines } = current._core.buffer;
  return Array.from({ length: lines.length }, (_, i) => current._core.buffer.translateBufferLineToString(i, true)).join('\n');
}

// Shows it in place; returns how to leave.
export async function openConsole(place, vm) {
  const { terminal: { Terminal }, fit } = await import('/xterm.js').catch(() => {
    throw new Error("Berth was built without Debian's package node-xterm, the terminal");
  });
  const terminal = new Terminal({ fontSize: 14, cursorBlink: true, scrollback: 5000, theme: { background: '#0d1117', foreground: '#d5dde5' },
    fontFamily: 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace' });
  const box = el('div', { class: 'terminal' });
  place.replaceChildren(box);
  terminal.open(box);
  fit.fit(terminal);
  const socket = new WebSocket(streamAddress(vmPath(vm, '/console')), streamProtocols());
  socket.binaryType = 'arraybuffer';
  const decoder = new TextDecoder();
  socket.onopen = () => terminal.focus();
  socket.onmessage = message => terminal.write(decoder.decode(message.data, { stream: true }));
  socket.onclose = () => terminal.write('\r\n\x1b[2m[the console is closed]\x1b[0m\r\n');
  terminal.on('data', data => {
    if (socket.readyState === WebSocket.OPEN) socket.send(new TextEncoder().encode(data));
  });
  current = terminal;
  const resize = () => fit.fit(terminal);
  addEventListener('resize', resize);
  return () => {
    removeEventListener('resize', resize);
    socket.onclose = null;
    socket.close();
    terminal.dispose();
    current = null;
  };
}
