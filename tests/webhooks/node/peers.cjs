// Independent implementations, asked by the tests: `node peers.cjs PEER < cases.json > answers.json`,
// in the directory into which package.json was installed. Bodies are texts, times are UNIX seconds.
"use strict";
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const { pathToFileURL } = require("node:url");

const load = createRequire(process.cwd() + "/");

// A package that is only for `import`, which would look for it beside this file.
const loadModule = (name) => {
  const folder = process.cwd() + "/node_modules/" + name + "/";
  const { exports } = JSON.parse(readFileSync(folder + "package.json", "utf8"));
  return import(pathToFileURL(folder + exports["."].default.import).href);
};

const attempt = (work) => {
  try {
    return { ok: work() };
  } catch (error) {
    return { error: String(error && error.message) };
  }
};

const peers = {
  standardwebhooks: (cases) => {
    const { Webhook } = load("standardwebhooks");
    return cases.map(({ secret, id, time, body, headers }) => ({
      signature: new Webhook(secret).sign(id, new Date(time * 1000), body),
      good: attempt(() => (new Webhook(secret).verify(body, headers), true)),
    }));
  },

  stripe: (cases) => {
    const Stripe = load("stripe");
    const { webhooks } = new (Stripe.Stripe || Stripe)("sk_test_unused");
    return cases.map(({ secret, time, body, header }) => ({
      header: webhooks.generateTestHeaderString({ payload: body, secret, timestamp: time }),
      good: attempt(() => webhooks.signature.verifyHeader(body, header, secret, 300)),
    }));
  },

  octokit: async (cases) => {
    const { sign, verify } = await loadModule("@octokit/webhooks-methods");
    const answers = [];
    for (const { secret, body, signature } of cases) {
      answers.push({ signature: await sign(secret, body), good: await verify(secret, body, signature) });
    }
    return answers;
  },

  // What the SDK signs, and what its middleware says to what we have signed.
  blocklet: async (cases) => {
    const { getSignData } = load("@blocklet/sdk/lib/util/verify-sign");
    const { verifySig } = load("@blocklet/sdk/lib/middlewares/component");
    const qs = load("qs");
    // Only now, so that the SDK does not look for its server when it is loaded.
    process.env.BLOCKLET_APP_SK = process.env.BLOCKLET_APP_ASK = cases[0].secretKey;
    const answers = [];
    for (const { secretKey, method, target, body, headers } of cases) {
      const data = JSON.parse(body);
      const url = "https://example.com" + target;
      const { sig, iat, exp } = await getSignData({ data, method, url }, { appSk: secretKey });
      const query = target.includes("?") ? qs.parse(target.slice(target.indexOf("?") + 1)) : {};
      const request = {
        get: (name) => headers[name.toLowerCase()],
        body: data,
        method,
        originalUrl: target,
        query,
      };
      const answer = { status: 0, body: null };
      const response = {
        status: (code) => ((answer.status = code), response),
        json: (content) => ((answer.body = content), response),
      };
      await verifySig(request, response, () => (answer.status = 200));
      answers.push({ sig, iat, exp, answer });
    }
    return answers;
  },

  // How qs reads queries, and how the sorted JSON of bodies is written.
  qs: (cases) => cases.map((query) => load("qs").parse(query)),
  json: (cases) => cases.map((body) => attempt(() => load("json-stable-stringify")(JSON.parse(body)))),
};

const main = async () => {
  // Standard output is for the answers.
  for (const name of ["debug", "error", "info", "log", "warn"]) console[name] = () => {};
  const answers = await peers[process.argv[2]](JSON.parse(readFileSync(0, "utf8")));
  process.stdout.write(JSON.stringify(answers), () => process.exit(0));
};

main();
