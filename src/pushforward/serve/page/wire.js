// The websocket: messages out, frames in. It comes back by itself after an interruption.

const POINTS = 1, FIELD = 2, DENSITY = 3, PICTURES = 4;

export class Wire {
  constructor(on) {
    this.on = on;
    this.wait = 400;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/api/live`);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { this.wait = 400; this.on.open(); };
    socket.onclose = () => {
      this.on.closed();
      setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(8000, this.wait * 1.7);
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.on.message(JSON.parse(data));
      else this.on.frame(decode(data));
    };
  }

  send(value) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(value));
    return true;
  }
}

// The head of a frame and its numbers, in the units that they stand for.
export function decode(buffer) {
  const view = new DataView(buffer);
  const frame = {
    kind: view.getUint8(0), channels: view.getUint8(1), job: view.getUint32(4, true), step: view.getUint32(8, true),
    steps: view.getUint32(12, true), t: view.getFloat32(16, true), scale: view.getFloat32(20, true),
    n: view.getUint32(24, true), width: view.getUint16(28, true), height: view.getUint16(30, true),
  };
  if (frame.kind === POINTS) frame.points = scaled(new Int16Array(buffer, 32), frame.scale / 32767);
  if (frame.kind === FIELD) frame.field = scaled(new Int8Array(buffer, 32), frame.scale / 127);
  if (frame.kind === DENSITY) frame.density = new Uint8Array(buffer, 32);
  if (frame.kind === PICTURES) frame.pictures = new Uint8Array(buffer, 32);
  return frame;
}

function scaled(values, unit) {
  const out = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = values[i] * unit;
  return out;
}
