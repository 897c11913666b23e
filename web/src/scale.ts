// The axes of the charts.

export interface Axis {
  log: boolean;
  domain: [number, number];
  ticks: number[];
}

// Where the slowest figure is this many times the fastest, only a logarithmic axis shows both.
const LOG_FROM = 15;

// An axis that shows all of `values`, which are above 0, with at most about `ticksMax` ticks.
// Linear axes start at 0, so that lengths can be compared.
export function latencyAxis(values: readonly number[], ticksMax: number): Axis {
  const positive = values.filter((value) => value > 0);
  if (positive.length === 0) return { log: false, domain: [0, 1], ticks: [0, 1] };
  const low = Math.min(...positive);
  const high = Math.max(...positive);
  if (high / low > LOG_FROM) {
    const domain: [number, number] = [low / 1.3, high * 1.3];
    return { log: true, domain, ticks: logTicks(domain, ticksMax) };
  }
  return lengthAxis(positive, ticksMax);
}

// 1, 2 and 5 in every decade where they fit, otherwise only powers of ten, and of those every n-th.
function logTicks([low, high]: [number, number], ticksMax: number): number[] {
  const decades: number[] = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) decades.push(e);
  const inside = (factors: number[]): number[] =>
    decades
      .flatMap((e) => factors.map((f) => Number((f * 10 ** e).toPrecision(3))))
      .filter((tick) => tick >= low && tick <= high);
  for (const factors of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = inside(factors);
    if (ticks.length <= ticksMax) return ticks;
  }
  const powers = inside([1]);
  const every = Math.ceil(powers.length / ticksMax);
  return powers.filter((_, i) => i % every === 0);
}

function linearTicks(high: number, ticksMax: number): number[] {
  const power = 10 ** Math.floor(Math.log10(high / ticksMax));
  const step = power * ([1, 2, 5, 10].find((f) => high / (f * power) <= ticksMax) ?? 10);
  const ticks: number[] = [];
  for (let i = 0; i * step <= high; i++) ticks.push(Number((i * step).toPrecision(6)));
  return ticks;
}

// An axis from 0 that shows all of `values`, for lengths that are to be compared.
export function lengthAxis(values: readonly number[], ticksMax: number): Axis {
  const high = Math.max(...values, 0);
  if (high <= 0) return { log: false, domain: [0, 1], ticks: [0, 1] };
  const domain: [number, number] = [0, high * 1.06];
  return { log: false, domain, ticks: linearTicks(domain[1], ticksMax) };
}
