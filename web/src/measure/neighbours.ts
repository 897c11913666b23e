// The noisy-neighbour matrix: what each workload suffers beside each other one. And what runs of
// several streams gain. Pure functions.
import type { Run } from "./measurement.ts";
import { aloneRuns, byWay, p99Of, wayOf, workloadOf, type Way } from "./runs.ts";

export interface Cell {
  row: string; // Who suffers.
  column: string; // Beside whom.
  p99: number;
  factor: number; // Its p99 over its p99 alone.
}

export interface NeighbourMap {
  way: Way;
  workloads: string[]; // In the order of the runs alone.
  cells: Cell[]; // Only what was measured.
}

// One for each way of sharing in which pairs ran, in the order of byWay. A pair gives two cells,
// one for each of the two; a pair of equals gives one, the worse one's.
export function neighbourMaps(runs: readonly Run[]): NeighbourMap[] {
  const alone = new Map([...aloneRuns(runs)].map(([name, run]) => [name, p99Of(run)]));
  const maps = new Map<string, { way: Way; cells: Map<string, Cell> }>();
  for (const run of runs) {
    const [a, b] = run.tenants;
    if (run.series !== "pair" || run.tenants.length !== 2 || !a || !b) continue;
    const way = wayOf(run);
    const map = maps.get(way.key) ?? { way, cells: new Map<string, Cell>() };
    maps.set(way.key, map);
    for (const [tenant, other] of [
      [a, b],
      [b, a],
    ] as const) {
      const base = alone.get(tenant.workload);
      if (base === undefined || base <= 0) continue;
      const cell = {
        row: tenant.workload,
        column: other.workload,
        p99: tenant.latency_ms_p99,
        factor: tenant.latency_ms_p99 / base,
      };
      const key = `${cell.row}\n${cell.column}`;
      const known = map.cells.get(key);
      if (known === undefined || known.factor < cell.factor) map.cells.set(key, cell);
    }
  }
  return [...maps.values()]
    .sort((a, b) => byWay(a.way, b.way))
    .map(({ way, cells }) => {
      const list = [...cells.values()];
      const named = new Set(list.flatMap((cell) => [cell.row, cell.column]));
      return { way, workloads: [...alone.keys()].filter((name) => named.has(name)), cells: list };
    })
    .filter((map) => map.cells.length > 0);
}

export function worstCell(map: NeighbourMap): Cell {
  return map.cells.reduce((worst, cell) => (cell.factor > worst.factor ? cell : worst));
}

export interface Overlap {
  kind: "kernels" | "pipeline";
  workload: string;
  streams: number;
  rate: number;
  base: number; // Units a second with one stream.
  gain: number; // rate / base
  recovered: number; // Percent of the wall-clock time of one stream that is saved.
}

// What several streams in one process give over one: concurrent kernels over the run alone, the
// pipeline over its own run with one stream.
export function overlaps(runs: readonly Run[]): Overlap[] {
  const alone = aloneRuns(runs);
  const streamsOf = (run: Run): number => Math.max(run.streams ?? 1, run.tenants.length);
  return runs.flatMap((run) => {
    const workload = workloadOf(run);
    const streams = streamsOf(run);
    if (workload === undefined || streams < 2) return [];
    const pipeline = run.series === "pipeline";
    if (!pipeline && run.series !== "streams") return [];
    const one = pipeline
      ? runs.find(
          (r) => r.series === "pipeline" && workloadOf(r) === workload && streamsOf(r) === 1,
        )
      : alone.get(workload);
    const base = one?.total_per_s.value ?? 0;
    const rate = run.total_per_s.value;
    if (base <= 0 || rate <= 0) return [];
    return [
      {
        kind: pipeline ? ("pipeline" as const) : ("kernels" as const),
        workload,
        streams,
        rate,
        base,
        gain: rate / base,
        recovered: 100 * (1 - base / rate),
      },
    ];
  });
}
