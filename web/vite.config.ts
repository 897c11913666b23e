import { defineConfig } from "vite";

import { singleFile } from "./single_file.ts";

// Each page is a build of its own, because a file that loads nothing can share nothing:
// `vite build --mode plan` makes dist/plan_page.html of plan.html.
export default defineConfig(({ command, mode }) => ({
  plugins: [singleFile(`${mode}_page.html`)],
  build: {
    target: "es2022",
    modulePreload: false,
    reportCompressedSize: false,
    emptyOutDir: false,
    ...(command === "build" && { rollupOptions: { input: `${mode}.html` } }),
    // The page is one file of about this size; the warning is about pages that load over a network.
    chunkSizeWarningLimit: 1000,
  },
}));
