// The other system that connectors call: an HTTP server, or with CERT and KEY (files) an HTTPS one, on a free port, which
// it prints. It remembers every call, and does what a call asks once for each Idempotency-Key.
import http from 'node:http';
import https from 'node:https';
import { readFileSync } from 'node:fs';

const calls = [];
const effects = new Map();

function json(response, status, value, headers = {}) {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(typeof value === 'string' ? value : JSON.stringify(value));
}

// By the first part of the path.
const answers = {
  calls: (_, response) => json(response, 200, { calls, effects: Object.fromEntries(effects) }),
  echo: (call, response) => json(response, 200, call),
  effects: (call, response) => {
    const before = effects.get(call.key);
    if (!before) effects.set(call.key, { id: effects.size + 1, done: 1, ...JSON.parse(call.body || '{}') });
    json(response, before ? 200 : 201, { user: effects.get(call.key), list: [1, 2] });
  },
  // Fails as often as the path says for each key, then does it.
  flaky: (call, response, [times]) => {
    const tries = calls.filter((other) => other.key === call.key && other.url === call.url).length;
    if (tries <= Number(times)) return json(response, 503, { error: { message: 'not now' } });
    answers.effects(call, response);
  },
  // Fails once for each key, and does not answer any more.
  worse: (call, response) => {
    if (calls.filter((other) => other.key === call.key).length === 1) json(response, 503, { error: { message: 'not now' } });
  },
  // Does it, and the first answer for each key never comes.
  lost: (call, response) => {
    const first = !effects.has(call.key);
    answers.effects(call, first ? { writeHead: () => {}, end: () => {} } : response);
  },
  status: (call, response, [status]) => json(response, Number(status), { message: `no: ${call.headers.authorization}` }),
  hired: (call, response) => json(response, 202, { id: 'T-1', ...JSON.parse(call.body) }),
  unknown: ({ method, url }, response) => json(response, 404, { message: `no route ${method} ${url}` }),
  redirect: (_, response) => response.writeHead(302, { location: '/effects' }).end(),
  slow: () => {},
  // Does it after so many milliseconds.
  late: (call, response, [ms]) => setTimeout(() => answers.effects(call, response), Number(ms)),
  drip: (_, response) => {
    response.writeHead(200, { 'content-type': 'text/plain' });
    const timer = setInterval(() => response.write('x'), 5);
    response.on('close', () => clearInterval(timer));
  },
  flood: (_, response) => {
    response.writeHead(200, { 'content-type': 'text/plain' });
    const pour = () => { while (response.write('x'.repeat(65536))); };
    response.on('drain', pour);
    pour();
  },
  announced: (_, response) => response.writeHead(200, { 'content-length': 1e12 }).write('x'),
  reset: (call, response) => response.socket.destroy(),
  half: (_, response) => {
    response.writeHead(200, { 'content-length': 100 }).write('half', () => response.socket.destroy());
  },
  text: (_, response) => response.writeHead(200, { 'content-type': 'text/plain', 'set-cookie': 's=1' }).end('hello'),
  none: (_, response) => response.writeHead(204).end(),
  raw: (call, response) => json(response, 200, call.body),
  deep: (_, response) => json(response, 200, '['.repeat(100000) + ']'.repeat(100000)),
  zipped: (_, response) => json(response, 200, '{}', { 'content-encoding': 'gzip' }),
  nonsense: (_, response) => response.socket.end('this is no HTTP\r\n\r\n'),
};

const handle = (request, response) => {
  let body = '';
  request.setEncoding('utf8').on('data', (chunk) => { body += chunk; }).on('end', () => {
    const { method, url, headers } = request;
    const call = { method, url, headers, body, key: headers['idempotency-key'] };
    const [name, ...rest] = url.split('?')[0].split('/').filter(Boolean);
    if (name !== 'calls') calls.push(call);
    (answers[name] ?? ((_, other) => json(other, 404, { message: 'nothing there' })))(call, response, rest);
  });
};

const { CERT, KEY, PORT } = process.env;
const server = CERT
  ? https.createServer({ cert: readFileSync(CERT), key: readFileSync(KEY) }, handle)
  : http.createServer(handle);
server.on('clientError', (_, socket) => socket.destroy());
server.listen(Number(PORT ?? 0), '127.0.0.1', () => console.log(server.address().port));
