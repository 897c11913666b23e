import { describe, expect, it } from "vitest";

import { singlePage } from "../single_file.ts";

const page =
  '<html><head><meta charset="utf-8" /><link rel="stylesheet" href="/a.css">' +
  '<script type="module" src="/a.js"></script></head><body></body></html>';

describe("the single file", () => {
  it("carries the script and the style, and loads neither", () => {
    const html = singlePage(page, "let x = 1;", "a{}");
    expect(html).toContain("let x = 1;");
    expect(html).toContain("<style>\na{}\n</style>");
    expect(html).not.toMatch(/ (src|href)=/);
  });

  it("survives a script that speaks of scripts and of replacement patterns", () => {
    const html = singlePage(page, 'const a = "</script><!--$&$1";', "a{}");
    expect(html.match(/<\/script>/g)).toHaveLength(1);
    expect(html).toContain('const a = "<\\/script><\\!--$&$1";');
  });

  it("allows its own script by hash and nothing from elsewhere", () => {
    const policy = /content="([^"]*)"/.exec(singlePage(page, "let x = 1;", "a{}"))![1]!;
    expect(policy).toMatch(/^default-src 'none'; script-src 'sha256-[A-Za-z0-9+/]{43}='; /);
    expect(policy).not.toContain("http");
  });
});
