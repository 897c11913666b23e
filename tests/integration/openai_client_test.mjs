// The official OpenAI client for JavaScript, which web/ brings, through `sublet route`: what a user's
// program sees of streams, aborts, errors and retries, with simulated engines behind the router that
// fail on demand (sim/engine/sim_fault.h).
//
// Usage: node --test openai_client_test.mjs, with SUBLET and SUBLET_SIM_ENGINE naming the programs
// and SUBLET_WEB_APP the folder in which npm has installed the packages.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { after, afterEach, before, test } from 'node:test';

const require = createRequire(path.join(process.env.SUBLET_WEB_APP, 'package.json'));
const OpenAI = require('openai').default;

const PATIENCE_MS = 30_000;
const ASK = { model: 'demo', messages: [{ role: 'user', content: 'Tell me of the river.' }] };
const LONG = { ...ASK, stream: true, max_tokens: 400, ignore_eos: true };

const started = [];
let engines;
let router;
let client;

// Starts a program and returns the first match of `pattern` in what it says.
async function start(program, words, stream, pattern) {
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] });
  started.push(child);
  child[stream === 'stdout' ? 'stderr' : 'stdout'].resume();
  const said = [];
  for await (const line of readline.createInterface({ input: child[stream] })) {
    said.push(line);
    const match = pattern.exec(line);
    if (match) {
      child[stream].resume();
      return match[1];
    }
  }
  throw new Error(`${program} ended: ${said.join('\n')}`);
}

async function until(what, condition) {
  const end = Date.now() + PATIENCE_MS;
  while (Date.now() < end) {
    const value = await condition();
    if (value) return value;
    await new Promise((done) => setTimeout(done, 20));
  }
  throw new Error(`waited in vain: ${what}`);
}

const fault = (text) =>
  Promise.all(engines.map((port) => fetch(`http://127.0.0.1:${port}/sim/fault`,
    { method: 'POST', body: text }).then((answer) => assert.equal(answer.status, 200))));

const workers = async () => (await (await fetch(`${router}/workers`)).json()).workers;

before(async () => {
  engines = await Promise.all(['a', 'b'].map((name) =>
    start(process.env.SUBLET_SIM_ENGINE,
      ['--engine', `name=${name},model=demo`, '--decode-ms', '3'], 'stdout', /"port":\s*(\d+)/)));
  const port = await start(process.env.SUBLET,
    ['route', '--port', '0', ...engines.flatMap((each) => ['--replica',
      `http://127.0.0.1:${each}`])], 'stderr', /serves http:\/\/[\d.]+:(\d+)/);
  router = `http://127.0.0.1:${port}`;
  client = new OpenAI({ apiKey: 'unused', baseURL: `${router}/v1`, maxRetries: 0 });
  await until('the router is ready', async () => (await fetch(`${router}/ready`)).ok);
});

afterEach(() => Promise.all(engines.map((port) =>
  fetch(`http://127.0.0.1:${port}/sim/fault`, { method: 'DELETE' }))));

after(async () => {
  for (const child of started.reverse()) {
    if (child.exitCode !== null) continue;
    const over = once(child, 'exit');
    child.kill('SIGTERM');
    await over;
  }
});

test('models are listed', async () => {
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.deepEqual(models, ['demo']);
});

test('a chat is answered, and says by whom', async () => {
  const { data, response } = await client.chat.completions.create(ASK).withResponse();
  assert.ok(data.choices[0].message.content.length > 0);
  assert.ok(data.usage.prompt_tokens > 0);
  const names = (await workers()).map((worker) => worker.name);
  assert.ok(names.includes(response.headers.get('x-sublet-replica')), names);
  assert.ok(response.headers.get('x-request-id'));
});

test('a stream comes piece by piece, with its usage at the end', async () => {
  const stream = await client.chat.completions.create(
    { ...LONG, max_tokens: 40, stream_options: { include_usage: true } });
  const arrivals = [];
  let text = '';
  let usage;
  for await (const chunk of stream) {
    const piece = chunk.choices[0]?.delta?.content;
    if (piece) arrivals.push(performance.now());
    text += piece ?? '';
    usage = chunk.usage ?? usage;
  }
  assert.ok(text.length > 40);
  assert.equal(usage.completion_tokens, 40);
  // The engine takes 40 steps of at least 3 ms: what is held back would come at once.
  assert.ok(arrivals.at(-1) - arrivals[0] > 60, `all within ${arrivals.at(-1) - arrivals[0]} ms`);
});

