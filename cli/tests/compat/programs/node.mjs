import { watch } from "node:fs";

watch(".", (event, name) => console.log(event, name));
console.log("ready");
