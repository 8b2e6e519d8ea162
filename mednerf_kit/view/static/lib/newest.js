// At most one call runs; of those asked for meanwhile only the newest follows. A slider that is
// dragged so keeps a server busy with one question at a time. A long call may look whether another
// waits: ask.isAwaited().

export function newest(call, failed) {
  let running = false, waiting = null;
  async function ask(...values) {
    if (running) {
      waiting = values;
      return;
    }
    running = true;
    try {
      await call(...values);
    } catch (error) {
      failed(error);
    }
    running = false;
    if (waiting) {
      const next = waiting;
      waiting = null;
      ask(...next);
    }
  }
  ask.isAwaited = () => waiting !== null;
  return ask;
}
