// Plots on a canvas: one or two lines over the last three minutes, the newest at the right.

const SLOTS = 90;

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The next of 1, 2, 5 times a power of ten (of 1024 for bytes) at or above n.
function ceiling(n, base) {
  if (n <= 0) return 1;
  const unit = base === 1024 ? 1024 ** Math.floor(Math.log(n) / Math.log(1024)) : 1;
  const power = 10 ** Math.floor(Math.log10(n / unit));
  for (const step of [1, 2, 5, 10]) if (step * power * unit >= n) return step * power * unit;
  return n;
}

// lines: [{ values, colour: '--c1' }]. most: the axis' fixed end, else it follows the values.
export function draw(canvas, lines, { most = 0, base = 10, bare = false, label = null } = {}) {
  const ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const g = canvas.getContext('2d');
  g.scale(ratio, ratio);
  const top = Math.max(most, ceiling(Math.max(0, ...lines.flatMap(line => line.values)), base));
  const x = (i, n) => width - (n - 1 - i) * width / (SLOTS - 1);
  const y = v => height - 1 - v / top * (height - 4);
  if (!bare) {
    g.strokeStyle = colour('--line');
    for (const part of [0, 0.5, 1]) {
      g.beginPath();
      g.moveTo(0, Math.round(y(top * part)) + 0.5);
      g.lineTo(width, Math.round(y(top * part)) + 0.5);
      g.stroke();
    }
  }
  for (const { values, colour: name } of lines) {
    if (values.length < 2) continue;
    g.beginPath();
    values.forEach((v, i) => g.lineTo(x(i, values.length), y(v)));
    g.strokeStyle = colour(name);
    g.lineWidth = 1.6;
    g.lineJoin = 'round';
    g.stroke();
    g.lineTo(width, height);
    g.lineTo(x(0, values.length), height);
    g.globalAlpha = 0.13;
    g.fillStyle = colour(name);
    g.fill();
    g.globalAlpha = 1;
  }
  if (label) {
    g.fillStyle = colour('--soft');
    g.font = '11px system-ui, sans-serif';
    g.fillText(label(top), 3, 14);
  }
}
