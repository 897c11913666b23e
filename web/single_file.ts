// One HTML file out of Vite's bundle: the script and the style sheet go into the page, and a
// content security policy goes on top of it.
//
// The policy names the script by its hash and allows no request at all. So even text that found its
// way into the page as markup could neither run nor phone home.
import { createHash } from "node:crypto";
import type { Plugin } from "vite";

// What stands in a <script> must not contain its end. In a string the backslash changes nothing,
// and outside of strings neither sequence occurs.
function scriptText(code: string): string {
  return `\n${code.trim().replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--")}\n`;
}

export function singlePage(page: string, script: string, style: string): string {
  const body = scriptText(script);
  const hash = createHash("sha256").update(body, "utf8").digest("base64");
  const policy =
    `default-src 'none'; script-src 'sha256-${hash}'; style-src 'unsafe-inline'; ` +
    `img-src data:; base-uri 'none'; form-action 'none'`;
  const policyTag = `<meta http-equiv="Content-Security-Policy" content="${policy}" />`;
  // Replacements are functions, because in a string $& would mean something.
  return page
    .replace(/\s*<script type="module"[^>]*><\/script>/, "")
    .replace(/\s*<link rel="stylesheet"[^>]*>/, "")
    .replace(/<meta charset="utf-8" ?\/?>/, (tag) => `${tag}\n    ${policyTag}`)
    .replace("</head>", () => `<style>\n${style.trim()}\n</style>\n  </head>`)
    .replace("</body>", () => `<script type="module">${body}</script>\n  </body>`);
}

export function singleFile(pageName: string): Plugin {
  return {
    name: "sublet-single-file",
    enforce: "post",
    apply: "build",
    generateBundle(_options, bundle) {
      let script = "";
      let style = "";
      let page = "";
      for (const [name, file] of Object.entries(bundle)) {
        if (file.type === "chunk") {
          if (script !== "") this.error("the bundle has more than one script");
          script = file.code;
        } else if (name.endsWith(".css")) {
          style += String(file.source);
        } else if (name.endsWith(".html")) {
          page = String(file.source);
        } else {
          this.error(`the page can't carry ${name}`);
        }
        delete bundle[name];
      }
      if (page === "" || script === "" || style === "") {
        this.error("the bundle lacks a page, a script or a style sheet");
      }
      const source = singlePage(page, script, style);
      this.emitFile({ type: "asset", fileName: pageName, source });
    },
  };
}