test('the same prompt again is found in a cache', async () => {
  const long = { ...ASK, messages: [{ role: 'user', content: 'the quiet river '.repeat(200) }] };
  const first = await client.chat.completions.create(long).withResponse();
  const second = await client.chat.completions.create(long).withResponse();
  assert.equal(second.response.headers.get('x-sublet-replica'),
    first.response.headers.get('x-sublet-replica'));
  assert.ok(second.data.usage.prompt_tokens_details.cached_tokens >
    second.data.usage.prompt_tokens / 2);
});

test('an abort ends the request at the engine too', async () => {
  const stream = await client.chat.completions.create({ ...LONG, max_tokens: 4000 });
  let chunks = 0;
  for await (const _ of stream) {
    chunks += 1;
    if (chunks === 3) stream.controller.abort();
  }
  assert.ok(chunks < 4000);
  await until('nothing is in flight at the router', async () =>
    (await workers()).every((worker) => worker.load.in_flight === 0));
  await until('nothing runs at the engines', async () => {
    const texts = await Promise.all(engines.map(async (port) =>
      (await fetch(`http://127.0.0.1:${port}/metrics`)).text()));
    return texts.every((text) => /vllm:num_requests_running\{[^}]*\} 0\b/.test(text));
  });
});

test('an unknown model is NotFoundError, and a broken request BadRequestError', async () => {
  await assert.rejects(client.chat.completions.create({ ...ASK, model: 'none' }),
    (error) => error instanceof OpenAI.NotFoundError && /none/.test(error.message));
  await assert.rejects(client.chat.completions.create({ ...ASK, max_tokens: 1e9 }),
    OpenAI.BadRequestError);
  await assert.rejects(client.chat.completions.create({ model: 'demo', messages: 'none' }),
    OpenAI.BadRequestError);
});

test('an engine that fails before it has answered costs nobody an error', async () => {
  for (const how of ['status;code=500', 'reset', 'close', 'garbage']) {
    await fetch(`http://127.0.0.1:${engines[0]}/sim/fault`, { method: 'POST', body: how });
    for (let i = 0; i < 4; i += 1) {
      const ask = { ...ASK, messages: [{ role: 'user', content: `${how} ${i}` }] };
      assert.ok((await client.chat.completions.create(ask)).choices.length, how);
    }
    await fetch(`http://127.0.0.1:${engines[0]}/sim/fault`, { method: 'DELETE' });
  }
});

test('a stream that breaks is an error, not an end', async () => {
  for (const how of ['reset;after=3', 'close;after=3', 'garbage;after=3']) {
    await fault(how);
    const stream = await client.chat.completions.create(LONG);
    let chunks = 0;
    await assert.rejects(async () => {
      for await (const _ of stream) chunks += 1;
    }, OpenAI.APIError, how);
    assert.ok(chunks >= 1 && chunks < 400, `${how}: ${chunks}`);
    await Promise.all(engines.map((port) =>
      fetch(`http://127.0.0.1:${port}/sim/fault`, { method: 'DELETE' })));
  }
});

test('what is full everywhere is told so, and the client comes again', async () => {
  await fault('status;code=429;retry=1;times=2');
  await assert.rejects(client.chat.completions.create(ASK), OpenAI.RateLimitError);
  const again = await client.chat.completions.create(ASK, { maxRetries: 5 });
  assert.ok(again.choices.length);
});

test('completions, responses and embeddings pass', async () => {
  const completion = await client.completions.create({ model: 'demo', prompt: 'Once upon' });
  assert.ok(completion.choices[0].text.length > 0);
  const response = await client.responses.create({ model: 'demo', input: 'What is salt?' });
  assert.ok(response.output_text.length > 0);
  const embedding = await client.embeddings.create({ model: 'demo', input: ['salt', 'water'] });
  assert.equal(embedding.data.length, 2);
  const events = [];
  const stream = await client.responses.create({ model: 'demo', input: 'And sea?', stream: true });
  for await (const event of stream) events.push(event.type);
  assert.equal(events.at(-1), 'response.completed');
});
