#pragma once

// Stands in for csrc/cuda/runtime.h where kernels are executed on the host: the parts
// of CUDA's language that they use, and the same host functions.

#include <c10/core/DeviceGuard.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <tuple>

#include "cuda/chunk_rows.h"
#include "cuda/grid.h"
#include "capability.h"
#include "launch.h"
#include "shared_memory.h"

// The key of a device that is not PyTorch's own (tests/emulation/device).
#define TRAJGRU_DEVICE_KEY PrivateUse1

#define __global__
#define __device__
#define __launch_bounds__(threads)

#define threadIdx (::emulation::self->thread)
#define blockIdx (::emulation::self->block)
#define blockDim (::emulation::self->block_dim)
#define gridDim (::emulation::self->grid_dim)

#define TRAJGRU_SHARED(type, name, count)                                        \
  static const char trajgru_key_##name = 0;                                      \
  type* name = reinterpret_cast<type*>(::emulation::self->shared->static_memory( \
      &trajgru_key_##name, sizeof(type) * (count)))
#define TRAJGRU_DYNAMIC_SHARED(type, name) \
  type* name = reinterpret_cast<type*>(::emulation::self->shared->dynamic_memory())

template <typename T>
T load_shared(const T* from) {
  emulation::note_shared(from, sizeof(T));
  return *from;
}

template <typename T>
void store_shared(T* to, const T& value) {
  emulation::note_shared(to, sizeof(T));
  *to = value;
}

inline void __syncthreads() {
  emulation::self->shared->sync_block();
}

inline void __syncwarp() {
  emulation::self->shared->sync_warp();
}

// Full masks only.
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  const unsigned lane = emulation::self->index % emulation::kWarp;
  return emulation::self->shared->exchange(value, lane ^ mask);
}

template <typename T>
T atomicAdd(T* address, T value) {
  return std::atomic_ref<T>(*address).fetch_add(value, std::memory_order_relaxed);
}

namespace trajgru_ext::cuda {

#if defined(TRAJGRU_TRACE)
// As on a GPU, since it is counted what a block reads.
constexpr unsigned kBlock = 256;
constexpr int64_t kMostBlocks = std::numeric_limits<int32_t>::max();
#else
// Small blocks and few of them, so that small tensors have several blocks, and their
// grid-stride loops go round.
constexpr unsigned kBlock = 64;
constexpr int64_t kMostBlocks = 5;
#endif
constexpr double kSequenceBytes = 96 << 10;
// So that small tensors have several chunks, too.
inline ChunkLimits chunk_limits() {
  return {3 << 14, 2, 8};
}

inline int compute_capability() {
  return emulation::capability();
}

template <typename... Parameters>
int code_capability(void (*)(Parameters...)) {
  return emulation::capability();
}

using Stream = emulation::Stream;

// So that small tensors are sorted in several pieces.
constexpr int64_t kListedWarps = 32;

using DeviceGuard = c10::DeviceGuard;

inline Stream current_stream() {
  return emulation::device.current_stream ? emulation::device.current_stream()
                                          : Stream();
}

inline unsigned grid_size(int64_t items) {
  const bool runs = emulation::executor() != "none";
  return grid_size(items, kBlock,
                   runs ? kMostBlocks : std::numeric_limits<int32_t>::max());
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream stream, Arguments&&... arguments) {
  // The kernel may run when the caller's arguments are gone.
  const std::tuple<Parameters...> values(arguments...);
  std::vector<emulation::Pointer> pointers;
  std::apply(
      [&](const auto&... each) { (emulation::append_pointers(pointers, each), ...); },
      values);
  emulation::submit(stream, pointers, grid, block, shared_bytes,
                    [kernel, values] { std::apply(kernel, values); });
}

}  // namespace trajgru_ext::cuda
