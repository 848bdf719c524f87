// SPDX-License-Identifier: Apache-2.0
// Figures for people.

const known = (value) => value !== null && value !== undefined;

/** In powers of 1000: 7, 0.3, 12.5k, 3.2M. */
export function quantity(value) {
  if (!known(value)) return "–";
  if (value < 1000) return Number.isInteger(value) || value >= 10 ? value.toFixed(0) : value.toFixed(1);
  for (const unit of ["k", "M", "G"]) {
    value /= 1000;
    if (value < 999.95 || unit === "G") return `${value.toFixed(1)}${unit}`;
  }
  return "";
}

export const packets = (value) => (known(value) ? `${quantity(value)} pkt/s` : "–");
export const bits = (value) => (known(value) ? `${quantity(value)}bit/s` : "–");
export const percent = (value) => (known(value) ? `${value.toFixed(1)} %` : "–");

/** A number of bytes in powers of 1024. */
export function bytes(value) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return unit === "B" ? `${value} B` : `${value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}

/** A span of time: 42 s, 3 min 20 s, 5 h 10 min. */
export function duration(seconds) {
  const whole = Math.floor(seconds);
  for (const [unit, lower, size, part] of [
    ["d", "h", 86400, 3600], ["h", "min", 3600, 60], ["min", "s", 60, 1],
  ]) {
    if (whole >= size) return `${Math.floor(whole / size)} ${unit} ${Math.floor((whole % size) / part)} ${lower}`;
  }
  return `${whole} s`;
}

/** When, in seconds since the epoch, on this host's clock. */
export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

/** A short span: 0.2 ms, 62.01 ms, 224 ms, 12 s. */
export function moment(seconds) {
  if (seconds >= 1) return `${Number(seconds.toFixed(2))} s`;
  return `${Number((seconds * 1000).toFixed(seconds < 0.1 ? 2 : 0))} ms`;
}

/** How many there are, with their name in its number. */
export function counted(count, one, many = `${one}s`) {
  return `${quantity(count)} ${count === 1 ? one : many}`;
}

export function remote(address, port) {
  return address === "0.0.0.0" && port === 0 ? "any" : `${address}:${port}`;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor((sorted.length - 1) / 2)] : null;
}
