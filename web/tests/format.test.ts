import { describe, expect, it } from "vitest";

import {
  dollars,
  duration,
  listOf,
  memory,
  milliseconds,
  nameRanges,
  percent,
  plural,
  rate,
  times,
} from "../src/format.ts";

// Between a figure and its unit stands a space that doesn't break.
const plain = (text: string): string => text.replaceAll("\u00a0", " ");

describe("figures", () => {
  it.each([
    [9490, "$9,490"],
    [2372.5, "$2,372.50"],
    [0.81, "$0.81"],
    [0.1 + 0.2, "$0.30"],
    [479588.10000000003, "$479,588.10"],
    [-3, "−$3"],
  ])("%d dollars", (usd, words) => expect(dollars(usd)).toBe(words));

  it.each([
    [412, "412 MiB"],
    [1012, "1 GiB"],
    [16180, "15.8 GiB"],
    [81920, "80 GiB"],
  ])("%d MiB", (mib, words) => expect(plain(memory(mib))).toBe(words));

  it.each([
    [0.638, "0.64 ms"],
    [41.27, "41.3 ms"],
    [1240.4, "1,240 ms"],
  ])("%d milliseconds", (ms, words) => expect(plain(milliseconds(ms))).toBe(words));

  it.each([
    [412, "412 ms"],
    [43260, "43.3 s"],
    [381125, "381 s"],
  ])("%d milliseconds as a duration", (ms, words) => expect(plain(duration(ms))).toBe(words));

  it.each([
    [0.42, "0.4 %"],
    [33.6, "34 %"],
    [-5.6, "−5.6 %"],
    [0, "0 %"],
    [-0.02, "0 %"],
  ])("%d percent", (value, words) => expect(plain(percent(value))).toBe(words));

  it.each([
    [0.994, "0.99×"],
    [1.8, "1.80×"],
    [1.996, "2.0×"],
    [9.27, "9.3×"],
    [9.96, "10×"],
    [41.2, "41×"],
  ])("%d times", (factor, words) => expect(times(factor)).toBe(words));

  it.each([
    [25589.4, "25,589"],
    [41.27, "41.3"],
    [0.638, "0.64"],
  ])("%d a second", (perSecond, words) => expect(rate(perSecond)).toBe(words));

  it("count one and many", () => {
    expect(plural(1, "GPU")).toBe("1 GPU");
    expect(plural(1200, "replica")).toBe("1,200 replicas");
  });
});

describe("names", () => {
  it("with running numbers become ranges from three on", () => {
    expect(nameRanges(["gpu0", "gpu1", "gpu2", "gpu7", "gpu8", "x"])).toBe(
      "gpu0–gpu2, gpu7, gpu8, x",
    );
    expect(nameRanges(["gpu9", "gpu10", "gpu11"])).toBe("gpu9–gpu11");
    expect(nameRanges(["a1", "b2", "c3"])).toBe("a1, b2, c3");
    expect(nameRanges([])).toBe("");
  });

  it("too many to list are counted", () => {
    expect(listOf(["a", "b", "c", "d"], 3)).toBe("a, b, c, d");
    expect(listOf(["a", "b", "c", "d", "e"], 3)).toBe("a, b, c and 2 more");
  });
});
