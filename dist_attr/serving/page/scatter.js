// Two scores of each source as a point. What it shows stands in the rankings beside it too, which a keyboard reaches.

import { drawn } from "./elements.js";
import { signed } from "./words.js";

const [WIDTH, HEIGHT] = [380, 290];
const INSIDE = { left: 58, right: 14, top: 14, bottom: 46 };
const ROOM = 0.06; // of the span, between the points and the frame

export class Scatter {
  /** `points` are { name, x, y }; `axes` the titles { x, y }; `says` is the picture in words. */
  constructor(points, axes, says, decimals) {
    this.points = points;
    this.x = scale(points.map(({ x }) => x), INSIDE.left, WIDTH - INSIDE.right);
    this.y = scale(points.map(({ y }) => y), HEIGHT - INSIDE.bottom, INSIDE.top);
    this.label = drawn("text", { class: "point-name" });
    this.dots = points.map(({ name, x, y }) =>
      drawn("circle", { class: "point", cx: this.x.at(x), cy: this.y.at(y), r: 5 }, [
        drawn("title", { text: `${name}: ${signed(x, decimals.x)}, ${signed(y, decimals.y)}` }),
      ]),
    );
    this.root = drawn("svg", { class: "scatter", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": says }, [
      ...this.frame(axes, decimals),
      ...this.dots,
      this.label,
    ]);
  }

  frame(axes, decimals) {
    const [left, right, top, bottom] = [INSIDE.left, WIDTH - INSIDE.right, INSIDE.top, HEIGHT - INSIDE.bottom];
    const [x0, y0] = [this.x.at(0), this.y.at(0)];
    const middle = (top + bottom) / 2;
    return [
      drawn("path", { class: "frame", d: `M${left} ${top}V${bottom}H${right}` }),
      drawn("path", { class: "zeros", d: `M${x0} ${top}V${bottom}M${left} ${y0}H${right}` }),
      ...this.x.ticks.map((value) =>
        drawn("text", { x: this.x.at(value), y: bottom + 16, "text-anchor": "middle", text: written(value, decimals.x) }),
      ),
      ...this.y.ticks.map((value) =>
        drawn("text", { x: left - 6, y: this.y.at(value) + 4, "text-anchor": "end", text: written(value, decimals.y) }),
      ),
      drawn("text", { x: (left + right) / 2, y: HEIGHT - 8, "text-anchor": "middle", text: axes.x }),
      drawn("text", { "text-anchor": "middle", transform: `translate(12 ${middle}) rotate(-90)`, text: axes.y }),
    ];
  }

  /** Mark one of the points by its name, or none. */
  mark(name) {
    this.dots.forEach((dot, index) => dot.classList.toggle("marked", this.points[index].name === name));
    const point = this.points.find((each) => each.name === name);
    this.label.textContent = point ? point.name : "";
    if (!point) return;
    const [x, y] = [this.x.at(point.x), this.y.at(point.y)];
    const before = x > (INSIDE.left + WIDTH - INSIDE.right) / 2;
    this.label.setAttribute("x", before ? x - 9 : x + 9);
    this.label.setAttribute("y", y < INSIDE.top + 20 ? y + 16 : y - 8);
    this.label.setAttribute("text-anchor", before ? "end" : "start");
  }
}

const written = (value, decimals) => (value === 0 ? "0" : signed(value, decimals));

/** From values to places between two ends; zero is among the values. */
function scale(values, from, to) {
  const low = Math.min(0, ...values);
  const high = Math.max(0, ...values);
  const span = high - low || 1;
  const at = (value) => Number((from + (to - from) * ((value - low) / span * (1 - 2 * ROOM) + ROOM)).toFixed(1));
  // The ends and zero, but for an end whose number would run into that of zero.
  const ticks = [low, 0, high].filter((value, index) => index === 1 || Math.abs(value) > 0.15 * span);
  return { at, ticks };
}
