// GPUs as pictures, drawn from layout.ts: one card for each layout, with the number of GPUs that
// have it, and the same facts as a table beneath.
import { h, disclosure, place, type Child } from "../dom.ts";
import {
  boardName,
  count,
  dollars,
  listOf,
  memory,
  milliseconds,
  modeName,
  nameRanges,
  percent,
  plural,
} from "../format.ts";
import { table } from "../table.ts";
import { range, type Colouring } from "./analysis.ts";
import type { Inspector } from "./inspector.ts";
import type { Band, Cell, FreeUnits, GpuGroup, Slot } from "./layout.ts";
import type { PlannedGpu, PlannedReplica, PlannedWorkload } from "./plan.ts";

const HOURS_PER_MONTH = 730;

// Of a table of replicas: all of a GPU's, which has 48 MPS clients at most.
const ROWS_MAX = 64;

export interface GpuContext {
  colours: Colouring;
  inspector: Inspector;
  workloads: Map<string, PlannedWorkload>;
}

export function gpuCard(group: GpuGroup, context: GpuContext): HTMLElement {
  const gpu = group.gpus[0]!;
  const card = h(
    "article",
    { class: "gpu", "data-gpus": group.gpus.length },
    cardHead(group),
    gpu.reason !== "" && h("p", { class: "reason" }, gpu.reason),
    drawing(group, context),
    disclosure(
      `${plural(
        group.layout.slots.reduce((n, s) => n + s.cells.length, 0),
        "replica",
      )} as a table`,
      () => [replicaTable(group, context)],
    ),
  );
  return card;
}

function cardHead(group: GpuGroup): HTMLElement {
  const gpu = group.gpus[0]!;
  const many = group.gpus.length > 1;
  const where = [gpu.node, gpu.index >= 0 ? `index ${gpu.index}` : "", gpu.uuid].filter((s) => s);
  const price = gpu.price_usd_hour * HOURS_PER_MONTH;
  return h(
    "header",
    {},
    h(
      "h3",
      {},
      many && h("span", { class: "times" }, `${count(group.gpus.length)}×`),
      many && h("span", { class: "unseen" }, " this layout: "),
      boardName(gpu.board),
      h("span", { class: "mode" }, modeLine(gpu)),
    ),
    h(
      "p",
      { class: "facts" },
      `${memory(group.layout.usedMib)} of ${memory(gpu.memory_mib)} in use`,
      ` · ${count(gpu.sm_count)} SMs · ${dollars(price)} a month${many ? " each" : ""}`,
    ),
    h(
      "p",
      { class: "names" },
      nameRanges(group.gpus.map((g) => g.name)),
      !many && where.length > 0 && ` · ${where.join(" · ")}`,
    ),
  );
}

// "MPS", "Time-slicing", "MIG with MPS inside".
function modeLine(gpu: PlannedGpu): string {
  const inside = [...new Set(gpu.partitions.map((p) => p.mode))];
  if (!gpu.mig) return inside.map(modeName).join(", ");
  const nested = inside.filter((mode) => mode !== "exclusive");
  return nested.length === 0 ? "MIG" : `MIG with ${nested.map(modeName).join(" and ")} inside`;
}

function drawing(group: GpuGroup, context: GpuContext): HTMLElement {
  const gpu = group.gpus[0]!;
  const { layout } = group;
  const board = h("div", { class: "board" });
  for (const slot of layout.slots) board.append(slotView(slot, gpu, context));
  for (const free of layout.free) board.append(freeView(free, gpu));
  board.addEventListener("keydown", (event) => moveFocus(board, event));
  board.querySelector<HTMLElement>(".cell")?.setAttribute("tabindex", "0");

  const axis = h("div", { class: "axis", "aria-hidden": true });
  for (const tick of layout.ticks) {
    axis.append(place(h("span", {}, tick.label), { left: tick.at }));
  }
  return h(
    "div",
    {
      class: "drawing",
      role: "group",
      "aria-label":
        `${boardName(gpu.board)}, memory from left to right, ${memory(gpu.memory_mib)} in all. ` +
        "Arrow keys move between the replicas.",
    },
    board,
    axis,
  );
}

