#include "cpu/product.h"

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <type_traits>

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// The sums that stay in registers are those of this many rows by two vectors.
constexpr int kVecs = 2;
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kRows = 12;
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int kRows = 6;
#else
constexpr int kRows = 4;
#endif
constexpr int kFewRows = 4;

// How many terms of a sum are added at a time: those whose part of a panel stays in the
// first-level cache.
constexpr int64_t kPanelBytes = 32 << 10;

template <typename T>
constexpr int64_t kPanel = kVecs * at::vec::Vectorized<T>::size();

template <typename T>
constexpr int64_t kDepth = kPanelBytes / (kPanel<T> * sizeof(T));

// Adds some terms to `count` rows of a panel. a: rows that are a_row apart, or, packed,
// the elements of all rows for one term after the other.
template <int count, bool packed, typename T>
[[gnu::always_inline]] inline void add_terms(const T* a, int64_t a_row, const T* b,
                                             int64_t depth, T* c, int64_t c_row,
                                             const T* start) {
  using Vec = at::vec::Vectorized<T>;
  Vec sum[count][kVecs];
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) {
    const T* from = start != nullptr ? start : c + i * c_row;
    for (int j = 0; j < kVecs; ++j) sum[i][j] = Vec::loadu(from + j * Vec::size());
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[kVecs];
    for (int j = 0; j < kVecs; ++j) {
      right[j] = Vec::loadu(b + j * Vec::size());
      __builtin_prefetch(b + 32 * kPanel<T> + j * Vec::size());
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      const Vec left(packed ? a[k * count + i] : a[i * a_row + k]);
      for (int j = 0; j < kVecs; ++j) {
        sum[i][j] = at::vec::fmadd(left, right[j], sum[i][j]);
      }
    }
    b += kPanel<T>;
  }
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) {
    for (int j = 0; j < kVecs; ++j) sum[i][j].store(c + i * c_row + j * Vec::size());
  }
}

// The same where only the first of the rows and columns are there.
template <int count, bool packed, typename T>
void add_terms(const T* a, int64_t a_row, const T* b, int64_t depth, T* c,
               int64_t c_row, const T* start, int64_t rows, int64_t columns) {
  if (rows == count && columns == kPanel<T>) {
    return add_terms<count, packed>(a, a_row, b, depth, c, c_row, start);
  }
  T whole[count * kPanel<T>] = {};
  for (int64_t i = 0; i < rows; ++i) {
    std::copy_n(start != nullptr ? start : c + i * c_row, columns,
                whole + i * kPanel<T>);
  }
  add_terms<count, packed, T>(a, a_row, b, depth, whole, kPanel<T>, nullptr);
  for (int64_t i = 0; i < rows; ++i) {
    std::copy_n(whole + i * kPanel<T>, columns, c + i * c_row);
  }
}

// f(first, depth) for the terms in equal parts; once where there are none.
template <typename T, typename F>
void for_terms(int64_t depth, const F& f) {
  const int64_t parts = std::max<int64_t>(divide_up<int64_t>(depth, kDepth<T>), 1);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = part * depth / parts;
    f(first, (part + 1) * depth / parts - first);
  }
}

// f(column, columns) for the panels.
template <typename T, typename F>
void for_panels(int64_t columns, const F& f) {
  for (int64_t column = 0; column < columns; column += kPanel<T>) {
    f(column, std::min(kPanel<T>, columns - column));
  }
}

template <typename T>
void multiply(const Product<T>& p) {
  for_terms<T>(p.depth, [&](int64_t first, int64_t depth) {
    for_panels<T>(p.columns, [&](int64_t column, int64_t columns) {
      const T* b = p.b + column * p.depth + first * kPanel<T>;
      const T* start = first == 0 && p.start != nullptr ? p.start + column : nullptr;
      int64_t row = 0;
      const auto run = [&](auto some) {
        constexpr int count = decltype(some)::value;
        for (; row + count <= p.rows; row += count) {
          add_terms<count, false>(p.a + row * p.a_stride + first, p.a_stride, b, depth,
                                  p.c + row * p.c_row + column, p.c_row, start, count,
                                  columns);
        }
      };
      run(std::integral_constant<int, kRows>());
      run(std::integral_constant<int, kFewRows>());
      run(std::integral_constant<int, 1>());
    });
  });
}

template <typename T>
void multiply_transposed(const Product<T>& p) {
  T left[kDepth<T> * kRows];
  for_terms<T>(p.depth, [&](int64_t first, int64_t depth) {
    for (int64_t row = 0; row < p.rows; row += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, p.rows - row);
      const T* a = p.a + first * p.a_stride + row;
      for (int64_t k = 0; k < depth; ++k, a += p.a_stride) {
        if (rows == kRows) {
          std::copy_n(a, kRows, left + k * kRows);  // a constant, so it is unrolled
        } else {
          std::fill_n(std::copy_n(a, rows, left + k * kRows), kRows - rows, T(0));
        }
      }
      for_panels<T>(p.columns, [&](int64_t column, int64_t columns) {
        const T* b = p.b + column * p.depth + first * kPanel<T>;
        const T* start = first == 0 && p.start != nullptr ? p.start + column : nullptr;
        add_terms<kRows, true>(left, 0, b, depth, p.c + row * p.c_row + column, p.c_row,
                               start, rows, columns);
      });
    }
  });
}

template <typename T>
void pack(const Matrix<T>& matrix, int64_t begin, int64_t end, T* packed) {
  // Where columns are far apart, as many elements of each as share a line of the cache.
  constexpr int64_t kTogether = 64 / sizeof(T);
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t column = panel * kPanel<T>;
    const int64_t columns = std::min(kPanel<T>, matrix.columns - column);
    const T* from = matrix.data + column * matrix.column_stride;
    T* to = packed + column * matrix.depth;
    for (int64_t first = 0; first < matrix.depth; first += kTogether) {
      const int64_t last = std::min(first + kTogether, matrix.depth);
      if (columns < kPanel<T>) {
        std::fill(to + first * kPanel<T>, to + last * kPanel<T>, T(0));
      }
      if (matrix.column_stride == 1) {
        for (int64_t k = first; k < last; ++k) {
          std::copy_n(from + k * matrix.depth_stride, columns, to + k * kPanel<T>);
        }
        continue;
      }
      for (int64_t n = 0; n < columns; ++n) {
        for (int64_t k = first; k < last; ++k) {
          to[k * kPanel<T> + n] =
              from[k * matrix.depth_stride + n * matrix.column_stride];
        }
      }
    }
  }
}

}  // namespace

template <typename T>
const ProductKernels<T>& product_kernels() {
  static constexpr ProductKernels<T> kernels = {kPanel<T>, pack<T>, multiply<T>,
                                                multiply_transposed<T>};
  return kernels;
}

template const ProductKernels<float>& product_kernels<float>();
template const ProductKernels<double>& product_kernels<double>();

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
