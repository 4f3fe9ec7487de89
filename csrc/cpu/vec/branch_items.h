#pragma once

// An item of the loops over branches, as cpu/branch_kernels.h numbers them: where it
// begins in each image.

#include "cpu/vec/simd_rows.h"
#include "math/branches.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// One item. channel: 0 in channels last, where an item has all channels.
struct Item {
  int64_t sample, channel, number, pixel, length;

  Item(const BranchSize& size, int64_t item) {
    const int64_t chunks = size.chunks(), row = item / chunks;
    number = item - row * chunks;
    sample = size.planes ? row / size.channels : row;
    channel = size.planes ? row - sample * size.channels : 0;
    pixel = number * size.chunk;
    length = size.length(number);
  }
};

// Pointers into some images that move from pixel to pixel, since computing an address
// anew would cost as much as what is done with the element.
template <typename T, int kMost>
struct Cursors {
  T* at[kMost];
  int64_t pixel[kMost];
  int count = 0;

  void add(const BranchView<T>& view, const Item& item, int64_t channel) {
    at[count] = view.at(item.sample, channel, item.pixel);
    pixel[count++] = view.pixel;
  }

  void next(int64_t pixels = 1) {
    for (int i = 0; i < count; ++i) at[i] += pixels * pixel[i];
  }
};

template <typename T>
using Cursor = Cursors<T, 1>;

template <typename scalar_t>
Cursors<const scalar_t, kMostBranches> cursors(const BranchView<const scalar_t>* views,
                                               int count, const Item& item) {
  Cursors<const scalar_t, kMostBranches> all;
  for (int m = 0; m < count; ++m) all.add(views[m], item, item.channel);
  return all;
}

// f(offset from the cursors, block) for all elements of the item, in memory order.
template <typename V, typename F, typename... C>
[[gnu::always_inline]] inline void for_item(const BranchSize& size, const Item& item,
                                            const F& f, C&... cursors) {
  const int64_t rows = size.planes ? 1 : item.length;
  const int64_t length = size.planes ? item.length : size.channels;
  for (int64_t p = 0; p < rows; ++p) {
    for_blocks<V>(length, f);
    (cursors.next(), ...);
  }
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
