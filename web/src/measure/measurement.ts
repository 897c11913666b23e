// What `sublet measure` puts into its report: the measurement (docs/formats/measurement.md), and
// where there are any the calibration drawn from it, the planner's predictions and the grades of
// the lab's lessons. Memory is in MiB. What was not measured is absent.

export const MEASUREMENT_VERSION = "sublet.measurement/v1";

// The median of several rounds, and the interval that holds the true one.
export interface Estimate {
  value: number;
  low: number;
  high: number;
}

export interface Tenant {
  workload: string;
  sm_percent?: number;
  server?: number;
  mig_profile?: string;
  rate_per_s: Estimate;
  latency_ms_p50: number;
  latency_ms_p99: number;
  latency_ms_max: number;
  memory_mib?: number;
  startup_ms?: number;
  slowdown?: number;
}

export interface Run {
  id: string;
  series: string;
  mode: string;
  servers: number;
  streams: number;
  tenants: Tenant[];
  total_per_s: Estimate;
  fairness: number;
  rounds: number;
  round_ms: number;
  settled: boolean;
  energy_mj_per_unit?: number;
}

export interface QuotaCheck {
  mode: string;
  how: string;
  limit_mib: number;
  context_mib: number;
  allocated_mib: number;
  error_percent: number;
  enforced: boolean;
}

export interface FaultCheck {
  mode: string;
  servers: number;
  fault: string;
  neighbours: number;
  survivors: number;
  pause_ms_max: number;
  recovery_ms?: number;
  note?: string;
}

export interface Skipped {
  what: string;
  reason: string;
}

export interface GpuConditions {
  time?: string;
  sm_clock_mhz?: number;
  memory_clock_mhz?: number;
  temperature_c?: number;
  power_w?: number;
  throttle_reasons?: string[];
}

export interface Measurement {
  version: string;
  board: string;
  gpu_name: string;
  gpu_uuid: string;
  driver_version: string;
  cuda_version: number;
  sm_count: number;
  memory_mib: number;
  cpu_cores: number;
  effort: string;
  seed: number;
  duration_s: number;
  simulated: boolean;
  partial: boolean;
  disturbed: boolean;
  disturbed_by: string[];
  before: GpuConditions;
  after: GpuConditions;
  drift_percent?: number;
  device_reserve_mib: number;
  mps_clients_max: number;
  runs: Run[];
  quotas: QuotaCheck[];
  faults: FaultCheck[];
  skipped: Skipped[];
}

export interface ProfilePoint {
  sm_percent: number;
  alone_per_s: number;
  latency_ms_p50: number;
  latency_ms_p99: number;
  crowd_per_s?: number;
  context_mib: number;
}

export interface WorkloadProfile {
  name: string;
  unit?: string;
  memory_mib?: number;
  crowd?: number;
  points: ProfilePoint[];
}

export interface Calibration {
  source: string;
  switch_ms: number;
  mps_service_factor: number;
  mps_clients_max: number;
  contexts: { sm_percent: number; memory_mib: number }[];
  device_reserve_mib: number;
  profiles?: WorkloadProfile[];
}

// What the planner expects of a run; the rate is that of all its tenants together.
export interface Prediction {
  run: string;
  rate_per_s?: number;
  latency_ms_p50?: number;
}

export interface Lesson {
  name: string;
  statement: string;
  passed: boolean;
  measured?: string | number;
  required?: string | number;
}

export interface LabDocument {
  measurement: Measurement;
  calibration?: Calibration;
  predictions: Prediction[];
  lessons: Lesson[];
  method?: string; // How it was measured, in one paragraph.
}

// The document with every list there, as an interrupted measurement may lack some, and without
// runs in which nobody worked. Throws an Error for another document.
export function readLabDocument(data: unknown): LabDocument {
  const document = (data ?? {}) as Partial<LabDocument>;
  const measurement = (document.measurement ?? {}) as Partial<Measurement>;
  if (measurement.version !== MEASUREMENT_VERSION) {
    throw new Error(`this page shows ${MEASUREMENT_VERSION}, not ${String(measurement.version)}`);
  }
  const runs = measurement.runs ?? [];
  return {
    ...document,
    measurement: {
      ...(measurement as Measurement),
      runs: runs.filter((run) => (run.tenants ?? []).length > 0),
      disturbed_by: measurement.disturbed_by ?? [],
      before: measurement.before ?? {},
      after: measurement.after ?? {},
      quotas: measurement.quotas ?? [],
      faults: measurement.faults ?? [],
      skipped: measurement.skipped ?? [],
    },
    predictions: document.predictions ?? [],
    lessons: document.lessons ?? [],
  };
}
