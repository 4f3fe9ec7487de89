// Products by the tensor cores' fragments, with faults that can be planted
// (-DPLANT_...=1): what mma.h stands in for, nvcc compiles too.

#include <mma.h>

#include <cuda/runtime.h>

#ifndef PLANT_MISSING_BARRIER
#define PLANT_MISSING_BARRIER 0
#endif
#ifndef PLANT_MISALIGNED
#define PLANT_MISALIGNED 0
#endif
#ifndef PLANT_MUCH_SHARED_MEMORY
#define PLANT_MUCH_SHARED_MEMORY 0
#endif

namespace wmma = nvcuda::wmma;

constexpr int kSide = 16;
constexpr int kStride = 24;  // of a row in shared memory

template <typename stored>
struct alignas(32) Tile {
  stored value[kSide * kStride];
};

// Sums [16, 16] of each of two warps: a [16, depth] times the transpose of b [16,
// depth], of which each warp brings one to shared memory.
template <typename T, int kDepth, typename stored>
__device__ void multiply(const stored* a, const stored* b, float* sums,
                         Tile<stored>* tiles) {
  const unsigned warp = threadIdx.x / 32;
  for (int n = threadIdx.x % 32; n < kSide * kDepth; n += 32) {
    tiles[warp].value[n / kDepth * kStride + n % kDepth] = (warp == 0 ? a : b)[n];
  }
  if (!PLANT_MISSING_BARRIER) __syncthreads();
  wmma::fragment<wmma::matrix_a, kSide, kSide, kDepth, T, wmma::row_major> left;
  wmma::fragment<wmma::matrix_b, kSide, kSide, kDepth, T, wmma::col_major> right;
  wmma::fragment<wmma::accumulator, kSide, kSide, kDepth, float> sum;
  wmma::load_matrix_sync(left, tiles[0].value + PLANT_MISALIGNED, kStride);
  wmma::load_matrix_sync(right, tiles[1].value, kStride);
  wmma::fill_fragment(sum, 1.0f);
  wmma::mma_sync(sum, left, right, sum);
  wmma::store_matrix_sync(sums + warp * kSide * kSide, sum, kSide, wmma::mem_row_major);
}

__global__ void half_product(const __half* a, const __half* b, float* sums) {
  TRAJGRU_SHARED(Tile<__half>, tiles, PLANT_MUCH_SHARED_MEMORY ? 65 : 2);
  multiply<__half, 16>(a, b, sums, tiles);
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
__global__ void bfloat16_product(const __nv_bfloat16* a, const __nv_bfloat16* b,
                                 float* sums) {
  TRAJGRU_SHARED(Tile<__nv_bfloat16>, tiles, 2);
  multiply<__nv_bfloat16, 16>(a, b, sums, tiles);
}

__global__ void tf32_product(const float* a, const float* b, float* sums) {
  TRAJGRU_SHARED(Tile<float>, tiles, 2);
  multiply<wmma::precision::tf32, 8>(a, b, sums, tiles);
}
#endif

#if !defined(__CUDACC__)

#include <algorithm>
#include <cmath>
#include <cstdio>

// What hardware makes of an operand: ten bits of a float.
float kept(float value) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & ~0x1fffu);
}

// The largest difference from sums in double, in roundings of what they sum up.
template <int kDepth, typename stored>
double error(void (*kernel)(const stored*, const stored*, float*)) {
  stored a[kSide * kDepth], b[kSide * kDepth];
  for (int n = 0; n < kSide * kDepth; ++n) {
    a[n] = static_cast<stored>(std::sin(1.0 + n));
    b[n] = static_cast<stored>(3 * std::cos(2.0 + 7 * n));
  }
  alignas(32) float sums[2 * kSide * kSide];
  trajgru_ext::cuda::launch(kernel, dim3(1), dim3(64), 0,
                            trajgru_ext::cuda::current_stream(), a, b, sums);
  double most = 0;
  for (int n = 0; n < 2 * kSide * kSide; ++n) {
    double exact = 1, size = 1;
    for (int k = 0; k < kDepth; ++k) {
      const double product =
          static_cast<double>(kept(a[n / kSide % kSide * kDepth + k])) *
          kept(b[n % kSide * kDepth + k]);
      exact += product;
      size += std::fabs(product);
    }
    const double off = std::fabs(sums[n] - exact) / size;
    if (std::isnan(off)) return off;
    most = std::max(most, off);
  }
  return most / std::numeric_limits<float>::epsilon();
}

int main() {
  try {
    std::printf("half %g bfloat16 %g tf32 %g rounded %.17g %.17g\n",
                error<16>(half_product), error<16>(bfloat16_product),
                error<8>(tf32_product), wmma::__float_to_tf32(1 + 0x1p-11f),
                wmma::__float_to_tf32(-1 + 0x1.8p-13f));
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 3;
  }
}

#endif
