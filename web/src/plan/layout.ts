// From a plan to rectangles: pure functions of the data, without a document.
//
// A GPU is drawn with memory from left to right and SMs from bottom to top:
//
//   layout
//    ├ slots[]      a partition at its place: the whole GPU, or a MIG instance at start:size
//    │  ├ bands[]   an MPS server above its clients
//    │  └ cells[]   a client: as wide as its memory, filled as high as its SM cap
//    ├ free[]       memory units that no instance covers
//    └ ticks[]      the memory axis
//
// Positions are percent: a slot's of the GPU, a cell's and a band's of its slot. So the page scales
// them to any width. GPUs that look the same are drawn once (groupGpus).
import type { PlannedGpu, PlannedPartition, PlannedReplica, PlannedServer } from "./plan.ts";

export interface Span {
  left: number;
  width: number;
}

export interface Cell extends Span {
  // The same place on every GPU of the group, in the order of the group's GPUs.
  replicas: PlannedReplica[];
  fill: number; // Percent of the partition's SMs that it may use.
  capped: boolean; // Whether a cap sets `fill`.
  context: number; // Percent of the cell's memory that is CUDA context.
  memoryEnforced: boolean;
}

export interface Band extends Span {
  server: PlannedServer;
  clients: number;
}

export interface Slot extends Span {
  partition: PlannedPartition;
  cells: Cell[];
  bands: Band[];
  unused: Span; // Memory of the partition that no replica takes.
  reserve: Span; // Memory of the slot that no replica can have: driver, ECC, rounding.
  usedMib: number;
}

export interface FreeUnits extends Span {
  start: number;
  size: number;
}

export interface Tick {
  at: number; // Percent of the GPU's memory.
  label: string;
}

export interface GpuLayout {
  slots: Slot[];
  free: FreeUnits[];
  ticks: Tick[];
  usedMib: number;
}

export interface GpuGroup {
  gpus: PlannedGpu[]; // All of one layout; at least one.
  layout: GpuLayout;
}

const byText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

function compareReplicas(a: PlannedReplica, b: PlannedReplica): number {
  return (
    byText(a.tenant, b.tenant) ||
    byText(a.workload, b.workload) ||
    b.memory_mib - a.memory_mib ||
    byText(shapeOf(a), shapeOf(b))
  );
}

function shapeOf(r: PlannedReplica): string {
  return [
    r.workload,
    r.tenant,
    r.memory_mib,
    r.context_mib,
    r.memory_limit_mib ?? "",
    r.sm_percent ?? "",
  ].join("|");
}

interface Client {
  server: PlannedServer | undefined;
  replicas: PlannedReplica[];
}

// The replicas by server, in an order that depends on what they are and not on what they are
// called, so that equal partitions come out equal.
function clientsOf(partition: PlannedPartition): Client[] {
  const rest: Client = { server: undefined, replicas: [] };
  const clients = partition.servers.map((server): Client => ({ server, replicas: [] }));
  for (const replica of partition.replicas) {
    const client = replica.server === undefined ? undefined : clients[replica.server];
    (client ?? rest).replicas.push(replica);
  }
  if (rest.replicas.length > 0) clients.push(rest);
  for (const client of clients) client.replicas.sort(compareReplicas);
  const shape = (c: Client): string =>
    `${c.server?.tenant ?? ""}:${c.replicas.map(shapeOf).join(";")}`;
  return clients.sort((a, b) => byText(shape(a), shape(b)));
}

// The text that two GPUs share exactly when they are drawn alike.
export function signature(gpu: PlannedGpu): string {
  const partitions = gpu.partitions.map((p) => {
    const clients = clientsOf(p).map(
      (c) => `${c.server ? `server ${c.server.tenant}` : ""}(${c.replicas.map(shapeOf).join(";")})`,
    );
    return [p.profile, p.start, p.size, p.memory_mib, p.sm_count, p.mode, ...clients].join(",");
  });
  return [gpu.board, gpu.mig, gpu.memory_mib, gpu.price_usd_hour, ...partitions].join("/");
}

// GPUs of one layout together; the most frequent layout first, otherwise in the order of the plan.
export function groupGpus(gpus: readonly PlannedGpu[]): GpuGroup[] {
  const groups = new Map<string, PlannedGpu[]>();
  for (const gpu of gpus) {
    const key = signature(gpu);
    const group = groups.get(key);
    if (group) group.push(gpu);
    else groups.set(key, [gpu]);
  }
  return [...groups.values()]
    .sort((a, b) => b.length - a.length)
    .map((members) => ({ gpus: members, layout: layoutGpus(members) }));
}

