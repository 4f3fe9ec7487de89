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

#include "cuda/chunk_rows.h"
#include "cuda/grid.h"

// The dispatch key that the operators are registered for.
#define TRAJGRU_DEVICE_KEY CUDA

// Shared memory of a fixed count of elements, or of the size given to launch().
#define TRAJGRU_SHARED(type, name, count) __shared__ type name[count]
#define TRAJGRU_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char trajgru_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(trajgru_dynamic_shared)

// For the emulation to see which banks are used, where a kernel takes care of them.
template <typename T>
__device__ __forceinline__ T load_shared(const T* from) {
  return *from;
}
template <typename T>
__device__ __forceinline__ void store_shared(T* to, const T& value) {
  *to = value;
}

namespace trajgru_ext::cuda {

// Eight warps: enough to hide latency at any register count that we accept, small
// enough for four or more blocks a multiprocessor.
constexpr unsigned kBlock = 256;

// Memory for what is computed of a sequence at once: all steps of most, a small part of
// any GPU's.
constexpr double kSequenceBytes = 256 << 20;

// Of the current device. cuBLAS multiplies in tiles of 128 by 128, or near it.
inline ChunkLimits chunk_limits() {
  int device = 0, cache = 0, multiprocessors = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device));
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  return {cache, multiprocessors, 128};
}

// Of the current device: 90 is 9.0.
inline int compute_capability() {
  int device = 0, major = 0, minor = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return 10 * major + minor;
}

// As trajgru_ext/info.py says it.
constexpr auto kNotBuiltForThis =
    "the kernels were not built for this GPU: build trajgru_ext again on this machine, "
    "or with its compute capability in TORCH_CUDA_ARCH_LIST";

inline void check_built(cudaError_t error) {
  if (error == cudaErrorNoKernelImageForDevice) {
    (void)cudaGetLastError();  // else the next launch of anybody's would report it
    TORCH_CHECK(false, kNotBuiltForThis);
  }
  C10_CUDA_CHECK(error);
}

// That a kernel's code was compiled for, on the current device: less than the device's
// own where it is made of an older one's PTX.
template <typename... Parameters>
int code_capability(void (*kernel)(Parameters...)) {
  cudaFuncAttributes code;
  check_built(cudaFuncGetAttributes(&code, kernel));
  return code.ptxVersion;
}

using Stream = cudaStream_t;

using DeviceGuard = c10::cuda::CUDAGuard;

inline Stream current_stream() {
  return c10::cuda::getCurrentCUDAStream();
}

// Warps that are sorted at a time (ordered_sums.h): 92 MB, with 44 bytes for each.
constexpr int64_t kListedWarps = int64_t(1) << 21;

// The x-extent of a grid ends at 2^31 - 1.
inline unsigned grid_size(int64_t items) {
  return grid_size(items, kBlock, std::numeric_limits<int32_t>::max());
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream stream, Arguments&&... arguments) {
  kernel<<<grid, block, shared_bytes, stream>>>(Parameters(arguments)...);
  check_built(cudaGetLastError());
}

}  // namespace trajgru_ext::cuda
