// The plan report, section by section, in the order in which its readers ask: what does it cost and
// will it hold, where does everything lie, how fast is it, what else was there, and why not that.
import { disclosure, h, place, type Child } from "../dom.ts";
import {
  count,
  dollars,
  listOf,
  memory,
  milliseconds,
  modeName,
  percent,
  plural,
} from "../format.ts";
import { keyFigure, section, warnings } from "../page.ts";
import { table } from "../table.ts";
import {
  boardsLine,
  colouring,
  groupRejections,
  headline,
  latencyRows,
  tightest,
  type Colouring,
  type LatencyRow,
} from "./analysis.ts";
import { gpuCard, type GpuContext } from "./gpu_view.ts";
import { Inspector } from "./inspector.ts";
import { latencyFigure } from "./latency_view.ts";
import { groupGpus } from "./layout.ts";
import type { Change, Plan, PlannedWorkload, Strategy } from "./plan.ts";

// So many layouts are drawn at once; what is beyond them is one click away. A plan for hundreds of
// GPUs rarely has more.
const LAYOUTS_SHOWN = 12;

export function planReport(plan: Plan): HTMLElement {
  const rows = latencyRows(plan);
  return h(
    "main",
    {},
    masthead(plan),
    warnings(plan.warnings),
    gpuSection(plan),
    section(
      "latency",
      "Latency",
      "Predicted for the worst replica of each workload, neighbours included.",
      latencyFigure(rows),
    ),
    plan.strategies.length > 0 && strategySection(plan),
    plan.rejections.length > 0 && rejectionSection(plan),
    plan.changes.length > 0 && changeSection(plan),
    workloadSection(plan, rows),
    footer(plan),
  );
}

function masthead(plan: Plan): HTMLElement {
  const { summary } = plan;
  const words = headline(plan);
  const tight = tightest(plan);
  return h(
    "header",
    { class: "masthead" },
    h("p", { class: "eyebrow" }, `Sublet plan${plan.fleet === "" ? "" : ` · ${plan.fleet}`}`),
    h(
      "h1",
      {},
      words.sentence,
      h("span", { class: "unseen" }, ", "),
      h("span", { class: "price" }, `${dollars(summary.cost_month_usd)} a month`),
    ),
    words.saving !== "" && h("p", { class: "saving" }, words.saving),
    h(
      "dl",
      { class: "key-figures" },
      keyFigure("figure-gpus", "GPUs", count(summary.gpus), boardsLine(plan)),
      keyFigure(
        "figure-cost",
        "Cost a month",
        dollars(summary.cost_month_usd),
        `${dollars(summary.cost_hour_usd)} an hour, 730 hours`,
      ),
      keyFigure(
        "figure-verdict",
        "Against the bound",
        words.verdict,
        words.bound,
        summary.gap_percent <= 0 ? "good" : "",
      ),
      tight === undefined
        ? keyFigure("figure-headroom", "Latency headroom", "–", "No workload has a latency target.")
        : keyFigure(
            "figure-headroom",
            "Latency headroom",
            percent(tight.headroom),
            tight.headroom < 0
              ? `${tight.replica.id} misses its target.`
              : `The smallest, at ${tight.replica.id}.`,
            tight.headroom < 0 ? "bad" : "good",
          ),
    ),
  );
}

function gpuSection(plan: Plan): HTMLElement {
  const groups = groupGpus(plan.gpus);
  const colours = colouring(plan);
  const context: GpuContext = {
    colours,
    inspector: new Inspector(),
    workloads: new Map(plan.workloads.map((w) => [w.name, w])),
  };
  const grid = (part: typeof groups): HTMLElement =>
    h(
      "div",
      { class: groups.length > 2 ? "gpus several" : "gpus" },
      ...part.map((g) => gpuCard(g, context)),
    );
  const rest = groups.slice(LAYOUTS_SHOWN);
  const restGpus = rest.reduce((sum, group) => sum + group.gpus.length, 0);
  const equal =
    groups.length < plan.gpus.length
      ? ` ${count(plan.gpus.length)} GPUs have ${plural(groups.length, "layout")}; ` +
        "equal ones are drawn once."
      : "";
  return section(
    "gpus",
    plan.gpus.length === 1 ? "The GPU" : "The GPUs",
    `Drawn to scale: a replica is as wide as its memory and filled as high as its SM cap.${equal}`,
    legend(plan, colours),
    grid(groups.slice(0, LAYOUTS_SHOWN)),
    rest.length > 0 &&
      disclosure(
        `${plural(rest.length, "further layout")} on ${plural(restGpus, "GPU")}`,
        () => [grid(rest)],
        { class: "rest" },
      ),
  );
}

