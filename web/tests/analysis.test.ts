import { describe, expect, it } from "vitest";

import {
  boardsLine,
  colouring,
  groupRejections,
  headline,
  latencyRows,
  range,
  tightest,
  tightestRows,
} from "../src/plan/analysis.ts";
import type { Prediction, Strategy } from "../src/plan/plan.ts";
import { gpu, partition, plan, replica, workload } from "./fixtures.ts";

const predicted = (p50: number, p99: number, headroom?: number): Prediction => ({
  service_ms: 1,
  slowdown_mean: 1,
  utilisation: 0.5,
  latency_ms_p50: p50,
  latency_ms_p99: p99,
  ...(headroom !== undefined && { headroom_percent: headroom }),
});

const exclusive = (fields: Partial<Strategy>): Strategy => ({
  name: "exclusive",
  feasible: true,
  gpus: 4,
  cost_month_usd: 9490,
  isolation: "hardware",
  holds: 1,
  breaks: [],
  ...fields,
});

describe("the headline", () => {
  const four = [
    gpu("gpu0", [partition("p", { replicas: ["a", "b", "c", "d"].map((n) => replica(`${n}/0`)) })]),
  ];

  it("says what sharing saves", () => {
    const words = headline(plan(four, { strategies: [exclusive({})] }));
    expect(words.sentence).toBe("4 replicas share 1 GPU");
    expect(words.saving).toContain("4 GPUs and $9,490 a month: this saves $7,117.50");
  });

  it("claims no saving where a GPU for each is impossible or costs the same", () => {
    expect(headline(plan(four, { strategies: [exclusive({ feasible: false })] })).saving).toBe("");
    expect(
      headline(plan(four, { strategies: [exclusive({ cost_month_usd: 2372.5 })] })).saving,
    ).toBe("");
    expect(headline(plan(four)).saving).toBe("");
  });

  it("names the bound where the plan is not proven optimal", () => {
    const made = plan(four);
    made.summary = {
      ...made.summary,
      gap_percent: 0.8,
      verdict: "within 0.8 %",
      lower_bound_month_usd: 2353.67,
    };
    expect(headline(made).verdict).toBe("Within 0.8 %");
    expect(headline(made).bound).toContain("$2,353.67");
  });
});

describe("latency rows", () => {
  it("show the worst replica of a workload, wherever it runs", () => {
    const made = plan(
      [
        gpu("gpu0", [
          partition("p", { replicas: [replica("a/0", { prediction: predicted(1, 9, 10) })] }),
        ]),
        gpu("gpu1", [
          partition("q", { replicas: [replica("a/1", { prediction: predicted(2, 8, 20) })] }),
        ]),
      ],
      { workloads: [workload("a", { latency_ms_p99_target: 10 })] },
    );
    expect(latencyRows(made)).toEqual([
      { workload: "a", p50: 2, p99: 9, p99Target: 10, headroom: 10, kept: true },
    ]);
  });

  it.each([
    [{ latency_ms_p99_target: 8.9 }, false],
    [{ latency_ms_p99_target: 9 }, true],
    [{ latency_ms_p50_target: 0.5 }, false],
    [{}, true],
  ])("with targets %o are kept: %s", (targets, kept) => {
    const made = plan(
      [
        gpu("gpu0", [
          partition("p", { replicas: [replica("a/0", { prediction: predicted(1, 9) })] }),
        ]),
      ],
      { workloads: [workload("a", targets)] },
    );
    expect(latencyRows(made)[0]!.kept).toBe(kept);
  });

  it("too many to plot are cut to those closest to their targets", () => {
    const row = (name: string, p99: number, headroom?: number) => ({
      workload: name,
      p99,
      kept: true,
      ...(headroom !== undefined && { headroom }),
    });
    const rows = [row("calm", 5, 60), row("free", 900), row("tight", 7, 3), row("slow", 1000)];
    expect(tightestRows(rows, 3).map((r) => r.workload)).toEqual(["tight", "calm", "slow"]);
    expect(tightestRows(rows, 4).map((r) => r.workload)).toEqual(["calm", "free", "tight", "slow"]);
  });
});

describe("the tightest replica", () => {
  it("has the smallest headroom", () => {
    const replicas = [30, -4, 12].map((headroom, i) =>
      replica(`a/${i}`, { prediction: predicted(1, 2, headroom) }),
    );
    const made = plan([gpu("gpu0", [partition("p", { replicas })])]);
    expect(tightest(made)).toMatchObject({ replica: { id: "a/1" }, headroom: -4 });
  });

  it("does not exist without a target", () => {
    expect(
      tightest(plan([gpu("gpu0", [partition("p", { replicas: [replica("a/0")] })])])),
    ).toBeUndefined();
  });
});

describe("colours", () => {
  it("tell tenants apart where there are several", () => {
    const colours = colouring(
      plan([], { workloads: [workload("a", { tenant: "x" }), workload("b", { tenant: "y" })] }),
    );
    expect(colours).toMatchObject({ by: "tenant", keys: ["x", "y"], complete: true });
    expect(colours.hueOf(replica("b/0", { tenant: "y" }))).toBe(1);
  });

  it("tell a lone tenant's few workloads apart, but not its many", () => {
    const workloads = (n: number) => Array.from({ length: n }, (_, i) => workload(`w${i}`));
    expect(colouring(plan([], { workloads: workloads(8) }))).toMatchObject({ by: "workload" });
    expect(colouring(plan([], { workloads: workloads(9) }))).toMatchObject({
      by: "tenant",
      keys: ["default"],
    });
  });
});

describe("rejections", () => {
  it("with the same words for the same mode become one", () => {
    const groups = groupRejections([
      { workload: "a", mode: "mig", reason: "no instance is large enough" },
      { workload: "a", mode: "mps", reason: "needs hardware isolation" },
      { workload: "b", mode: "mps", reason: "49th client" },
      { workload: "c", mode: "mps", reason: "needs hardware isolation" },
      { workload: "c", mode: "mig", reason: "needs hardware isolation" },
    ]);
    expect(groups.map((g) => [g.mode, g.reason, g.workloads])).toEqual([
      ["mig", "no instance is large enough", ["a"]],
      ["mig", "needs hardware isolation", ["c"]],
      ["mps", "needs hardware isolation", ["a", "c"]],
      ["mps", "49th client", ["b"]],
    ]);
  });
});

describe("small readings of a plan", () => {
  it("give the range of a prediction over equal GPUs", () => {
    const replicas = [
      replica("a/0", { prediction: predicted(1, 5) }),
      replica("a/1", { prediction: predicted(1, 3) }),
    ];
    expect(range(replicas, (r) => r.prediction.latency_ms_p99)).toEqual({ low: 3, high: 5 });
    expect(range([replica("a/0")], (r) => r.prediction.latency_ms_p99)).toBeUndefined();
  });

  it("name the boards, most frequent first", () => {
    const made = plan([]);
    made.summary.gpus_by_board = { l4: 2, "a100-80gb": 31 };
    expect(boardsLine(made)).toBe("31\u00a0×\u00a0A100-80GB, 2\u00a0×\u00a0L4");
  });
});
