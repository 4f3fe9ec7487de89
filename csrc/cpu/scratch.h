#pragma once

// Memory for what an operator needs while it runs, kept by each thread from call to
// call: memory that is allocated for every call may come as untouched pages again and
// again, and lies between what lives longer.

#include <c10/core/CPUAllocator.h>

#include <cstdint>

namespace trajgru_ext {

// So many floats, uninitialised, while it lives. A thread may have one of each User at
// a time.
template <typename User>
class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    constexpr size_t kMostKept = 32 << 20;
    static thread_local c10::DataPtr kept;
    static thread_local size_t kept_bytes = 0;
    const size_t bytes = floats * sizeof(float);
    if (bytes > kMostKept) {
      own_ = c10::GetCPUAllocator()->allocate(bytes);
    } else if (bytes > kept_bytes) {
      kept.clear();  // first, so that both are never there at once
      kept_bytes = 0;
      kept = c10::GetCPUAllocator()->allocate(bytes);
      kept_bytes = bytes;
    }
    data_ = static_cast<float*>((own_ ? own_ : kept).get());
  }

  float* data() const { return data_; }

 private:
  c10::DataPtr own_;
  float* data_;
};

}  // namespace trajgru_ext
