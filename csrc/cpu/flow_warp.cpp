#include "cpu/flow_warp.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <memory>

#include "cpu/images.h"
#include "operators/flow/flow_warp.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// The sums of a band of the input gradient stay in a core's second-level cache.
constexpr int64_t kBandBytes = 1 << 18;

// Cuts the input into bands: as large as the cache allows, and enough of them for a few
// rounds of work per thread. Where the flow points everywhere, so that each band would
// have to look at most tiles, one for each thread.
template <typename scalar_t>
void set_bands(FlowWarpBackward<scalar_t>& args) {
  const ImageSize& size = args.size;
  const int64_t pixel_bytes =
      size.channels * static_cast<int64_t>(sizeof(at::opmath_type<scalar_t>));
  const int64_t threads = at::get_num_threads();
  const auto fair = [&](int64_t bands) {
    return std::max(kTilePixels, divide_up(size.batch * size.pixels(), bands));
  };
  args.band_pixels =
      std::min(fair(4 * threads), std::max(kTilePixels, kBandBytes / pixel_bytes));
  int64_t visits = 0;
  for (int64_t tile = 0; tile < size.batch * size.tiles(); ++tile) {
    const Reach& reach = args.reach[tile];
    if (reach.begin < reach.end) {
      visits += (reach.end - 1) / args.band_pixels - reach.begin / args.band_pixels + 1;
    }
  }
  constexpr int64_t kManyVisits = 4;  // of a tile: an ordinary flow has one to three
  if (visits > kManyVisits * size.batch * size.tiles()) {
    args.band_pixels = std::max(args.band_pixels, fair(threads));
  }
  args.bands = divide_up(size.pixels(), args.band_pixels);
}

struct CpuFlowWarp {
  // There is one CPU.
  struct Guard {
    explicit Guard(const at::Device&) {}
    ~Guard() {}
  };

  static void forward(const Tensor& input, const Tensor& flow, double flow_scale,
                      Padding padding, const Tensor& output) {
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kBFloat16, at::kHalf, input.scalar_type(), "flow_warp", [&] {
          using coord_t = at::opmath_type<scalar_t>;
          Tensor storage;
          const FlowWarpForward<scalar_t> args{image_size(input),
                                               pixel_view<scalar_t>(input, storage),
                                               flow_view<const coord_t>(flow),
                                               static_cast<coord_t>(flow_scale),
                                               padding,
                                               image_view<scalar_t>(output)};
          for_tiles(args.size, [&](int64_t begin, int64_t end) {
            flow_warp_kernels<scalar_t>(args.size.channels).forward(args, begin, end);
          });
        });
  }

  static Tensor empty_input_grad(const char*, const Tensor& input) {
    return empty_image(input);  // each band's sums are formed elsewhere
  }

  static void backward(const FlowWarpGrads& to) {
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kBFloat16, at::kHalf, to.grad_output.scalar_type(), "flow_warp_backward",
        [&] {
          using coord_t = at::opmath_type<scalar_t>;
          Tensor grad_storage, input_storage;
          FlowWarpBackward<scalar_t> args{};
          args.size = image_size(to.grad_output);
          args.grad = pixel_view<scalar_t>(to.grad_output, grad_storage);
          args.flow = flow_view<const coord_t>(to.flow);
          args.flow_scale = static_cast<coord_t>(to.flow_scale);
          args.padding = to.padding;
          if (to.input_grad.defined()) {
            args.input_grad = image_view<scalar_t>(to.input_grad);
          }
          if (to.flow_grad.defined()) {
            args.input = pixel_view<scalar_t>(to.input, input_storage);
            args.flow_grad = flow_view<coord_t>(to.flow_grad);
          }
          run(args);
        });
  }

 private:
  template <typename scalar_t>
  static void run(FlowWarpBackward<scalar_t>& args) {
    using coord_t = at::opmath_type<scalar_t>;
    const auto& kernels = flow_warp_kernels<scalar_t>(args.size.channels);
    const auto reach = std::make_unique<Reach[]>(args.size.batch * args.size.tiles());
    args.reach = reach.get();
    for_tiles(args.size,
              [&](int64_t begin, int64_t end) { kernels.reach(args, begin, end); });
    set_bands(args);
    const int64_t band_values = args.band_pixels * args.size.channels;
    const bool needs_sums = args.input_grad.data != nullptr && args.needs_sums();
    at::parallel_for(
        0, args.size.batch * args.bands, divide_up(kGrainValues, band_values),
        [&](int64_t begin, int64_t end) {
          std::unique_ptr<coord_t[]> sums(new coord_t[needs_sums ? band_values : 0]);
          kernels.backward(args, begin, end, sums.get());
        });
  }
};

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  FlowWarpOperators<CpuFlowWarp>::implement(m);
}

}  // namespace
}  // namespace trajgru_ext