function legend(plan: Plan, colours: Colouring): HTMLElement {
  const list = h("ul", { class: "legend", "aria-label": `Colours by ${colours.by}` });
  if (colours.complete) {
    colours.keys.forEach((key, i) => {
      const hue = colours.hueOf({ tenant: key, workload: key });
      list.append(h("li", { class: `key hue-${hue}`, "data-key": i }, key));
    });
  } else {
    list.append(
      h("li", { class: "many" }, `${count(colours.keys.length)} ${colours.by}s; colours repeat`),
    );
  }
  const sign = (kind: string, words: string): HTMLElement =>
    h("li", { class: `sign sign-${kind}` }, words);
  const replicas = plan.gpus.flatMap((g) => g.partitions.flatMap((p) => p.replicas));
  const loose = replicas.some((r) => !r.enforcement.some((e) => e.what === "memory" && e.enforced));
  list.append(
    sign("cap", "SM cap"),
    sign("context", "CUDA context"),
    sign("free", "free"),
    sign("reserve", "reserve"),
  );
  if (loose) list.append(sign("unenforced", "memory limit not enforced"));
  return list;
}

const optional = (ms: number | undefined): string => (ms === undefined ? "–" : milliseconds(ms));

function strategySection(plan: Plan): HTMLElement {
  const chosenFirst = [...plan.strategies].sort(
    (a, b) => Number(b.name === "chosen") - Number(a.name === "chosen"),
  );
  const dearest = Math.max(
    ...plan.strategies.filter((s) => s.feasible).map((s) => s.cost_month_usd),
    0,
  );
  const cost = (s: Strategy): Child[] => {
    if (!s.feasible) return ["–"];
    const bar = h("span", { class: "bar", "aria-hidden": true });
    return [
      dollars(s.cost_month_usd),
      dearest > 0 && place(bar, { share: (100 * s.cost_month_usd) / dearest }),
    ];
  };
  const body = table(
    chosenFirst,
    [
      { title: "Strategy", heading: true, cell: (s) => modeName(s.name) },
      { title: "GPUs", kind: "number", cell: (s) => (s.feasible ? count(s.gpus) : "–") },
      { title: "Cost a month", kind: "number", cell: cost },
      { title: "Isolation", cell: (s) => (s.isolation === "" ? "–" : s.isolation) },
      { title: "p50", kind: "number", cell: (s) => optional(s.latency_ms_p50) },
      { title: "p99", kind: "number", cell: (s) => optional(s.latency_ms_p99) },
      {
        title: "Holds",
        kind: "number",
        cell: (s) => `${count(s.holds)} of ${count(plan.summary.replicas)}`,
      },
      { title: "What breaks", kind: "prose", cell: breaksCell },
    ],
    {
      caption: "One sharing mode for the whole fleet, beside the plan that was chosen",
      rowClass: (s) => (s.name === "chosen" ? "chosen" : s.feasible ? undefined : "infeasible"),
    },
  );
  return section(
    "strategies",
    "Strategies compared",
    "What each mode alone would have given. Latency is the worst replica's; “holds” counts the " +
      `replicas that this plan's ${plural(plan.summary.gpus, "GPU")} would take under that mode.`,
    body,
  );
}

function breaksCell(strategy: Strategy): Child {
  if (strategy.breaks.length === 0) return h("span", { class: "quiet" }, "nothing");
  if (strategy.breaks.length === 1) return strategy.breaks[0];
  return h("ul", {}, ...strategy.breaks.map((sentence) => h("li", {}, sentence)));
}

