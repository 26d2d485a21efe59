import webpack from "webpack";

const compiler = webpack({
  mode: "development",
  entry: "./index.ts",
  output: { path: process.env.OUT },
});
compiler.hooks.watchRun.tap("report", ({ modifiedFiles }) => {
  for (const file of modifiedFiles ?? []) {
    if (file.endsWith(".ts")) console.log("changed", file);
  }
});
compiler.hooks.afterDone.tap("report", () => console.log("built"));
compiler.watch({}, (error) => error && console.error(error));
