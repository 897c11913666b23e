// Numbers as people read them. English grouping, because the report's words are English.

// A figure and its unit stay on one line.
export const NBSP = "\u00a0";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const oneDigit = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });
const twoDigits = new Intl.NumberFormat("en-US", { maximumFractionDigits: 2 });
const money = new Intl.NumberFormat("en-US", {
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
});

export function count(value: number): string {
  return whole.format(value);
}

// "1 GPU", "2 GPUs".
export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

// "$9,490", "$2,372.50": cents only where there are any.
export function dollars(usd: number): string {
  const rounded = Math.round(usd * 100) / 100;
  const digits = Number.isInteger(rounded)
    ? whole.format(Math.abs(rounded))
    : money.format(Math.abs(rounded));
  return `${rounded < 0 ? "−" : ""}$${digits}`;
}

// "412 MiB", "15.9 GiB", "80 GiB".
export function memory(mib: number): string {
  if (mib < 1000) return `${whole.format(mib)}${NBSP}MiB`;
  return `${oneDigit.format(mib / 1024)}${NBSP}GiB`;
}

// Three significant digits are all that a prediction is good for: "0.64 ms", "41.3 ms", "1,240 ms".
export function milliseconds(ms: number): string {
  const format = ms < 10 ? twoDigits : ms < 100 ? oneDigit : whole;
  return `${format.format(ms)}${NBSP}ms`;
}

// As milliseconds, from ten seconds on in seconds: "412 ms", "43.3 s".
export function duration(ms: number): string {
  if (ms < 10_000) return milliseconds(ms);
  return `${(ms < 100_000 ? oneDigit : whole).format(ms / 1000)}${NBSP}s`;
}

// One decimal below ten, so that a gap of 0.4 % doesn't read as none.
export function percent(value: number): string {
  const digits = Math.abs(value) < 10 ? oneDigit.format(value) : whole.format(value);
  return `${digits === "-0" ? "0" : digits.replace("-", "−")}${NBSP}%`;
}

export function capitalised(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

// "a100-80gb" as its vendor writes it: "A100-80GB".
export function boardName(board: string): string {
  return board.toUpperCase();
}

const modeNames: Record<string, string> = {
  exclusive: "Exclusive",
  streams: "Streams",
  "time-slicing": "Time-slicing",
  mps: "MPS",
  mig: "MIG",
  chosen: "This plan",
};

export function modeName(mode: string): string {
  return modeNames[mode] ?? mode;
}

// Names with running numbers, shortened: gpu0, gpu1, gpu2, gpu7 → "gpu0–gpu2, gpu7". Expects the
// order of the plan; keeps it.
export function nameRanges(names: readonly string[]): string {
  const parts: string[] = [];
  let i = 0;
  while (i < names.length) {
    let last = i;
    while (last + 1 < names.length && follows(names[last]!, names[last + 1]!)) last++;
    parts.push(last - i >= 2 ? `${names[i]}–${names[last]}` : names.slice(i, last + 1).join(", "));
    i = last + 1;
  }
  return parts.join(", ");
}

function follows(a: string, b: string): boolean {
  const left = /^(.*?)(\d{1,9})$/.exec(a);
  const right = /^(.*?)(\d{1,9})$/.exec(b);
  return !!left && !!right && left[1] === right[1] && Number(left[2]) + 1 === Number(right[2]);
}

// "a, b, c and 9 more".
export function listOf(names: readonly string[], shown: number): string {
  if (names.length <= shown + 1) return names.join(", ");
  return `${names.slice(0, shown).join(", ")} and ${count(names.length - shown)} more`;
}

// "1.05×", "9.3×", "12×": two decimals where a few percent matter, and always so many, because
// these stand beside each other.
export function times(factor: number): string {
  return `${factor.toFixed(factor < 1.995 ? 2 : factor < 9.95 ? 1 : 0)}×`;
}

// A number of units a second: "25,589", "41.3", "0.64".
export function rate(perSecond: number): string {
  const format = perSecond < 10 ? twoDigits : perSecond < 100 ? oneDigit : whole;
  return format.format(perSecond);
}
