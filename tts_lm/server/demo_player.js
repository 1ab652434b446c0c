// Plays a wav while it is being made: an <audio> element would wait for most of it.
// An element <div data-live="URL"> that appears on the page is played at once; when it goes, or its button is
// pressed, the sound stops. data-heard says how many seconds were heard so far.
(() => {
  const START_S = 0.05; // before the first piece, and before one that came late

  function header(bytes) {
    // The rate and where the samples begin, or null while the header is not whole.
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 12; at + 8 <= bytes.length; at += 8 + view.getUint32(at + 4, true)) {
      if (String.fromCharCode(...bytes.subarray(at, at + 4)) === "data") {
        return { rate: view.getUint32(24, true), start: at + 8 };
      }
    }
    return null;
  }

  function join(left, right) {
    const both = new Uint8Array(left.length + right.length);
    both.set(left);
    both.set(right, left.length);
    return both;
  }

  function schedule(context, bytes, rate, at) {
    const samples = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const buffer = context.createBuffer(1, bytes.length / 2, rate);
    const channel = buffer.getChannelData(0);
    for (let n = 0; n < channel.length; n++) channel[n] = samples.getInt16(2 * n, true) / 32768;
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    const begin = Math.max(at, context.currentTime + START_S);
    source.start(begin);
    return begin + buffer.duration;
  }

  async function play(element) {
    const context = new AudioContext();
    const button = element.querySelector("button");
    const stop = () => context.state !== "closed" && context.close();
    button.onclick = stop;
    const reader = (await fetch(element.dataset.live)).body.getReader();
    let rest = new Uint8Array(0), head = null, end = 0;
    const tick = setInterval(() => {
      if (!element.isConnected) stop();
      if (end) element.dataset.heard = Math.min(context.currentTime, end).toFixed(2);
    }, 50);
    for (;;) {
      const { done, value } = await reader.read();
      if (done || context.state === "closed") break;
      rest = join(rest, value);
      if (head === null && (head = header(rest)) !== null) rest = rest.slice(head.start);
      const whole = rest.length - (rest.length % 2);
      if (head === null || whole === 0) continue;
      end = schedule(context, rest.slice(0, whole), head.rate, end);
      rest = rest.slice(whole);
    }
    reader.cancel();
    setTimeout(() => {
      clearInterval(tick);
      if (end) element.dataset.heard = end.toFixed(2);
      button.disabled = true;
      stop();
    }, 1000 * Math.max(0, end - context.currentTime) + 200);
  }

  new MutationObserver(() => {
    for (const element of document.querySelectorAll("[data-live]:not([data-heard])")) {
      element.dataset.heard = "0";
      play(element);
    }
  }).observe(document, { childList: true, subtree: true });
})();
