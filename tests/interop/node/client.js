// What gRPC of Node.js makes of a server: node client.js ADDRESS MODEL PROTO_FOLDER..., by the modules of NODE_PATH.
"use strict";

const assert = require("node:assert/strict");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, model, ...folders] = process.argv.slice(2);
const healthFolder = path.join(path.dirname(require.resolve("grpc-health-check/package.json")), "proto");
const files = ["generation.proto", "google/rpc/status.proto", "google/rpc/error_details.proto", "health/v1/health.proto"];
const loaded = loader.loadSync(files, { keepCase: true, longs: Number, enums: String, includeDirs: [...folders, healthFolder] });
const { moesaic, grpc: { health } } = grpc.loadPackageDefinition(loaded);
const credentials = grpc.credentials.createInsecure();
const generation = new moesaic.v1.Generation(address, credentials);
const models = new moesaic.v1.Models(address, credentials);
const probe = new health.v1.Health(address, credentials);

const asked = { model, text: "Once upon a time", sampling: { seed: 7 }, stopping: { max_new_tokens: 20 } };
const endless = { ...asked, stopping: { max_new_tokens: 400, ignore_eos: true } };

// One call of one answer.
function called(client, method, message, options = {}) {
  return new Promise((resolve, reject) =>
    client[method](message, options, (error, answer) => (error ? reject(error) : resolve(answer))));
}

// A whole stream; `seen` is told each message.
function streamed(message, seen = () => {}) {
  const call = generation.GenerateStream(message);
  const chunks = [];
  return new Promise((resolve, reject) => {
    call.on("data", (chunk) => { chunks.push(chunk); seen(call, chunk); });
    call.on("error", reject);
    call.on("status", ({ metadata }) => resolve({ chunks, trailing: metadata }));
  });
}

// The google.rpc details of a status, by their names.
function detailsOf(error) {
  const [data] = error.metadata.get("grpc-status-details-bin");
  const { details } = loaded["google.rpc.Status"].deserialize(data);
  return Object.fromEntries(details.map(({ type_url, value }) => {
    const name = type_url.split("/").pop();
    return [name, loaded[name].deserialize(value)];
  }));
}

async function generates() {
  const whole = await called(generation, "Generate", asked);
  const { chunks, trailing } = await streamed(asked);
  assert.equal(whole.text, chunks.map((chunk) => chunk.text).join(""));
  assert.ok(whole.text.length > 10 && whole.token_ids.length === 20);
  assert.deepEqual(trailing.get("moesaic-tier-used"), ["full"]);
}

async function cancels() {
  const ended = streamed(endless, (call) => call.cancel());
  await assert.rejects(ended, { code: grpc.status.CANCELLED });
  for (;;) {
    const { load } = await called(models, "GetModel", { name: model });
    if (load.free_slots === load.num_slots) return;
  }
}

async function isLate() {
  const ended = called(generation, "Generate", endless, { deadline: Date.now() + 5 });
  await assert.rejects(ended, { code: grpc.status.DEADLINE_EXCEEDED });
}

async function isRefused() {
  const wrong = await called(generation, "Generate", { ...asked, sampling: { temperature: -1, top_p: 3 } }).catch((error) => error);
  assert.equal(wrong.code, grpc.status.INVALID_ARGUMENT);
  const fields = detailsOf(wrong)["google.rpc.BadRequest"].field_violations.map(({ field }) => field);
  assert.deepEqual(fields.sort(), ["sampling.temperature", "sampling.top_p"]);
  const unknown = await called(generation, "Generate", { ...asked, model: "nobody" }).catch((error) => error);
  assert.equal(unknown.code, grpc.status.NOT_FOUND);
  assert.equal(detailsOf(unknown)["google.rpc.ErrorInfo"].domain, "moesaic");
}

async function isHealthy() {
  for (const service of ["", "moesaic.v1.Generation", `model:${model}`]) {
    assert.equal((await called(probe, "Check", { service })).status, "SERVING", service);
  }
  await assert.rejects(called(probe, "Check", { service: "nothing" }), { code: grpc.status.NOT_FOUND });
}

async function main() {
  for (const part of [generates, cancels, isLate, isRefused, isHealthy]) await part();
  [generation, models, probe].forEach((client) => client.close());
}

main().catch((error) => { console.error(error); process.exit(1); });
