#pragma once

// The bilinear warp of one pixel (Shi et al. 2017, eq. 3-4):
//
//   M[i,j] = sum_mn I[m,n] max(0, 1-|i+V-m|) max(0, 1-|j+U-n|)
//
// At most four corners of the sum are not zero: those of the unit cell that
// (i+V, j+U) falls into. Corner k = 2 * (lower row) + (right column). With
// Padding::border the position is first clipped to the image.

#include <cmath>
#include <cstdint>
#include <limits>

#include "math/host_device.h"

namespace trajgru_ext {

constexpr int kCorners = 4;

// Where a pixel's flow points: to a cell with a corner inside the image, to nothing but
// outside, or nowhere, since the flow is NaN.
enum class FlowTarget { inside, outside, undefined };

// What is read outside the image: 0, or the pixel of the border that is nearest.
enum class Padding { zeros, border };

// The cell's upper left corner and the position within the cell. The corner may
// lie at -1, one before the image: the cell's other half is inside then.
template <typename T, typename index_t>
struct Cell {
  index_t row, col;
  T fy, fx;
};

// Displacements of this size and above leave any image whose indices fit index_t,
// and those below can be converted to index_t and added to an index of it.
template <typename T, typename index_t>
TRAJGRU_HOST_DEVICE T displacement_limit() {
  return static_cast<T>(index_t(1) << (8 * sizeof(index_t) - 2));
}

// Splits the displacement, not the coordinate, into floor and fraction: whole
// displacements are exact at any pixel, and the precision of the fraction does not
// depend on how far the pixel is from the origin.
template <typename T, typename index_t>
TRAJGRU_HOST_DEVICE FlowTarget locate(index_t row, index_t col, T u, T v,
                                      index_t height, index_t width,
                                      Cell<T, index_t>& cell) {
  const T limit = displacement_limit<T, index_t>();
  // Negated, so that NaN is never converted to an integer.
  if (!(std::fabs(u) < limit && std::fabs(v) < limit)) {
    return (u != u || v != v) ? FlowTarget::undefined : FlowTarget::outside;
  }
  const T whole_u = std::floor(u), whole_v = std::floor(v);
  cell.row = row + static_cast<index_t>(whole_v);
  cell.col = col + static_cast<index_t>(whole_u);
  cell.fy = v - whole_v;
  cell.fx = u - whole_u;
  const bool inside =
      cell.row >= -1 && cell.row < height && cell.col >= -1 && cell.col < width;
  return inside ? FlowTarget::inside : FlowTarget::outside;
}

// Clips a position along one axis, given by its cell's first corner and its fraction of
// the cell. One before the first pixel goes to the cell that ends there, one at or
// after the last pixel to the cell that begins there: the other half of either cell is
// outside and has no weight, and no position that was not clipped is in them.
template <typename T, typename index_t>
TRAJGRU_HOST_DEVICE void clip(index_t size, index_t& corner, T& fraction) {
  if (corner < 0) {
    corner = -1;
    fraction = 1;
  } else if (corner >= size - 1) {
    corner = size - 1;
    fraction = 0;
  }
}

// Clipped to the image, a position is inside even where it is at infinity.
template <typename T, typename index_t>
TRAJGRU_HOST_DEVICE FlowTarget locate_clipped(index_t row, index_t col, T u, T v,
                                              index_t height, index_t width,
                                              Cell<T, index_t>& cell) {
  if (u != u || v != v) return FlowTarget::undefined;
  const T limit = displacement_limit<T, index_t>();
  u = u < -limit ? -limit : u > limit ? limit : u;
  v = v < -limit ? -limit : v > limit ? limit : v;
  const T whole_u = std::floor(u), whole_v = std::floor(v);
  cell.row = row + static_cast<index_t>(whole_v);
  cell.col = col + static_cast<index_t>(whole_u);
  cell.fy = v - whole_v;
  cell.fx = u - whole_u;
  clip(height, cell.row, cell.fy);
  clip(width, cell.col, cell.fx);
  return FlowTarget::inside;
}

template <Padding kPadding, typename T, typename index_t>
TRAJGRU_HOST_DEVICE FlowTarget locate(index_t row, index_t col, T u, T v,
                                      index_t height, index_t width,
                                      Cell<T, index_t>& cell) {
  if constexpr (kPadding == Padding::border) {
    return locate_clipped(row, col, u, v, height, width, cell);
  } else {
    return locate(row, col, u, v, height, width, cell);
  }
}

template <typename T, typename index_t>
TRAJGRU_HOST_DEVICE T corner_weight(const Cell<T, index_t>& cell, int corner) {
  const T wy = (corner & 2) ? cell.fy : 1 - cell.fy;
  const T wx = (corner & 1) ? cell.fx : 1 - cell.fx;
  return wy * wx;
}

template <typename T, typename index_t>
TRAJGRU_HOST_DEVICE bool corner_inside(const Cell<T, index_t>& cell, int corner,
                                       index_t height, index_t width) {
  const index_t row = cell.row + (corner >> 1), col = cell.col + (corner & 1);
  return row >= 0 && row < height && col >= 0 && col < width;
}

// (1-f) a + f b, in which what has no weight does not count, even NaN.
template <typename D, typename T>
TRAJGRU_HOST_DEVICE D between(T f, const D& a, const D& b) {
  if (f == 0) return a;
  if (f == 1) return b;
  return D(1 - f) * a + D(f) * b;
}

// dM/dU and dM/dV within the cell, given the products of the output gradient with
// each corner's values, dot[k] = sum_c grad[c] I[c, corner k] (0 outside the image).
// D: T, or a vector of partial sums.
template <typename D, typename T, typename index_t>
TRAJGRU_HOST_DEVICE D gradient_u(const Cell<T, index_t>& cell, const D* dot) {
  return between(cell.fy, D(dot[1] - dot[0]), D(dot[3] - dot[2]));
}

template <typename D, typename T, typename index_t>
TRAJGRU_HOST_DEVICE D gradient_v(const Cell<T, index_t>& cell, const D* dot) {
  return between(cell.fx, D(dot[2] - dot[0]), D(dot[3] - dot[1]));
}

// A position that was clipped stands still as the flow changes.
template <Padding kPadding, typename T, typename index_t>
TRAJGRU_HOST_DEVICE void stop_where_clipped(const Cell<T, index_t>& cell,
                                            index_t height, index_t width, T& du,
                                            T& dv) {
  if constexpr (kPadding == Padding::border) {
    if (cell.col < 0 || cell.col >= width - 1) du = 0;
    if (cell.row < 0 || cell.row >= height - 1) dv = 0;
  }
}

// What a pixel that reads no corner gives: nothing outside the image, NaN where the
// flow is NaN. Its gradient is the same.
template <typename T>
TRAJGRU_HOST_DEVICE T value_without_cell(FlowTarget target) {
  return target == FlowTarget::undefined ? std::numeric_limits<T>::quiet_NaN() : T(0);
}

}  // namespace trajgru_ext
