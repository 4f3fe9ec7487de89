// The index functions of the kernels, called with sizes past 2^31 and 2^32; prints what
// is wrong, and how many places were asked for.

#include <cstdio>

#include "cuda/branch_kernels.cuh"
#include "cuda/grid.h"
#include "cuda/warp_pixel.cuh"
#include "math/gate_rows.h"
#include "math/spatial_pyramid_pool.h"

namespace {

using namespace trajgru_ext;

int faults = 0, places = 0;

void expect(const char* what, int64_t got, int64_t wanted) {
  ++places;
  if (got == wanted) return;
  ++faults;
  std::printf("%s: %lld, not %lld\n", what, static_cast<long long>(got),
              static_cast<long long>(wanted));
}

void site(int64_t b, int64_t i, int64_t j, int64_t height, int64_t width) {
  const cuda::ImageSize<int64_t> size{b + 1, 7, height, width};
  const cuda::Site<int64_t> at((b * height + i) * width + j, 0, size);
  expect("Site.sample", at.sample, b);
  expect("Site.row", at.row, i);
  expect("Site.col", at.col, j);
  const cuda::ImageView<float, int64_t> view{nullptr, height * width * 7, 1, width * 7,
                                             7};
  expect("Site.offset", at.offset(view), ((b * height + i) * width + j) * 7);
}

void element(int64_t b, int64_t c, int64_t p, int64_t channels, int64_t pixels) {
  for (const bool planes : {false, true}) {
    const BranchSize size{b + 1, channels, pixels, 2, planes, 1024};
    const int64_t row = planes ? b * channels + c : b * pixels + p;
    const cuda::BranchElement at(size, planes ? row * pixels + p : row * channels + c);
    expect("BranchElement.sample", at.sample, b);
    expect("BranchElement.channel", at.channel, c);
    expect("BranchElement.pixel", at.pixel, p);
    const int64_t groups = cuda::BranchLane::groups(size), number = p / 1024;
    const int64_t group = planes ? c : c / cuda::kWarpThreads;
    const int64_t item = (b * groups + group) * size.chunks() + number;
    const cuda::BranchLane lane(size, item, planes ? 0 : c % cuda::kWarpThreads);
    expect("BranchLane.channel", lane.channel, c);
    expect("BranchLane.first", lane.first, number * 1024);
    const BranchView<char> view{nullptr, channels * pixels, planes ? pixels : 1,
                                planes ? 1 : channels};
    expect("BranchView.at", view.at(b, c, p) - view.data,
           b * channels * pixels + (planes ? c * pixels + p : p * channels + c));
  }
}

}  // namespace

int main() {
  constexpr int64_t k31 = int64_t(1) << 31, k33 = int64_t(1) << 33;
  site(0, 3, k31 + 5, 9, k31 + 9);
  site(2, k33 + 1, 11, k33 + 3, 13);
  site(k31 + 7, 1, 2, 3, 5);
  element(1, 3, k31 + 2, 5, k31 + 4);
  element(0, k31 + 9, 6, k31 + 11, 8);
  element(k33, 40, 1, 70, 2);

  Cell<double, int64_t> cell;
  const double far = static_cast<double>(k33) - 0.25;
  const FlowTarget target =
      locate(int64_t(1), int64_t(2), far, far, k33 + 9, k33 + 9, cell);
  expect("locate", target == FlowTarget::inside, 1);
  expect("Cell.row", cell.row, k33);
  expect("Cell.col", cell.col, k33 + 1);

  PyramidSize size{k31, 3, 4, 5, 2, true};
  expect("PyramidSize.place", size.place(k31 - 1, 2, 2, 3),
         ((k31 - 1) * 5 + 1) * 3 + 11);
  for (const int64_t bins : {4, 1000}) {
    const PyramidAxis axis(k31 - 1, bins);  // the most pixels that its image may have
    for (int64_t bin = 0; bin < bins; ++bin) {
      expect("PyramidAxis.bin", axis.bin(axis.begin(bin)), bin);
      expect("PyramidAxis.bin", axis.bin(axis.end(bin) - 1), bin);
    }
  }

  const GateView<char> gates{nullptr, 12 * k31, 4 * k31, k31};
  expect("GateView.at", gates.at(3, 2, 1, 9) - gates.data,
         3 * 12 * k31 + 2 * 4 * k31 + k31 + 9);
  // A block of 256 for each 256 items, as long as the hardware's grid has room.
  for (const int64_t items : {int64_t(1), int64_t(255), int64_t(256), int64_t(257)}) {
    expect("grid_size", cuda::grid_size(items, 256, k31 - 1), items > 256 ? 2 : 1);
  }
  expect("grid_size", cuda::grid_size(0, 256, k31 - 1), 1);
  expect("grid_size", cuda::grid_size(k31 + 1, 256, k31 - 1), k31 / 256 + 1);
  expect("grid_size", cuda::grid_size((k31 - 1) * 256, 256, k31 - 1), k31 - 1);
  expect("grid_size", cuda::grid_size(k31 * 512, 256, k31 - 1), k31 - 1);
  expect("grid_size", cuda::grid_size(INT64_MAX, 256, k31 - 1), k31 - 1);
  std::printf("%d places\n", places);
  return faults != 0;
}
