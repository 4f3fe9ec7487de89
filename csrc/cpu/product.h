#pragma once

// Products of matrices, each by one thread, the right side packed once for many of
// them. For float and double.

#include "cpu/capability.h"
#include "math/divide_up.h"

namespace trajgru_ext {

// A row of some values in whole lines of cache; and one line more, so that consecutive
// rows of a buffer do not meet in the cache.
template <typename T>
constexpr int64_t in_lines(int64_t values) {
  constexpr int64_t kLine = 64 / sizeof(T);
  return divide_up(values, kLine) * kLine;
}
template <typename T>
constexpr int64_t apart(int64_t values) {
  return in_lines<T>(values) + 64 / int64_t{sizeof(T)};
}

// c = start + a b
template <typename T>
struct Product {
  int64_t rows, depth, columns;
  const T* a;  // [rows, depth], or transposed [depth, rows]; a_stride apart
  int64_t a_stride;
  const T* b;  // [depth, columns], packed
  T* c;        // [rows, columns], c_row apart
  int64_t c_row;
  const T* start;  // [columns], of every row; null: what c holds
};

// A matrix [depth, columns] with any strides.
template <typename T>
struct Matrix {
  const T* data;
  int64_t depth, columns, depth_stride, column_stride;
};

template <typename T>
struct ProductKernels {
  int64_t panel;  // columns that are packed together, the last filled up with zeros

  // Some panels: packed[panel][depth][column of the panel].
  void (*pack)(const Matrix<T>& matrix, int64_t begin, int64_t end, T* packed);

  void (*multiply)(const Product<T>& product);
  void (*multiply_transposed)(const Product<T>& product);

  int64_t panels(int64_t columns) const { return divide_up(columns, panel); }
};

TRAJGRU_DECLARE_KERNELS(ProductKernels, product_kernels)

}  // namespace trajgru_ext
