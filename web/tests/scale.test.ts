import { describe, expect, it } from "vitest";

import { latencyAxis } from "../src/scale.ts";

describe("the latency axis", () => {
  it("starts at zero while the figures are of one size", () => {
    const axis = latencyAxis([670, 2310, 4000], 9);
    expect(axis.log).toBe(false);
    expect(axis.domain[0]).toBe(0);
    expect(axis.ticks).toEqual([0, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4000]);
  });

  it("is logarithmic where they are not, with all of them inside", () => {
    const axis = latencyAxis([0.62, 12.6, 20], 9);
    expect(axis.log).toBe(true);
    expect(axis.domain[0]).toBeLessThan(0.62);
    expect(axis.domain[1]).toBeGreaterThan(20);
    expect(axis.ticks).toEqual([0.5, 1, 2, 5, 10, 20]);
  });

  it.each([1e-3, 0.5, 7, 1e3])("never has many more ticks than asked for, from %d up", (low) => {
    for (const factor of [1, 3, 14, 16, 1e3, 1e9]) {
      for (const most of [5, 9]) {
        const { ticks } = latencyAxis([low, low * factor], most);
        expect(ticks.length).toBeGreaterThan(0);
        expect(ticks.length).toBeLessThanOrEqual(most + 1);
      }
    }
  });

  it("survives a plan without figures", () => {
    expect(latencyAxis([], 5).domain).toEqual([0, 1]);
    expect(latencyAxis([0], 5).domain).toEqual([0, 1]);
  });
});