function slotView(slot: Slot, gpu: PlannedGpu, context: GpuContext): HTMLElement {
  const { partition } = slot;
  const detail = slotDetail(slot);
  const caption = partition.profile + detail;
  const lane = h("div", { class: "lane" });
  slot.cells.forEach((cell) => lane.append(cellView(cell, slot, gpu, context)));
  if (slot.unused.width > 0.05) {
    const freeMib = Math.max(0, partition.memory_mib - slot.usedMib);
    const words = `${memory(freeMib)} free`;
    lane.append(
      place(h("div", { class: "unused", title: words }, h("span", {}, words)), { ...slot.unused }),
    );
  }
  if (slot.reserve.width > 0.05) {
    const title = "Not for replicas: the driver, ECC, and what the instance's size leaves over";
    lane.append(place(h("div", { class: "reserve", title }), { ...slot.reserve }));
  }
  const bands = h("div", { class: "bands" });
  for (const band of slot.bands) bands.append(bandView(band));
  return place(
    h(
      "div",
      {
        class: partition.profile === "" ? "slot whole" : "slot instance",
        "data-partition": partition.name,
      },
      caption !== "" &&
        h("div", { class: "slot-name", title: caption }, partition.profile, h("span", {}, detail)),
      slot.bands.length > 0 && bands,
      lane,
    ),
    { left: slot.left, width: slot.width },
  );
}

// What follows the profile's name above a slot, where there is room.
function slotDetail({ partition, bands }: Slot): string {
  const instance = partition.profile !== "";
  const servers = `${bands.length} MPS servers, time-sliced against each other`;
  return (
    (instance ? ` · ${partition.sm_count} SMs` : "") +
    (bands.length > 1 ? (instance ? ` · ${servers}` : servers) : "")
  );
}

function bandView(band: Band): HTMLElement {
  const owner = band.server.tenant === "" ? "" : `${band.server.tenant} · `;
  const words = `${owner}MPS server ${band.server.name}`;
  return place(
    h(
      "div",
      { class: "band", title: `${words}, ${plural(band.clients, "client")}, one fault domain` },
      h("span", {}, words),
    ),
    { left: band.left, width: band.width },
  );
}

function freeView(free: FreeUnits, gpu: PlannedGpu): HTMLElement {
  const mib = (gpu.memory_mib * free.size) / gpu.memory_units;
  const words = `${memory(mib)} free`;
  return place(
    h(
      "div",
      {
        class: "slot free",
        title: `Memory units ${free.start} to ${free.start + free.size - 1}: no instance`,
      },
      h("span", {}, words),
    ),
    { left: free.left, width: free.width },
  );
}

function cellView(cell: Cell, slot: Slot, gpu: PlannedGpu, context: GpuContext): HTMLElement {
  const replica = cell.replicas[0]!;
  const classes = [
    "cell",
    `hue-${context.colours.hueOf(replica)}`,
    cell.memoryEnforced ? "" : "unenforced",
    cell.replicas.some((r) => (r.prediction.headroom_percent ?? 0) < 0) ? "missed" : "",
  ];
  const size = `${memory(replica.memory_mib)}, ${smWords(replica)}`;
  const button = h(
    "button",
    {
      type: "button",
      class: classes.filter((c) => c).join(" "),
      tabindex: "-1",
      "data-workload": replica.workload,
      "aria-label": `${replicaNames(cell.replicas)}: ${size}`,
    },
    place(h("span", { class: "fill" }), { fill: cell.fill }),
    place(h("span", { class: "context" }), { context: cell.context }),
    h("span", { class: "name" }, replica.workload),
    h("span", { class: "amounts" }, memory(replica.memory_mib), h("br"), smWords(replica)),
  );
  context.inspector.explain(button, () => explanation(cell, slot, gpu, context));
  return place(button, { left: cell.left, width: cell.width });
}

// The arrow keys go through the replicas of a drawing, which is one stop for the Tab key.
function moveFocus(board: HTMLElement, event: KeyboardEvent): void {
  const cells = [...board.querySelectorAll<HTMLElement>(".cell")];
  const at = cells.indexOf(document.activeElement as HTMLElement);
  const last = cells.length - 1;
  const steps: Record<string, number> = {
    ArrowRight: Math.min(last, at + 1),
    ArrowLeft: Math.max(0, at - 1),
    Home: 0,
    End: last,
  };
  const next = cells[steps[event.key] ?? -1];
  if (at < 0 || next === undefined) return;
  event.preventDefault();
  cells[at]!.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
}

function replicaNames(replicas: readonly PlannedReplica[]): string {
  return listOf(
    replicas.map((r) => r.id),
    3,
  );
}

export function smWords(replica: PlannedReplica): string {
  return replica.sm_percent === undefined ? "all SMs" : `${percent(replica.sm_percent)} of SMs`;
}

export function limitWords(replica: PlannedReplica): string {
  return replica.memory_limit_mib === undefined ? "no limit" : memory(replica.memory_limit_mib);
}

// "41.3 ms", or the span that replicas on several GPUs cover.
function latencyWords(
  replicas: readonly PlannedReplica[],
  field: (replica: PlannedReplica) => number | undefined,
): string | undefined {
  const span = range(replicas, field);
  if (!span) return undefined;
  const [low, high] = [milliseconds(span.low), milliseconds(span.high)];
  return low === high ? high : `${low} to ${high}`;
}

