#pragma once

#include <algorithm>
#include <mutex>
#include <numeric>
#include <random>
#include <vector>

namespace emulation {

// 0, 1, ..., or the same numbers in an order drawn at random.
inline std::vector<unsigned> order(unsigned count, bool shuffled) {
  static std::mutex mutex;
  static std::mt19937 generator;
  std::vector<unsigned> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (shuffled) {
    const std::lock_guard<std::mutex> lock(mutex);
    std::shuffle(numbers.begin(), numbers.end(), generator);
  }
  return numbers;
}

}  // namespace emulation
