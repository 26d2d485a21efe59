import { readdirSync } from "node:fs";
import { createServer } from "vite";

// Its watcher says too early that it is ready: it watches all once it has reported each file.
let unseen = readdirSync(".").length;
await createServer({
  configFile: false,
  logLevel: "warn",
  cacheDir: process.env.OUT,
  server: { middlewareMode: true, ws: false, watch: { ignoreInitial: false } },
  plugins: [
    {
      name: "report",
      configureServer({ watcher }) {
        watcher.on("add", () => --unseen || console.log("ready"));
      },
      hotUpdate({ type, file }) {
        if (this.environment.name === "client") console.log(type, file);
      },
    },
  ],
});
