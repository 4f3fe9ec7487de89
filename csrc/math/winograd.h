#pragma once

// Winograd's minimal filtering (Lavin and Gray 2016, arXiv 1509.09308) in one
// dimension: four outputs y of a correlation with 3, 5 or 7 taps g, made from
// n = taps + 3 values d with n products,
//
//     y = A_4^T ((S A_taps g) . (B^T d)),    y_k = sum_i d_(k+i) g_i.
//
// A_k evaluates a polynomial of k coefficients at n points: 0, some pairs p and -p, and
// infinity, where it is the last coefficient. B^T d comes from the polynomials that
// vanish at all the points but one, and S divides by their values there. In two
// dimensions each is applied to the rows and to the columns. One tap is a product: one
// output from one value, at one point.

#include "math/host_device.h"

namespace trajgru_ext {

constexpr int kTileOutputs = 4;

// Outputs of a tile in one dimension, and the points that they are made at.
constexpr int winograd_outputs(int taps) {
  return taps == 1 ? 1 : kTileOutputs;
}

constexpr int winograd_points(int taps) {
  return taps + winograd_outputs(taps) - 1;
}

// The pairs of points. Of some hundreds that were tried, these gave the smallest errors
// in float32 on random data; for 3 taps the error is a seventh of that of the usual
// points, 1 and 2.
template <int taps>
struct WinogradPairs;
template <>
struct WinogradPairs<3> {
  static constexpr double kPoint[] = {0.70710678118654752440, 1.41421356237309504880};
  static constexpr double kSquare[] = {0.5, 2.0};
};
template <>
struct WinogradPairs<5> {
  static constexpr double kPoint[] = {0.5, 1.0, 2.0};
  static constexpr double kSquare[] = {0.25, 1.0, 4.0};
};
template <>
struct WinogradPairs<7> {
  static constexpr double kPoint[] = {0.4, 0.8, 1.25, 2.0};
  static constexpr double kSquare[] = {0.16, 0.64, 1.5625, 4.0};
};

// What follows from the pairs.
template <int taps>
struct WinogradPoints {
  static constexpr int kPairs = (taps + 1) / 2, kCount = winograd_points(taps);

  double power[kPairs][kCount] = {};  // the powers of a point
  // Coefficients of polynomials in x^2 that vanish at all pairs, and at all but one.
  double all[kPairs + 1] = {};
  double others[kPairs][kPairs + 1] = {};
  double scale[kCount] = {};  // S

  static constexpr double square(int pair) {
    return WinogradPairs<taps>::kSquare[pair];
  }

  constexpr WinogradPoints() {
    all[0] = 1;
    for (int i = 0; i < kPairs; ++i) {
      double even = 1;
      for (int k = 0; k < kCount; ++k) {
        power[i][k] = k % 2 == 0 ? even : even * WinogradPairs<taps>::kPoint[i];
        if (k % 2 == 1) even *= square(i);
      }
      others[i][0] = 1;
      double value = 2 * square(i);
      for (int j = 0; j < kPairs; ++j) {
        if (j == i) continue;
        multiply(others[i], square(j));
        value *= square(i) - square(j);
      }
      scale[1 + 2 * i] = scale[2 + 2 * i] = 1 / value;
      multiply(all, square(i));
    }
    scale[0] = 1 / all[0];
    scale[kCount - 1] = 1;
  }

