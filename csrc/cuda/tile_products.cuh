#pragma once

// The products of flow_conv's tiles in shared memory (flow_conv_fused.cuh), slice by
// slice: by tensor cores, or by multiply-adds where float32 stays what it is. Both are
// classes of a warp's sums, of 64 pixels and 48 outputs: few operands for many
// products.

#include <mma.h>

#include "cuda/fused_tiles.h"
#include "cuda/images.h"

namespace trajgru_ext::cuda {

namespace wmma = nvcuda::wmma;

constexpr int kTilePixels = kTileWidth * kTileHeight;
constexpr int kFusedThreads = 256;
constexpr int kLanes = 32, kSide = 16;          // of a warp, of a fragment
constexpr int kWarpRows = 4, kWarpColumns = 3;  // a warp's fragments
constexpr int kWarpsAcross = kTileOutputs / (kWarpColumns * kSide);
static_assert(kTileWidth == kSide && kTileHeight % kWarpRows == 0);
static_assert(kFusedThreads / kLanes == kWarpsAcross * kTileHeight / kWarpRows);
// 16 bytes beyond a slice: the same part of eight rows then lies in all banks, once.
constexpr int kRowBytes = kSliceBytes + 16;
// From a pixel to the next of sums in shared memory: stores of two by two, and loads of
// every second pixel, then use each bank once.
constexpr int kSumStride = 24;

template <typename scalar_t>
constexpr int kSliceChannels = kSliceBytes / sizeof(scalar_t);

// A slice of some rows, of warped values or weights.
template <typename T, int kRows>
struct alignas(kSliceBytes) Slice {
  static constexpr int kStride = kRowBytes / sizeof(T);
  T value[kRows * kStride];
};

// The warp's first of the tile's lines of pixels, and of the outputs.
inline __device__ int warp_line() {
  return threadIdx.x / kLanes / kWarpsAcross * kWarpRows;
}
inline __device__ int warp_column() {
  return threadIdx.x / kLanes % kWarpsAcross * kWarpColumns * kSide;
}

// The tensor cores' operands for a dtype, where the architecture has them.
template <typename scalar_t>
struct Operand {
  static constexpr bool kExists = false;
};

template <typename scalar_t, typename T>
struct HalfOperand {
  static constexpr bool kExists = true;
  using type = T;
  using stored = T;
  static __device__ scalar_t rounded(scalar_t value) { return value; }
};

template <>
struct Operand<c10::Half> : HalfOperand<c10::Half, __half> {};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
template <>
struct Operand<c10::BFloat16> : HalfOperand<c10::BFloat16, __nv_bfloat16> {};

template <>
struct Operand<float> {
  static constexpr bool kExists = true;
  using type = wmma::precision::tf32;
  using stored = float;
  // Of what it is given, the hardware drops the bits beyond TF32's.
  static __device__ float rounded(float value) { return wmma::__float_to_tf32(value); }
};
#endif

// A warp's part of the products, by tensor cores.
template <typename T>
class TensorCores {
 public:
  using scalar_t = T;
  static __device__ scalar_t rounded(scalar_t value) {
    return Operand<scalar_t>::rounded(value);
  }

  __device__ TensorCores() {
#pragma unroll
    for (auto& row : sums_) {
#pragma unroll
      for (auto& sum : row) wmma::fill_fragment(sum, 0.0f);
    }
  }

  __device__ void add(const Slice<scalar_t, kTilePixels>& warped,
                      const Slice<scalar_t, kTileOutputs>& weight) {
    Right right[kWarpColumns];
#pragma unroll
    for (int j = 0; j < kWarpColumns; ++j) {
      wmma::load_matrix_sync(right[j], row_of(weight, warp_column() + j * kSide),
                             kStride);
    }
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i) {
      Left left;
      wmma::load_matrix_sync(left, row_of(warped, (warp_line() + i) * kSide), kStride);
#pragma unroll
      for (int j = 0; j < kWarpColumns; ++j) {
        wmma::mma_sync(sums_[i][j], left, right[j], sums_[i][j]);
      }
    }
  }