function rejectionSection(plan: Plan): HTMLElement {
  const groups = groupRejections(plan.rejections);
  const all = plan.workloads.length;
  return section(
    "rejections",
    "Why not another mode",
    "Modes that a workload did not get, and the reason.",
    table(
      groups,
      [
        { title: "Mode", heading: true, cell: (g) => modeName(g.mode) },
        {
          title: "Workloads",
          kind: "prose",
          cell: (g) =>
            g.workloads.length === all && all > 1
              ? `all ${count(all)}`
              : h(
                  "span",
                  g.workloads.length > 4 ? { title: listOf(g.workloads, 60) } : {},
                  listOf(g.workloads, 3),
                ),
        },
        { title: "Reason", kind: "prose", cell: (g) => g.reason },
      ],
      { caption: "Rejected modes and their reasons", rowsMax: 12 },
    ),
  );
}

function changeSection(plan: Plan): HTMLElement {
  const kept = plan.changes.filter((change) => change.kind === "keep").length;
  const real = plan.changes.filter((change) => change.kind !== "keep");
  const tally = (["move", "add", "remove"] as const)
    .map((kind) => [kind, real.filter((change) => change.kind === kind).length] as const)
    .filter(([, n]) => n > 0)
    .map(([kind, n]) => `${count(n)} to ${kind}`);
  const stay = kept === 1 ? "1 stays as it is" : `${count(kept)} stay as they are`;
  const lead = `Against the current state: ${[...tally, stay].join(", ")}.`;
  const end = (name: string): Child => (name === "" ? h("span", { class: "quiet" }, "–") : name);
  return section(
    "changes",
    "Changes",
    lead,
    real.length > 0 &&
      table<Change>(
        real,
        [
          { title: "Replica", heading: true, cell: (c) => c.replica },
          { title: "Change", cell: (c) => h("span", { class: `change ${c.kind}` }, c.kind) },
          { title: "From", cell: (c) => end(c.from) },
          { title: "To", cell: (c) => end(c.to) },
        ],
        { caption: "Changes against the current state" },
      ),
  );
}

function workloadSection(plan: Plan, rows: readonly LatencyRow[]): HTMLElement {
  const latency = new Map(rows.map((row) => [row.workload, row]));
  const row = (w: PlannedWorkload): LatencyRow | undefined => latency.get(w.name);
  const priorities = plan.workloads.some((w) => w.priority !== 0);
  const p50Targets = plan.workloads.some((w) => w.latency_ms_p50_target !== undefined);
  return section(
    "workloads",
    "Workloads",
    "",
    table<PlannedWorkload>(
      plan.workloads,
      [
        { title: "Workload", heading: true, cell: (w) => w.name },
        { title: "Tenant", cell: (w) => w.tenant },
        { title: "Replicas", kind: "number", cell: (w) => count(w.replicas) },
        { title: "Needs isolation", cell: (w) => w.isolation },
        ...(priorities
          ? [
              {
                title: "Priority",
                kind: "number",
                cell: (w: PlannedWorkload) => String(w.priority),
              } as const,
            ]
          : []),
        { title: "p50", kind: "number", cell: (w) => optional(row(w)?.p50) },
        ...(p50Targets
          ? [
              {
                title: "p50 target",
                kind: "number",
                cell: (w: PlannedWorkload) => optional(w.latency_ms_p50_target),
              } as const,
            ]
          : []),
        { title: "p99", kind: "number", cell: (w) => optional(row(w)?.p99) },
        { title: "p99 target", kind: "number", cell: (w) => optional(w.latency_ms_p99_target) },
        {
          title: "Headroom",
          kind: "number",
          cell: (w) => {
            const headroom = row(w)?.headroom;
            return headroom === undefined
              ? "–"
              : h("span", headroom < 0 ? { class: "late" } : {}, percent(headroom));
          },
        },
        { title: "Memory", kind: "number", cell: (w) => memory(w.memory_mib) },
        { title: "From", kind: "prose", cell: (w) => w.memory_how },
      ],
      { caption: "The workloads of the fleet with their needs and predicted latency" },
    ),
  );
}

function footer(plan: Plan): HTMLElement {
  return h(
    "footer",
    {},
    plan.calibration !== "" &&
      h("p", { id: "calibration" }, `Interference figures: ${plan.calibration}`),
    h(
      "p",
      {},
      `Written by sublet plan, format ${plan.version}. `,
      "The page is complete in itself and loads nothing.",
    ),
  );
}
