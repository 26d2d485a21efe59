import { watch } from "chokidar";

watch(".", { ignoreInitial: true })
  .on("all", (event, path) => console.log(event, path))
  .on("ready", () => console.log("ready"));
