#include "cpu/flow_warp.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <tuple>

#include "operators/flow/flow_checks.h"
#include "cpu/images.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// The sums of a band of the input gradient stay in a core's second-level cache.
constexpr int64_t kBandBytes = 1 << 18;

Tensor flow_warp(const Tensor& input, const Tensor& flow, double flow_scale) {
  check_flow_warp(input, flow);
  const Tensor output = empty_image(input);
  if (output.numel() == 0) return output;
  const Tensor coordinates = flow.to(opmath_dtype(input));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, input.scalar_type(), "flow_warp", [&] {
        using coord_t = at::opmath_type<scalar_t>;
        Tensor storage;
        const FlowWarpForward<scalar_t> args{
            image_size(input), pixel_view<scalar_t>(input, storage),
            flow_view<const coord_t>(coordinates), static_cast<coord_t>(flow_scale),
            image_view<scalar_t>(output)};
        for_tiles(args.size, [&](int64_t begin, int64_t end) {
          flow_warp_kernels<scalar_t>(args.size.channels).forward(args, begin, end);
        });
      });
  return output;
}

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

std::tuple<Tensor, Tensor> flow_warp_backward(const Tensor& grad,
                                              const std::optional<Tensor>& input,
                                              const Tensor& flow, double flow_scale,
                                              bool input_grad, bool flow_grad) {
  check_flow_warp_backward(grad, input, flow, flow_grad);
  const at::ScalarType coord_dtype = opmath_dtype(grad);
  const Tensor grad_input =
      input_grad ? empty_image(grad) : at::empty({0}, grad.options());
  const Tensor grad_flow =
      flow_grad ? empty_image(flow, coord_dtype) : at::empty({0}, flow.options());
  if (grad.numel() == 0) grad_flow.zero_();
  if (grad.numel() == 0 || !(input_grad || flow_grad)) {
    return {grad_input, grad_flow.to(flow.scalar_type())};
  }
  const Tensor coordinates = flow.to(coord_dtype);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, grad.scalar_type(), "flow_warp_backward", [&] {
        using coord_t = at::opmath_type<scalar_t>;
        const auto& kernels = flow_warp_kernels<scalar_t>(grad.size(1));
        Tensor grad_storage, input_storage;
        FlowWarpBackward<scalar_t> args{};
        args.size = image_size(grad);
        args.grad = pixel_view<scalar_t>(grad, grad_storage);
        args.flow = flow_view<const coord_t>(coordinates);
        args.flow_scale = static_cast<coord_t>(flow_scale);
        if (input_grad) args.input_grad = image_view<scalar_t>(grad_input);
        if (flow_grad) {
          args.input = pixel_view<scalar_t>(*input, input_storage);
          args.flow_grad = flow_view<coord_t>(grad_flow);
        }
        const Tensor reach = at::empty({args.size.batch * args.size.tiles(), 2},
                                       grad.options().dtype(at::kLong).memory_format(
                                           at::MemoryFormat::Contiguous));
        static_assert(sizeof(Reach) == 2 * sizeof(int64_t));
        args.reach = reinterpret_cast<Reach*>(reach.mutable_data_ptr<int64_t>());
        for_tiles(args.size,
                  [&](int64_t begin, int64_t end) { kernels.reach(args, begin, end); });
        set_bands(args);
        const int64_t sums_size =
            input_grad && args.needs_sums() ? args.band_pixels * args.size.channels : 0;
        const int64_t grain =
            divide_up(kGrainValues, args.band_pixels * args.size.channels);
        at::parallel_for(0, args.size.batch * args.bands, grain,
                         [&](int64_t begin, int64_t end) {
                           std::unique_ptr<coord_t[]> sums(new coord_t[sums_size]);
                           kernels.backward(args, begin, end, sums.get());
                         });
      });
  return {grad_input, grad_flow.to(flow.scalar_type())};
}

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("flow_warp", &flow_warp);
  m.impl("flow_warp_backward", &flow_warp_backward);
}

}  // namespace
}  // namespace trajgru_ext
