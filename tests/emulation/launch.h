#pragma once

// How a kernel comes to its executor: at once, or by the device's queues.

#include <stdexcept>
#include <vector>

#include "executor.h"
#include "pointers.h"

namespace emulation {

struct Stream {
  int device = 0;
  int64_t id = 0;
};

// The device that kernels run on (device/), which queues them; without one, in a
// program of its own, they run at once, on any memory.
struct DeviceHost {
  Stream (*current_stream)() = nullptr;
  // The pointers among its arguments say what memory the kernel uses.
  void (*submit)(Stream, const std::vector<Pointer>& pointers, Body kernel) = nullptr;
};

inline DeviceHost device;

// Of every compute capability since 7.5 (CUDA C++ Programming Guide).
inline void check_launch(dim3 grid, dim3 block, size_t shared_bytes) {
  const auto within = [](dim3 size, unsigned x, unsigned y, unsigned z) {
    return size.x - 1 < x && size.y - 1 < y && size.z - 1 < z;
  };
  const bool fits =
      within(grid, 0x7fffffff, 65535, 65535) && within(block, 1024, 1024, 64) &&
      uint64_t(block.x) * block.y * block.z <= 1024 && shared_bytes <= kSharedBytes;
  if (!fits) throw std::invalid_argument("emulation: a launch beyond the limits");
  if (block.x * block.y * block.z % kWarp != 0) {
    throw std::invalid_argument("emulation: block size is no multiple of a warp's");
  }
}

inline void submit(Stream stream, const std::vector<Pointer>& pointers, dim3 grid,
                   dim3 block, size_t shared_bytes, const Body& thread) {
  check_launch(grid, block, shared_bytes);
  const Body kernel = [=] { execute(grid, block, shared_bytes, thread); };
  if (device.submit == nullptr) {
    kernel();
  } else if (executor() != "none") {
    device.submit(stream, pointers, kernel);
  }
}

}  // namespace emulation