// The drawing of GPUs with equal signatures.
export function layoutGpus(gpus: readonly PlannedGpu[]): GpuLayout {
  const gpu = gpus[0];
  if (gpu === undefined) throw new Error("a layout needs a GPU");
  const slots = gpu.partitions.map((partition, index) =>
    layoutSlot(
      gpu,
      partition,
      gpus.map((other) => clientsOf(other.partitions[index]!).flatMap((c) => c.replicas)),
    ),
  );
  return {
    slots,
    free: freeUnits(gpu),
    ticks: memoryTicks(gpu.memory_mib),
    usedMib: slots.reduce((sum, slot) => sum + slot.usedMib, 0),
  };
}

function slotSpan(gpu: PlannedGpu, partition: PlannedPartition): Span {
  if (partition.profile === "" || gpu.memory_units === 0) return { left: 0, width: 100 };
  return {
    left: (100 * partition.start) / gpu.memory_units,
    width: (100 * partition.size) / gpu.memory_units,
  };
}

function layoutSlot(
  gpu: PlannedGpu,
  partition: PlannedPartition,
  replicasOfGpus: PlannedReplica[][],
): Slot {
  const span = slotSpan(gpu, partition);
  const usedMib = partition.replicas.reduce((sum, r) => sum + r.memory_mib, 0);
  const availableMib = Math.max(partition.memory_mib, usedMib);
  const slotMib = Math.max((gpu.memory_mib * span.width) / 100, availableMib);
  const toPercent = (mib: number): number => (100 * mib) / slotMib;

  const cells: Cell[] = [];
  const bands: Band[] = [];
  let left = 0;
  for (const client of clientsOf(partition)) {
    const bandLeft = left;
    for (const replica of client.replicas) {
      const place = cells.length;
      const width = toPercent(replica.memory_mib);
      const same = replicasOfGpus.map((replicas) => replicas[place]!);
      cells.push(cellOf(replica, same, { left, width }));
      left += width;
    }
    if (client.server) {
      const clients = client.replicas.length;
      bands.push({ server: client.server, clients, left: bandLeft, width: left - bandLeft });
    }
  }
  const end = toPercent(availableMib);
  return {
    partition,
    ...span,
    cells,
    bands,
    usedMib,
    unused: { left, width: Math.max(0, end - left) },
    reserve: { left: end, width: Math.max(0, 100 - end) },
  };
}

function cellOf(replica: PlannedReplica, replicas: PlannedReplica[], span: Span): Cell {
  return {
    ...span,
    replicas,
    fill: Math.min(100, Math.max(0, replica.sm_percent ?? 100)),
    capped: replica.sm_percent !== undefined,
    context: replica.memory_mib > 0 ? (100 * replica.context_mib) / replica.memory_mib : 0,
    memoryEnforced: replica.enforcement.some((e) => e.what === "memory" && e.enforced),
  };
}

// The memory units between and behind the instances, joined where they lie side by side.
export function freeUnits(gpu: PlannedGpu): FreeUnits[] {
  const units = gpu.memory_units;
  if (!gpu.mig || units === 0) return [];
  const taken = new Array<boolean>(units).fill(false);
  for (const p of gpu.partitions) taken.fill(true, p.start, p.start + p.size);
  const free: FreeUnits[] = [];
  for (let unit = 0; unit < units; unit++) {
    if (taken[unit]) continue;
    const previous = free.at(-1);
    if (previous && previous.start + previous.size === unit) previous.size++;
    else free.push({ start: unit, size: 1, left: 0, width: 0 });
  }
  return free.map((f) => ({ ...f, left: (100 * f.start) / units, width: (100 * f.size) / units }));
}

// Four to eight round figures along the memory axis, zero and no more than the memory itself.
export function memoryTicks(memoryMib: number): Tick[] {
  const gib = memoryMib / 1024;
  if (!(gib > 0)) return [];
  const step = roundStep(gib / 4);
  const ticks: Tick[] = [];
  for (let i = 0; i * step <= gib * (1 + 1e-9); i++) {
    const value = i * step;
    ticks.push({ at: Math.min(100, (100 * value) / gib), label: `${Number(value.toFixed(3))}` });
  }
  return ticks;
}

// The largest of 1, 2, 4, 5, 8 times a power of ten that is not above `step`. Memory comes in
// eights, so that 4 and 8 belong here.
function roundStep(step: number): number {
  const power = 10 ** Math.floor(Math.log10(step));
  const factor = [8, 5, 4, 2, 1].find((f) => f * power <= step * (1 + 1e-9)) ?? 1;
  return factor * power;
}
