// What VMs take, over time: asks the manager every two seconds while the page can be seen, and keeps
// the rates of the last three minutes.
import { get } from '/api.js';

const EVERY = 2000;
const KEPT = 90;

class Series {
  constructor() {
    this.last = null;
    this.points = []; // { cpu, memory, read, written, received, sent }
  }

  take(at, vm) {
    const before = this.last;
    this.last = { at, vm };
    if (!before || before.vm.pid !== vm.pid || vm.cpu_seconds === undefined || before.vm.cpu_seconds === undefined) {
      if (!vm.pid) this.points = [];
      return;
    }
    const seconds = (at - before.at) / 1000;
    if (seconds <= 0) return;
    const per = key => Math.max(0, (vm[key] - before.vm[key]) / seconds);
    this.points.push({
      cpu: per('cpu_seconds') * 100, memory: vm.memory_resident_bytes,
      read: per('disk_read_bytes'), written: per('disk_written_bytes'),
      received: per('net_received_bytes'), sent: per('net_sent_bytes'),
    });
    if (this.points.length > KEPT) this.points.shift();
  }
}

export class Usage {
  constructor(changed, failed) {
    this.series = new Map(); // by VM id
    this.vms = [];
    this.manager = null;
    this.changed = changed;
    this.failed = failed;
    this.timer = 0;
  }

  of(id) {
    if (!this.series.has(id)) this.series.set(id, new Series());
    return this.series.get(id);
  }

  async look() {
    clearTimeout(this.timer);
    try {
      const answer = await get('/usage');
      this.vms = answer.vms;
      this.manager = answer.manager;
      for (const vm of answer.vms) this.of(vm.id).take(answer.at, vm);
      const known = new Set(answer.vms.map(vm => vm.id));
      for (const id of this.series.keys()) if (!known.has(id)) this.series.delete(id);
      this.changed();
    } catch (error) {
      this.failed(error);
      if (error.status === 401) return;
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), document.hidden ? 4 * EVERY : EVERY);
  }

  stop() {
    clearTimeout(this.timer);
  }
}