  // Leaves fragment by fragment in shared memory, where f(i, j) finds the 16 pixels of
  // the tile's line warp_line() + i and the 16 columns from warp_column() + 16 j on.
  // to: of the warp.
  template <typename F>
  __device__ void visit(float* to, const F& f) const {
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i) {
#pragma unroll
      for (int j = 0; j < kWarpColumns; ++j) {
        wmma::store_matrix_sync(to, sums_[i][j], kSumStride, wmma::mem_row_major);
        __syncwarp();
        f(i, j);
        __syncwarp();
      }
    }
  }

 private:
  using Type = typename Operand<scalar_t>::type;
  using Stored = typename Operand<scalar_t>::stored;
  static constexpr int kStride = kRowBytes / sizeof(scalar_t);
  static constexpr int kDepth = kSliceChannels<scalar_t>;
  using Left =
      wmma::fragment<wmma::matrix_a, kSide, kSide, kDepth, Type, wmma::row_major>;
  using Right =
      wmma::fragment<wmma::matrix_b, kSide, kSide, kDepth, Type, wmma::col_major>;
  using Sums = wmma::fragment<wmma::accumulator, kSide, kSide, kDepth, float>;

  template <int kRows>
  static __device__ const Stored* row_of(const Slice<scalar_t, kRows>& slice, int row) {
    return reinterpret_cast<const Stored*>(slice.value) + row * kStride;
  }

  Sums sums_[kWarpRows][kWarpColumns];
};

// The same by multiply-adds, of float. A thread has every eighth pixel from its own on,
// and every fourth output.
template <typename T>
class MultiplyAdds {
 public:
  using scalar_t = T;
  static __device__ float rounded(float value) { return value; }

  __device__ void add(const Slice<float, kTilePixels>& warped,
                      const Slice<float, kTileOutputs>& weight) {
    const float* const left = warped.value + (warp_line() * kSide + row()) * kStride;
    const float* const right = weight.value + (warp_column() + column()) * kStride;
#pragma unroll
    for (int part = 0; part < kSliceChannels<float>; part += kVector) {
      Values of_pixel[kPixels];
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        of_pixel[i] = at(left + i * kRowsOfLanes * kStride + part);
      }
#pragma unroll
      for (int j = 0; j < kOutputs; ++j) {
        const Values of_output = at(right + j * kColumnsOfLanes * kStride + part);
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
#pragma unroll
          for (int n = 0; n < kVector; ++n) {
            sums_[i][j] += of_pixel[i].value[n] * of_output.value[n];
          }
        }
      }
    }
  }

  // As TensorCores::visit.
  template <typename F>
  __device__ void visit(float* to, const F& f) const {
    constexpr int kAcross = kSide / kColumnsOfLanes, kDown = kSide / kRowsOfLanes;
    // Half of the lanes take the other of two columns first: all have a bank then.
    const bool other = row() >= kRowsOfLanes / 2;
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i) {
#pragma unroll
      for (int j = 0; j < kWarpColumns; ++j) {
#pragma unroll
        for (int k = 0; k < kDown * kAcross; ++k) {
          const int down = k / kAcross, across = k % kAcross;
          const float* const line = sums_[i * kDown + down] + j * kAcross;
          const float value = other ? line[across ^ 1] : line[across];
          const int at_column = column() + (across ^ (other ? 1 : 0)) * kColumnsOfLanes;
          store_shared(to + (row() + down * kRowsOfLanes) * kSumStride + at_column,
                       value);
        }
        __syncwarp();
        f(i, j);
        __syncwarp();
      }
    }
  }

 private:
  static constexpr int kVector = 4, kStride = kRowBytes / sizeof(float);
  static constexpr int kRowsOfLanes = 8, kColumnsOfLanes = 4;
  static constexpr int kPixels = kWarpRows * kSide / kRowsOfLanes;
  static constexpr int kOutputs = kWarpColumns * kSide / kColumnsOfLanes;
  using Values = Vector<float, kVector>;

  static __device__ int row() { return threadIdx.x % kLanes / kColumnsOfLanes; }
  static __device__ int column() { return threadIdx.x % kColumnsOfLanes; }
  static __device__ Values at(const float* from) {
    return load_shared(reinterpret_cast<const Values*>(from));
  }

  float sums_[kPixels][kOutputs] = {};
};

// Whether the architecture can.
template <template <typename> typename Products, typename scalar_t>
constexpr bool kExists = true;
template <typename scalar_t>
constexpr bool kExists<TensorCores, scalar_t> = Operand<scalar_t>::kExists;

}  // namespace trajgru_ext::cuda
