// Angles of an orbit, in degrees.

const NAMES = { 0: "lateral", 90: "AP", 180: "lateral", 270: "PA" };

// How far two angles lie apart, at most 180.
export const apart = (a, b) => Math.abs(((((a - b) % 360) + 540) % 360) - 180);

// The number of the view that is nearest to an angle.
export const nearestView = (angles, deg) => angles.reduce((best, angle, k) =>
  (apart(angle, deg) < apart(angles[best], deg) ? k : best), 0);

// An angle for people.
export const angleLabel = (deg) => `${Number(deg.toPrecision(4))}°${
  NAMES[deg] ? ` (${NAMES[deg]})` : ""}`;
