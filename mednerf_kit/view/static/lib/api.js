// What the server is asked. Every address is relative, so that the secret in the page's own address
// goes along. A refusal is an Error with the server's sentence.

export function address(path, query = {}) {
  const words = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  return words.length ? `${path}?${new URLSearchParams(words)}` : path;
}

export async function ask(path, query = {}, options = {}) {
  let reply;
  try {
    reply = await fetch(address(path, query), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is `mednerf-kit view` still running?");
  }
  if (reply.ok) return reply;
  let sentence = `The server answered ${reply.status}.`;
  try {
    sentence = (await reply.json()).error ?? sentence;
  } catch { /* an answer without words */ }
  throw new Error(sentence);
}

export async function json(path, query = {}, options = {}) {
  return (await ask(path, query, options)).json();
}

// The newest call of a kind wins: those before it are given up.
export function latest(call) {
  let running;
  return async (...values) => {
    running?.abort();
    const mine = (running = new AbortController());
    try {
      return await call(...values, mine.signal);
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      throw error;
    }
  };
}
