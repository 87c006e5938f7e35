// The screen: noVNC on a WebSocket. noVNC comes from Debian's package novnc.
import { streamAddress, streamProtocols, vmPath } from '/api.js';
import { el } from '/dom.js';

export async function openScreen(place, vm) {
  const { default: RFB } = await import('/vendor/novnc/core/rfb.js').catch(() => {
    throw new Error("cannot load noVNC; the host needs Debian's package novnc");
  });
  const words = el('p', { class: 'soft' }, 'Connecting…');
  const box = el('div', { class: 'screen' }, words);
  place.replaceChildren(box);
  const rfb = new RFB(box, streamAddress(vmPath(vm, '/screen')), { wsProtocols: streamProtocols() });
  rfb.scaleViewport = false;
  rfb.background = 'transparent';
  rfb.addEventListener('connect', () => {
    words.remove();
    rfb.focus();
  });
  rfb.addEventListener('disconnect', () => {
    box.replaceChildren(el('p', { class: 'soft' }, 'No screen: the VM does not run, or has none (vga "std" gives it one).'));
  });
  return { leave: () => rfb.disconnect(), keys: () => rfb.sendCtrlAltDel() };
}
