// Small kernels with faults that can be planted (-DPLANT_...=1), to show that the
// emulation's executors and the sanitizers catch them; without a plant all is right.

// In angle brackets: the real header when nvcc compiles, not the neighbour.
#include <cuda/runtime.h>

#ifndef PLANT_MISSING_BARRIER
#define PLANT_MISSING_BARRIER 0
#endif
#ifndef PLANT_PLAIN_ADDITION
#define PLANT_PLAIN_ADDITION 0
#endif
#ifndef PLANT_OUT_OF_BOUNDS
#define PLANT_OUT_OF_BOUNDS 0
#endif
#ifndef PLANT_DIVERGENCE
#define PLANT_DIVERGENCE 0
#endif
#ifndef PLANT_LARGE_BLOCK
#define PLANT_LARGE_BLOCK 0
#endif

// sum[0] += the sum of the values, by a tree in shared memory within each block.
__global__ void block_sum(const float* values, int count, float* sum) {
  TRAJGRU_SHARED(float, parts, 256);
  TRAJGRU_DYNAMIC_SHARED(float, copy);
  const int t = threadIdx.x;
  const int i = blockIdx.x * blockDim.x + t;
  parts[t] = i < count + PLANT_OUT_OF_BOUNDS ? values[i] : 0.0f;
  if (PLANT_DIVERGENCE && t == 7) return;
  if (!PLANT_MISSING_BARRIER) __syncthreads();
  copy[t] = parts[(t + 1) % blockDim.x];
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (t < half) copy[t] += copy[t + half];
    __syncthreads();
  }
  if (t == 0) {
#if PLANT_PLAIN_ADDITION
    *sum += copy[0];
#else
    atomicAdd(sum, copy[0]);
#endif
  }
}

#if !defined(__CUDACC__)

#include <cstdio>

int main() {
  constexpr int kCount = 150;
  float* values = new float[kCount];
  float sum = 0;
  for (int i = 0; i < kCount; ++i) values[i] = static_cast<float>(i);
  try {
    const unsigned block = PLANT_LARGE_BLOCK ? 1056 : 64;
    trajgru_ext::cuda::launch(block_sum, dim3(3), dim3(block), block * sizeof(float),
                              trajgru_ext::cuda::current_stream(), values, kCount,
                              &sum);
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 3;
  }
  delete[] values;
  std::printf("sum %g\n", sum);
  return sum == kCount * (kCount - 1) / 2 ? 0 : 4;
}

#endif
