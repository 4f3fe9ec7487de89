#pragma once

// Included before all else in a build under ThreadSanitizer: at::parallel_for starts a
// thread of the system for each part. The compiler's OpenMP runtime is not built for
// the sanitizer, which would report every region.

#include <ATen/Config.h>

#undef AT_PARALLEL_OPENMP
#undef AT_PARALLEL_NATIVE
#define AT_PARALLEL_OPENMP 0
#define AT_PARALLEL_NATIVE 1

#include <ATen/Parallel.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace at::internal {

[[gnu::weak]] void invoke_parallel(const int64_t begin, const int64_t end,
                                   const int64_t grain,
                                   const std::function<void(int64_t, int64_t)>& f) {
  const int count = get_num_threads();
  const int64_t part = std::max(grain, divup(end - begin, static_cast<int64_t>(count)));
  std::mutex mutex;
  std::exception_ptr failure;
  std::vector<std::thread> threads;
  for (int64_t first = begin; first < end; first += part) {
    threads.emplace_back([&, first] {
      set_num_threads(1);  // of the libraries that f calls
      try {
        f(first, std::min(end, first + part));
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        failure = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  set_num_threads(count);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace at::internal
