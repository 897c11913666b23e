// How lines are told apart: by colour and, for those who see colours otherwise and for paper, by
// shape. The style sheet has the same shapes for the key.

export interface Sign {
  hue: number; // Of the style sheet's colours.
  symbol: "circle" | "square" | "diamond" | "triangle" | "triangle2" | "star";
}

export const SIGNS: readonly Sign[] = [
  { hue: 1, symbol: "square" },
  { hue: 0, symbol: "circle" },
  { hue: 2, symbol: "diamond" },
  { hue: 4, symbol: "triangle" },
  { hue: 5, symbol: "triangle2" },
  { hue: 7, symbol: "star" },
];

export function signClass(sign: number): string {
  const { hue, symbol } = SIGNS[sign % SIGNS.length]!;
  return `hue-${hue} sign-${symbol}`;
}
