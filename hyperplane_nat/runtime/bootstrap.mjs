// SPDX-License-Identifier: Apache-2.0
// The runtime of handlers in Node.js: it speaks the Runtime API, and does with a handler what
// Lambda's own runtime does ("Define Lambda function handler in Node.js"). Response streaming is
// not there.
//
// A handler that returns a promise is done when that is; one that takes a callback when it has
// called that and nothing is left to do in the event loop, or at once with
// context.callbackWaitsForEmptyEventLoop = false; one that does neither, when nothing is left.

import { createRequire } from "node:module";
import { existsSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { format } from "node:util";

const API = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/`;
const EXTENSIONS = ["", ".js", ".mjs", ".cjs"];
const MODULES = ["ERR_REQUIRE_ESM", "ERR_REQUIRE_ASYNC_MODULE"];
const LEVELS = { debug: "DEBUG", error: "ERROR", info: "INFO", log: "INFO", warn: "WARN" };
const UNCAUGHT = 129;
const UNHANDLED = 128;

// fetch() gives up after five minutes without an answer, and the next event may be longer in coming.
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const env = process.env;
let requestId = "";
let whenEmpty = null;

function call(method, where, body, headers = {}) {
    return new Promise((resolve, reject) => {
        const request = http.request(API + where, { agent, headers, method }, (answer) => {
            const parts = [];
            answer.on("data", (part) => parts.push(part));
            answer.on("error", reject);
            answer.on("end", () => resolve({ body: Buffer.concat(parts), headers: answer.headers }));
        });
        request.on("error", reject);
        request.end(body);
    });
}

function named(kind, message, stack) {
    const error = new Error(message);
    error.name = kind;
    if (stack !== undefined) error.stack = stack;
    return error;
}

function told(error) {
    if (error instanceof Error || (typeof error === "object" && error?.stack !== undefined)) {
        const trace = String(error.stack ?? "").split("\n");
        return { errorType: String(error.name), errorMessage: String(error.message), trace };
    }
    return { errorType: typeof error, errorMessage: String(error), trace: [] };
}

function report(where, error) {
    const shape = told(error);
    return call("POST", where, JSON.stringify(shape), {
        "Content-Type": "application/json",
        "Lambda-Runtime-Function-Error-Type": shape.errorType.replace(/[^\x21-\x7e]/g, "_"),
    });
}

function logged(level, ...values) {
    const text = format(...values).replaceAll("\n", "\r");
    process.stdout.write(`${new Date().toISOString()}\t${requestId}\t${level}\t${text}\n`);
}

async function load() {
    const major = /nodejs([0-9]+)/.exec(env.AWS_EXECUTION_ENV)?.[1];
    if (process.versions.node.split(".")[0] !== major) {
        throw named(
            "Runtime.InvalidEntrypoint",
            `this host has Node.js ${process.versions.node}, and not ${major}`,
        );
    }
    const root = path.resolve(env.LAMBDA_TASK_ROOT);
    const directory = path.dirname(env._HANDLER);
    const match = /^([^.]+)\.(.+)$/.exec(path.basename(env._HANDLER));
    if (match === null || env._HANDLER.includes("..")) {
        throw named("Runtime.MalformedHandlerName", "Bad handler");
    }
    const [, file, exported] = match;
    const found = await module(root, path.join(directory, file));
    let handler = found;
    for (const name of exported.split(".")) handler = handler?.[name];
    if (handler === undefined) {
        throw named("Runtime.HandlerNotFound", `${env._HANDLER} is undefined or not exported`);
    }
    if (typeof handler !== "function") {
        throw named("Runtime.HandlerNotFound", `${env._HANDLER} is not a function`);
    }
    return handler;
}

async function module(root, file) {
    const require = createRequire(path.join(root, "index.js"));
    const ending = EXTENSIONS.find((each) => existsSync(path.join(root, file + each)));
    const found = path.join(root, file + (ending ?? ""));
    try {
        if (ending === ".mjs") return await import(pathToFileURL(found));
        try {
            // Without a file of that name it may be a directory, or a package of a layer.
            return require(existsSync(found) ? found : file);
        } catch (error) {
            if (!MODULES.includes(error?.code)) throw error;
            return await import(pathToFileURL(found));
        }
    } catch (error) {
        if (error instanceof SyntaxError) {
            throw named("Runtime.UserCodeSyntaxError", String(error), error.stack);
        }
        if (["MODULE_NOT_FOUND", "ERR_MODULE_NOT_FOUND"].includes(error?.code)) {
            throw named("Runtime.ImportModuleError", String(error), error.stack);
        }
        throw error;
    }
}

function contextOf(headers, callback) {
    const deadline = Number(headers["lambda-runtime-deadline-ms"]);
    const client = headers["lambda-runtime-client-context"];
    return {
        callbackWaitsForEmptyEventLoop: true,
        functionName: env.AWS_LAMBDA_FUNCTION_NAME,
        functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION,
        memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
        logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME,
        logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME,
        invokedFunctionArn: headers["lambda-runtime-invoked-function-arn"],
        awsRequestId: requestId,
        clientContext: client === undefined ? undefined : JSON.parse(client),
        getRemainingTimeInMillis: () => deadline - Date.now(),
        done: callback,
        fail: (error) => callback(error ?? "handled"),
        succeed: (result) => callback(null, result),
    };
}

function invoked(handler, event, headers) {
    return new Promise((resolve, reject) => {
        const finish = (error, result) => {
            whenEmpty = null;
            if (error === null || error === undefined) resolve(result);
            else reject(error);
        };
        let isCalled = false;
        const callback = (error, result) => {
            if (isCalled) return;
            isCalled = true;
            whenEmpty = () => finish(error, result);
            if (!context.callbackWaitsForEmptyEventLoop) setImmediate(whenEmpty);
        };
        const context = contextOf(headers, callback);
        whenEmpty = () => finish(null, null);
        const result = handler(event, context, callback);
        if (typeof result?.then === "function") {
            result.then(
                (value) => finish(null, value),
                (error) => finish(error ?? named("Error", String(error))),
            );
        }
    });
}

function serialized(result) {
    try {
        return JSON.stringify(result === undefined ? null : result) ?? "null";
    } catch {
        throw named("Error", "Unable to stringify response body");
    }
}

async function serve(handler) {
    const { body, headers } = await call("GET", "invocation/next");
    requestId = headers["lambda-runtime-aws-request-id"];
    env._X_AMZN_TRACE_ID = headers["lambda-runtime-trace-id"];
    try {
        const text = serialized(await invoked(handler, JSON.parse(body), headers));
        await call("POST", `invocation/${requestId}/response`, text, {
            "Content-Type": "application/json",
        });
    } catch (error) {
        logged("ERROR", "Invoke Error \t%s", JSON.stringify(told(error)));
        await report(`invocation/${requestId}/error`, error);
    }
}

async function fail(error, status) {
    logged("ERROR", "%s", JSON.stringify(told(error)));
    try {
        await report(requestId ? `invocation/${requestId}/error` : "init/error", error);
    } finally {
        process.exit(status);
    }
}

async function main() {
    let handler;
    try {
        handler = await load();
    } catch (error) {
        await fail(error, 1);
    }
    while (true) await serve(handler);
}

// Else a pipe takes what there is room for, and the rest would wait for the next invocation.
for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
for (const [name, level] of Object.entries(LEVELS)) {
    console[name] = (...values) => logged(level, ...values);
}
process.on("beforeExit", () => whenEmpty?.());
process.on("uncaughtException", (error) => fail(error, UNCAUGHT));
process.on("unhandledRejection", (reason) => {
    const text = reason instanceof Error ? String(reason) : format("%s", reason);
    fail(named("Runtime.UnhandledPromiseRejection", text, reason?.stack), UNHANDLED);
});

// Awaited at the top it would count as a program that never came to its end.
main();
