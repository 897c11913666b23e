import { defineConfig } from "vite";

import { singleFile } from "./single_file.ts";

export default defineConfig({
  plugins: [singleFile("report.html")],
  build: {
    target: "es2022",
    modulePreload: false,
    reportCompressedSize: false,
    // The page is one file of about this size; the warning is about pages that load over a network.
    chunkSizeWarningLimit: 1000,
  },
});