 private:
  // Multiplies a polynomial by x^2 - root.
  static constexpr void multiply(double* coefficients, double root) {
    for (int k = kPairs; k > 0; --k) {
      coefficients[k] = coefficients[k - 1] - root * coefficients[k];
    }
    coefficients[0] *= -root;
  }
};

template <>
struct WinogradPoints<1> {
  double scale[1] = {1};
};

// The sum of factors[i] * values[2 i]. V: a vector of floating-point
// numbers, with fmadd(x, y, z) = x y + z.
template <int count, typename V>
TRAJGRU_HOST_DEVICE V every_other(const double* factors, const V* values) {
  V sum = factors[count - 1] == 1 ? values[2 * count - 2]
                                  : values[2 * count - 2] * V(factors[count - 1]);
#pragma GCC unroll 10
  for (int i = count - 2; i >= 0; --i) sum = fmadd(V(factors[i]), values[2 * i], sum);
  return sum;
}

// values = A_k coefficients.
template <int taps, int k, typename V>
TRAJGRU_HOST_DEVICE void evaluate(const V* coefficients, V* values) {
  if constexpr (taps == 1) {
    values[0] = coefficients[0];
    return;
  } else {
    constexpr WinogradPoints<taps> points;
    values[0] = coefficients[0];
#pragma GCC unroll 10
    for (int i = 0; i < points.kPairs; ++i) {
      V part[2] = {coefficients[0], coefficients[1] * V(points.power[i][1])};
#pragma GCC unroll 10
      for (int j = 2; j < k; ++j) {
        part[j % 2] = fmadd(V(points.power[i][j]), coefficients[j], part[j % 2]);
      }
      values[1 + 2 * i] = part[0] + part[1];
      values[2 + 2 * i] = part[0] - part[1];
    }
    values[points.kCount - 1] = coefficients[k - 1];
  }
}

// sums = A_k^T values.
template <int taps, int k, typename V>
TRAJGRU_HOST_DEVICE void evaluate_transposed(const V* values, V* sums) {
  if constexpr (taps == 1) {
    sums[0] = values[0];
    return;
  } else {
    constexpr WinogradPoints<taps> points;
#pragma GCC unroll 10
    for (int i = 0; i < points.kPairs; ++i) {
      const V part[2] = {values[1 + 2 * i] + values[2 + 2 * i],
                         values[1 + 2 * i] - values[2 + 2 * i]};
      if (i == 0) {
        sums[0] = values[0] + part[0];
#pragma GCC unroll 10
        for (int j = 1; j < k; ++j) sums[j] = part[j % 2] * V(points.power[0][j]);
      } else {
        sums[0] = sums[0] + part[0];
#pragma GCC unroll 10
        for (int j = 1; j < k; ++j) {
          sums[j] = fmadd(V(points.power[i][j]), part[j % 2], sums[j]);
        }
      }
    }
    sums[k - 1] = sums[k - 1] + values[points.kCount - 1];
  }
}

// values = B^T d.
template <int taps, typename V>
TRAJGRU_HOST_DEVICE void separate(const V* d, V* values) {
  if constexpr (taps == 1) {
    values[0] = d[0];
    return;
  } else {
    constexpr WinogradPoints<taps> points;
    constexpr int pairs = points.kPairs;
    values[0] = every_other<pairs + 1>(points.all, d);
#pragma GCC unroll 10
    for (int i = 0; i < pairs; ++i) {
      const V even = every_other<pairs>(points.others[i], d + 2);
      const V odd = every_other<pairs>(points.others[i], d + 1) * V(points.power[i][1]);
      values[1 + 2 * i] = even + odd;
      values[2 + 2 * i] = even - odd;
    }
    values[points.kCount - 1] = every_other<pairs + 1>(points.all, d + 1);
  }
}

// Applies f_rows, which makes to_rows numbers of from_rows, to the columns of a grid,
// and then f_columns likewise to its rows.
template <int from_rows, int to_rows, int from_columns, int to_columns, typename V,
          typename FRows, typename FColumns>
TRAJGRU_HOST_DEVICE void on_grid(const V* grid, V* result, const FRows& f_rows,
                                 const FColumns& f_columns) {
  V half[to_rows * from_columns];
#pragma GCC unroll 10
  for (int column = 0; column < from_columns; ++column) {
    V in[from_rows], out[to_rows];
    for (int i = 0; i < from_rows; ++i) in[i] = grid[i * from_columns + column];
    f_rows(in, out);
    for (int i = 0; i < to_rows; ++i) half[i * from_columns + column] = out[i];
  }
#pragma GCC unroll 10
  for (int row = 0; row < to_rows; ++row) {
    f_columns(half + row * from_columns, result + row * to_columns);
  }
}

}  // namespace trajgru_ext
