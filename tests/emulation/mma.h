#pragma once

// Stands in for CUDA's mma.h where kernels are executed on the host: fragments of 16 x
// 16 x 16 of half types, and 16 x 16 x 8 of TF32, with sums of float32. Operands are
// rounded as the hardware has them, which takes no more of a float than the ten bits of
// TF32; sums are added up one by one, where the order of hardware is not published.
//
// A thread keeps its elements of the sums, those that PTX gives it, and the rows and
// columns of the operands that they are made of.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <bit>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "executor.h"
#include "shared_memory.h"

using __half = c10::Half;
using __nv_bfloat16 = c10::BFloat16;

namespace nvcuda::wmma {

struct row_major;
struct col_major;
struct matrix_a;
struct matrix_b;
struct accumulator;
enum layout_t { mem_row_major };

namespace precision {
struct tf32;
}

constexpr unsigned kDropped = 13;  // bits of a float beyond TF32's

// To the nearest, of two to that further from 0.
inline float __float_to_tf32(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits >> 23 & 0xff) == 0xff) return value;
  const uint32_t half = 1u << (kDropped - 1);
  return std::bit_cast<float>((bits + half) >> kDropped << kDropped);
}

// Of a thread: rows g and g + 8, columns 2 q, 2 q + 1, 2 q + 8 and 2 q + 9, where the
// thread is 4 g + q of its warp.
constexpr unsigned kRows = 2, kColumns = 4;

inline unsigned row(unsigned n) {
  return emulation::self->index % emulation::kWarp / 4 + 8 * n;
}

inline unsigned column(unsigned n) {
  return emulation::self->index % 4 * 2 + n % 2 + n / 2 * 8;
}

template <typename Use, int kM, int kN, int kK, typename T, typename Layout = void>
struct fragment;

template <int kK, typename T>
struct fragment<matrix_a, 16, 16, kK, T, row_major> {
  float of_rows[kRows][kK];
};

template <int kK, typename T>
struct fragment<matrix_b, 16, 16, kK, T, col_major> {
  float of_columns[kColumns][kK];
};

template <int kK>
struct fragment<accumulator, 16, 16, kK, float> {
  static constexpr int num_elements = kRows * kColumns;
  float x[num_elements];
};

// What a fragment of these is loaded from, and how deep it is.
template <typename T>
using stored_t =
    std::conditional_t<std::is_same_v<T, precision::tf32>, float, std::remove_cv_t<T>>;

template <typename T>
constexpr int kDepth = std::is_same_v<T, precision::tf32> ? 8 : 16;

template <typename stored>
void check_operand(const stored* from, unsigned stride) {
  if (reinterpret_cast<uintptr_t>(from) % 32 != 0 ||
      stride * sizeof(stored) % 16 != 0) {
    throw std::invalid_argument("emulation: a fragment that is not aligned");
  }
}

// Of float16 the hardware loads rows of 16 bytes, eight at a time; of the others nvcc
// has each thread load its own elements, in words.
template <typename T>
void note_rows(const stored_t<T>* from, unsigned stride) {
  using stored = stored_t<T>;
  constexpr unsigned kWord = 4, kRow = 16;
  const unsigned lane = emulation::self->index % emulation::kWarp;
  if constexpr (std::is_same_v<T, __half>) {
    emulation::note_shared(
        from + lane % 16 * stride + lane / 16 * (kRow / sizeof(stored)), kRow);
  } else {
    for (unsigned n = 0; n < 4; ++n) {
      const unsigned word = lane % 4 + n / 2 * (kRow / kWord);
      emulation::note_shared(from + row(n % 2) * stride + word * kWord / sizeof(stored),
                             kWord);
    }
  }
}

template <typename T, typename stored>
float operand(stored value) {
  const auto wide = static_cast<float>(value);
  if constexpr (!std::is_same_v<T, precision::tf32>) return wide;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(wide) >> kDropped << kDropped);
}

// The n-th line that a thread keeps is number_of(n) of those in memory.
template <typename T, unsigned kLines, int kK>
void load_lines(float (&to)[kLines][kK], const stored_t<T>* from, unsigned stride,
                unsigned (*number_of)(unsigned)) {
  static_assert(kK == kDepth<T>);
  check_operand(from, stride);
  note_rows<T>(from, stride);
  for (unsigned n = 0; n < kLines; ++n) {
    const stored_t<T>* const line = from + number_of(n) * stride;
    for (int k = 0; k < kK; ++k) to[n][k] = operand<T>(line[k]);
  }
}

template <typename T, int kK>
void load_matrix_sync(fragment<matrix_a, 16, 16, kK, T, row_major>& to,
                      const stored_t<T>* from, unsigned stride) {
  load_lines<T>(to.of_rows, from, stride, row);
}

template <typename T, int kK>
void load_matrix_sync(fragment<matrix_b, 16, 16, kK, T, col_major>& to,
                      const stored_t<T>* from, unsigned stride) {
  load_lines<T>(to.of_columns, from, stride, column);
}

template <int kK>
void fill_fragment(fragment<accumulator, 16, 16, kK, float>& to, float value) {
  for (float& one : to.x) one = value;
}

// Of nothing but what a thread keeps: no sanitizer has to look.
template <int kK, typename T>
__attribute__((no_sanitize("thread"))) void mma_sync(
    fragment<accumulator, 16, 16, kK, float>& to,
    const fragment<matrix_a, 16, 16, kK, T, row_major>& a,
    const fragment<matrix_b, 16, 16, kK, T, col_major>& b,
    const fragment<accumulator, 16, 16, kK, float>& sums) {
  for (unsigned n = 0; n < kRows * kColumns; ++n) {
    float sum = sums.x[n];
    for (int k = 0; k < kK; ++k) {
      sum += a.of_rows[n / kColumns][k] * b.of_columns[n % kColumns][k];
    }
    to.x[n] = sum;
  }
}

template <int kK>
void store_matrix_sync(float* to, const fragment<accumulator, 16, 16, kK, float>& from,
                       unsigned stride, layout_t) {
  check_operand(to, stride);
  for (unsigned n = 0; n < kRows * kColumns; n += 2) {
    float* const pair = to + row(n / kColumns) * stride + column(n % kColumns);
    emulation::note_shared(pair, 2 * sizeof(float));
    pair[0] = from.x[n];
    pair[1] = from.x[n + 1];
  }
}

}  // namespace nvcuda::wmma
