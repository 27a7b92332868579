// Express with http-proxy-middleware as a plain reverse proxy: keep-alive on both sides, no policy.
const http = require("http");
const express = require("express");
const { createProxyMiddleware } = require("http-proxy-middleware");

const agent = new http.Agent({ keepAlive: true, maxSockets: 128 });
const app = express();

app.disable("x-powered-by");
app.use(createProxyMiddleware({ target: process.env.SERVICE_URL, agent }));
app.listen(Number(process.env.PORT), "127.0.0.1");