function explanation(cell: Cell, slot: Slot, gpu: PlannedGpu, context: GpuContext): Node {
  const replica = cell.replicas[0]!;
  const workload = context.workloads.get(replica.workload);
  const { partition } = slot;
  const facts = h("dl");
  const fact = (term: string, ...words: Child[]): void => {
    facts.append(h("dt", {}, term), h("dd", {}, ...words));
  };
  fact(
    "Memory",
    `${memory(replica.memory_mib)}, ${memory(replica.context_mib)} of it CUDA context`,
  );
  fact("Memory limit", limitWords(replica));
  const sms = (partition.sm_count * cell.fill) / 100;
  fact(
    "SMs",
    cell.capped
      ? `${percent(cell.fill)}, about ${Math.round(sms)} of ${partition.sm_count}`
      : `all ${partition.sm_count}, no cap`,
  );
  const p50 = latencyWords(cell.replicas, (r) => r.prediction.latency_ms_p50);
  const p99 = latencyWords(cell.replicas, (r) => r.prediction.latency_ms_p99);
  const target = (ms?: number): string => (ms === undefined ? "" : `, target ${milliseconds(ms)}`);
  if (p50 !== undefined) fact("p50", p50 + target(workload?.latency_ms_p50_target));
  if (p99 !== undefined) fact("p99", p99 + target(workload?.latency_ms_p99_target));
  const headroom = range(cell.replicas, (r) => r.prediction.headroom_percent)?.low;
  if (headroom !== undefined) fact("Headroom", percent(headroom));
  const { utilisation, slowdown_mean: slowdown } = replica.prediction;
  fact(
    "Busy",
    `${percent(100 * utilisation)} of the time; neighbours slow it ${slowdown.toFixed(2)}×`,
  );

  const server = replica.server === undefined ? undefined : partition.servers[replica.server];
  const many = cell.replicas.length > 1;
  const where = [
    `Tenant ${replica.tenant}`,
    many ? boardName(gpu.board) : gpu.name,
    partition.profile,
    server && !many && `MPS server ${server.name}`,
  ];
  return h(
    "div",
    {},
    h("p", { class: `title hue-${context.colours.hueOf(replica)}` }, replicaNames(cell.replicas)),
    h("p", { class: "where" }, where.filter((s) => s).join(" · ")),
    facts,
    h("ul", { class: "enforcement" }, ...replica.enforcement.map(enforcementItem)),
    replica.reason !== "" && h("p", { class: "why" }, replica.reason),
  );
}

function enforcementItem(e: PlannedReplica["enforcement"][number]): HTMLElement {
  const names: Record<string, string> = { memory: "Memory", sm: "SMs", fault: "Faults" };
  return h(
    "li",
    { class: e.enforced ? "yes" : "no" },
    `${names[e.what] ?? e.what}: ${e.enforced ? `held by ${e.by}` : e.by}`,
  );
}

interface TableRow {
  cell: Cell;
  slot: Slot;
}

function replicaTable(group: GpuGroup, context: GpuContext): HTMLElement {
  const rows = group.layout.slots.flatMap((slot) =>
    slot.cells.map((cell): TableRow => ({ cell, slot })),
  );
  const first = (row: TableRow): PlannedReplica => row.cell.replicas[0]!;
  const mig = group.gpus[0]!.mig;
  return table(
    rows,
    [
      { title: "Replica", heading: true, cell: (row) => replicaNames(row.cell.replicas) },
      { title: "Tenant", cell: (row) => first(row).tenant },
      ...(mig ? [{ title: "Instance", cell: (row: TableRow) => row.slot.partition.profile }] : []),
      { title: "Memory", kind: "number", cell: (row) => memory(first(row).memory_mib) },
      { title: "Limit", kind: "number", cell: (row) => limitWords(first(row)) },
      { title: "SMs", kind: "number", cell: (row) => smWords(first(row)) },
      {
        title: "p50",
        kind: "number",
        cell: (row) => latencyWords(row.cell.replicas, (r) => r.prediction.latency_ms_p50) ?? "–",
      },
      {
        title: "p99",
        kind: "number",
        cell: (row) => latencyWords(row.cell.replicas, (r) => r.prediction.latency_ms_p99) ?? "–",
      },
      {
        title: "p99 target",
        kind: "number",
        cell: (row) => {
          const target = context.workloads.get(first(row).workload)?.latency_ms_p99_target;
          return target === undefined ? "–" : milliseconds(target);
        },
      },
      { title: "Held by", kind: "prose", cell: (row) => heldBy(first(row)) },
      { title: "Reason", kind: "prose", cell: (row) => first(row).reason },
    ],
    {
      caption: `Replicas on ${nameRanges(group.gpus.map((g) => g.name))}`,
      rowsMax: ROWS_MAX,
    },
  );
}

function heldBy(replica: PlannedReplica): string {
  return replica.enforcement.map((e) => `${e.what}: ${e.by}`).join("; ");
}
