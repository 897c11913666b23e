// Measurements for the tests, each with only what its test is about.
import type { LabDocument, Measurement, Run, Tenant } from "../src/measure/measurement.ts";

export const tenant = (workload: string, fields: Partial<Tenant> = {}): Tenant => ({
  workload,
  rate_per_s: { value: 100, low: 100, high: 100 },
  latency_ms_p50: 1,
  latency_ms_p99: 1.5,
  latency_ms_max: 2,
  ...fields,
});

interface Shape {
  series?: string;
  count?: number;
  cap?: number;
  rate?: number; // Of all tenants.
  p50?: number;
  p99?: number;
  mib?: number;
  servers?: number;
  streams?: number;
}

// `count` equal tenants in one run.
export function run(id: string, mode: string, workload: string, shape: Shape = {}): Run {
  const count = shape.count ?? 1;
  const rate = shape.rate ?? 100;
  const tenants = Array.from({ length: count }, () =>
    tenant(workload, {
      latency_ms_p50: shape.p50 ?? 1,
      latency_ms_p99: shape.p99 ?? 1.5,
      ...(shape.cap !== undefined && { sm_percent: shape.cap }),
      ...(shape.mib !== undefined && { memory_mib: shape.mib }),
    }),
  );
  return {
    id,
    series: shape.series ?? "scaling",
    mode,
    servers: shape.servers ?? 1,
    streams: shape.streams ?? 1,
    tenants,
    total_per_s: { value: rate, low: rate, high: rate },
    fairness: 1,
    rounds: 9,
    round_ms: 250,
    settled: true,
  };
}

export const alone = (workload: string, rate: number, p99 = 1.5): Run =>
  run(`alone/${workload}`, "exclusive", workload, { series: "alone", rate, p99 });

export function pair(mode: string, a: [string, number], b: [string, number]): Run {
  return {
    ...run(`${mode}/${a[0]}+${b[0]}`, mode, a[0], { series: "pair" }),
    tenants: [tenant(a[0], { latency_ms_p99: a[1] }), tenant(b[0], { latency_ms_p99: b[1] })],
  };
}

export function lab(
  runs: Run[],
  measurement: Partial<Measurement> = {},
  rest: Partial<LabDocument> = {},
): LabDocument {
  return {
    measurement: {
      version: "sublet.measurement/v1",
      board: "h200",
      gpu_name: "NVIDIA H200",
      gpu_uuid: "",
      driver_version: "",
      cuda_version: 0,
      sm_count: 132,
      memory_mib: 100_000,
      cpu_cores: 16,
      effort: "full",
      seed: 1,
      duration_s: 60,
      simulated: false,
      partial: false,
      disturbed: false,
      disturbed_by: [],
      before: {},
      after: {},
      device_reserve_mib: 0,
      mps_clients_max: 0,
      runs,
      quotas: [],
      faults: [],
      skipped: [],
      ...measurement,
    },
    predictions: [],
    lessons: [],
    ...rest,
  };
}
