#pragma once

// All that a .cu file needs of CUDA's host side: device guard, stream, launch; and of
// its device side, shared memory. tests/emulation/cuda/runtime.h takes its place where
// the kernels are executed on the host.

#include <c10/core/Device.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "cuda/grid.h"

// The dispatch key that the operators are registered for.
#define TRAJGRU_DEVICE_KEY CUDA

// Shared memory of a fixed count of elements, or of the size given to launch().
#define TRAJGRU_SHARED(type, name, count) __shared__ type name[count]
#define TRAJGRU_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char trajgru_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(trajgru_dynamic_shared)

namespace trajgru_ext::cuda {

// Eight warps: enough to hide latency at any register count that we accept, small
// enough for four or more blocks a multiprocessor.
constexpr unsigned kBlock = 256;

// flow_conv's chunk of warped values, which stays in the second-level cache (40 MB and
// more since compute capability 8.0) between the gather and the product.
constexpr int64_t kChunkBytes = int64_t(1) << 24;

// As trajgru_ext/info.py says it.
constexpr auto kNotBuiltForThis =
    "the kernels were not built for this GPU: build trajgru_ext again on this machine, "
    "or with its compute capability in TORCH_CUDA_ARCH_LIST";

using Stream = cudaStream_t;

using DeviceGuard = c10::cuda::CUDAGuard;

inline Stream current_stream() {
  return c10::cuda::getCurrentCUDAStream();
}

// The x-extent of a grid ends at 2^31 - 1.
inline unsigned grid_size(int64_t items) {
  return grid_size(items, kBlock, std::numeric_limits<int32_t>::max());
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream stream, Arguments&&... arguments) {
  kernel<<<grid, block, shared_bytes, stream>>>(Parameters(arguments)...);
  const cudaError_t error = cudaGetLastError();
  TORCH_CHECK(error != cudaErrorNoKernelImageForDevice, kNotBuiltForThis);
  C10_CUDA_CHECK(error);
}

}  // namespace trajgru_ext::cuda
