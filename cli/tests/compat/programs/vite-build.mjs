import { build } from "vite";

const report = {
  name: "report",
  watchChange: (file, { event }) => console.log(event, file),
};
const watcher = await build({
  configFile: false,
  logLevel: "warn",
  plugins: [report],
  build: {
    watch: {},
    outDir: process.env.OUT,
    emptyOutDir: false,
    lib: { entry: "index.ts", formats: ["es"], fileName: "index" },
  },
});
watcher.on("event", ({ code, result }) => {
  if (code === "BUNDLE_END") result?.close();
  if (code === "END") console.log("built");
});
