// fast-gateway as a plain reverse proxy: keep-alive on both sides, no policy.
const gateway = require("fast-gateway");

const server = gateway({
  routes: [{ prefix: "", target: process.env.SERVICE_URL, prefixRewrite: "" }],
});
server.start(Number(process.env.PORT), "127.0.0.1");
