#include "cpu/flow_conv.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "checks.h"
#include "cpu/images.h"
#include "cpu/parallel.h"
#include "library.h"
#include "tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// Pixels of one product: enough rows for the matrix product's own blocking, few enough
// for the buffer of warped values to stay near the core.
constexpr int64_t kRows = 128;

// More where the weights, which every product reads, outweigh that buffer, and there
// are pixels enough for all threads.
constexpr int64_t kManyRows = 512, kManyWeights = 1 << 18;

int64_t rows_together(const Tensor& weight, int64_t pixels) {
  const bool many = weight.numel() >= kManyWeights && pixels >= 2 * kManyRows;
  return many ? kManyRows : kRows;
}

// Pixels of the products of the backward pass, which sum over them: each reads and
// writes the whole gradient to the weights.
constexpr int64_t kBackRows = 256;

// Channels of the input that a thread owns in the backward pass: whole cache lines,
// and wide products of links x channels columns; fewer where there is little to share.
constexpr int64_t kOwnedChannels = 32, kFewOwnedChannels = 16, kLittleToShare = 8;

// Parts that the weight gradient is summed up in, each over some of the samples.
constexpr int64_t kWeightParts = 4;

template <typename scalar_t>
FlowConv<scalar_t> flow_conv_args(const Tensor& input, const Tensor& flows,
                                  double flow_scale, Tensor& storage) {
  using coord_t = at::opmath_type<scalar_t>;
  return {image_size(input), flows.size(1) / 2, pixel_view<scalar_t>(input, storage),
          flow_view<const coord_t>(flows), static_cast<coord_t>(flow_scale)};
}

Tensor flow_conv(const Tensor& input, const Tensor& flows, const Tensor& weight,
                 const std::optional<Tensor>& bias, double flow_scale) {
  check_flow_conv(input, flows, weight, bias);
  const PlainDispatch plain;
  const Tensor output = empty_conv_output(input, weight.size(0));
  if (output.numel() == 0) return output;
  const at::ScalarType sums = opmath_dtype(input);
  const Tensor coordinates = flows.to(sums), kernel = weight.to(sums);
  const Tensor offset =
      bias.has_value() ? bias->to(sums) : at::zeros({weight.size(0)}, kernel.options());
  const int64_t pixels = input.size(2) * input.size(3);
  const int64_t most = rows_together(kernel, pixels), tiles = divide_up(pixels, most);
  const bool planes = output.is_contiguous();
  const bool narrow = output.scalar_type() != sums;
  // [B, O, pixels] whatever the format, so that a tile is a matrix in place.
  const Tensor columns =
      planes ? output.flatten(2)
             : output.permute({0, 2, 3, 1}).flatten(1, 2).transpose(1, 2);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, input.scalar_type(), "flow_conv", [&] {
        using coord_t = at::opmath_type<scalar_t>;
        Tensor storage;
        const auto args =
            flow_conv_args<scalar_t>(input, coordinates, flow_scale, storage);
        for_items(input.size(0) * tiles, [&](int64_t begin, int64_t end) {
          const Tensor buffer = at::empty({most, kernel.size(1)}, kernel.options());
          const Tensor result =
              narrow ? at::empty({most, kernel.size(0)}, kernel.options()) : Tensor();
          for (int64_t item = begin; item < end; ++item) {
            const int64_t sample = item / tiles, first = item % tiles * most;
            const int64_t rows = std::min(most, pixels - first);
            flow_conv_kernels<scalar_t>(args.size.channels)
                .gather(args, {sample, first, first + rows, 0, args.size.channels},
                        buffer.mutable_data_ptr<coord_t>());
            const Tensor warped = buffer.narrow(0, 0, rows);
            Tensor tile = columns.select(0, sample).narrow(1, first, rows).t();
            if (narrow) {
              Tensor wide = result.narrow(0, 0, rows);
              at::addmm_out(wide, offset, warped, kernel.t());
              tile.copy_(wide);
            } else {
              at::addmm_out(tile, offset, warped, kernel.t());
            }
          }
        });
      });
  return output;
}

// One thread's share of the backward pass: some samples, some channels of the input.
struct Share {
  int64_t first_sample, last_sample, channel, channels;
  Tensor weight;       // [O, links * channels]
  Tensor weight_grad;  // the same, or undefined
  Tensor flows_grad;   // [B, 2 * links, H, W]: these channels' part, or undefined
};

// grad: [B, pixels, O]; input_grad: [B, pixels, C], or undefined; all of opmath type.
template <typename scalar_t>
void backward_share(const FlowConv<scalar_t>& args, const Share& share,
                    const Tensor& grad, const Tensor& input_grad) {
  using coord_t = at::opmath_type<scalar_t>;
  const auto& kernels = flow_conv_kernels<scalar_t>(share.channels);
  const int64_t pixels = args.size.pixels();
  const bool to_input = input_grad.defined(), to_flows = share.flows_grad.defined();
  Tensor weight_grad = share.weight_grad;
  const Tensor warped =
      at::empty({kBackRows, args.links * share.channels}, share.weight.options());
  FlowView<coord_t> flows_grad{};
  if (to_flows) flows_grad = flow_view<coord_t>(share.flows_grad);
  for (int64_t sample = share.first_sample; sample < share.last_sample; ++sample) {
    Tensor sums;
    if (to_input) {
      sums = input_grad.select(0, sample).narrow(1, share.channel, share.channels);
      sums.zero_();
    }
    for (int64_t first = 0; first < pixels; first += kBackRows) {
      const int64_t rows = std::min(kBackRows, pixels - first);
      const Block block{sample, first, first + rows, share.channel, share.channels};
      const Tensor tile_grad = grad.select(0, sample).narrow(0, first, rows);
      Tensor tile = warped.narrow(0, 0, rows);
      if (weight_grad.defined()) {
        kernels.gather(args, block, tile.mutable_data_ptr<coord_t>());
        weight_grad.addmm_(tile_grad.t(), tile);
      }
      if (to_input || to_flows) {
        at::mm_out(tile, tile_grad, share.weight);
        kernels.scatter(args, block, tile.const_data_ptr<coord_t>(),
                        to_input ? sums.mutable_data_ptr<coord_t>() : nullptr,
                        to_input ? sums.stride(0) : 0, flows_grad);
      }
    }
  }
}

// The sum over all pixels, each sample by one thread and in one order.
Tensor sum_pixels(const Tensor& rows) {
  std::vector<Tensor> sums(rows.size(0));
  for_items(rows.size(0), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) sums[n] = rows.select(0, n).sum(0);
  });
  Tensor total = at::zeros({rows.size(2)}, rows.options());
  for (const Tensor& sum : sums) total.add_(sum);
  return total;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> flow_conv_backward(
    const Tensor& grad, const Tensor& input, const Tensor& flows, const Tensor& weight,
    double flow_scale, bool input_grad, bool flows_grad, bool weight_grad,
    bool bias_grad) {
  check_flow_conv_backward(grad, input, flows, weight);
  const PlainDispatch plain;
  const at::ScalarType sums = opmath_dtype(input);
  const Tensor coordinates = flows.to(sums), kernel = weight.to(sums);
  const auto options = kernel.options();
  const int64_t batch = input.size(0), channels = input.size(1);
  const int64_t pixels = input.size(2) * input.size(3), outputs = weight.size(0);
  const int64_t links = flows.size(1) / 2;
  // Chosen by the sizes alone, and added up in their order: the result does not depend
  // on the threads.
  const int64_t parts = std::min(batch, kWeightParts);
  const bool little = parts * divide_up(channels, kOwnedChannels) < kLittleToShare;
  const int64_t most = little ? kFewOwnedChannels : kOwnedChannels;
  const int64_t blocks = divide_up(channels, most);

  const Tensor input_rows =
      input_grad ? at::empty({batch, pixels, channels}, options) : Tensor();
  const Tensor matrix = kernel.reshape({outputs, links, channels});
  std::vector<Tensor> block_flows_grad(flows_grad ? blocks : 0);
  for (Tensor& one : block_flows_grad) one = empty_image(flows, sums);
  std::vector<Share> shares;
  for (int64_t part = 0; part < parts; ++part) {
    for (int64_t block = 0; block < blocks; ++block) {
      Share share;
      share.first_sample = part * batch / parts;
      share.last_sample = (part + 1) * batch / parts;
      share.channel = block * most;
      share.channels = std::min(most, channels - share.channel);
      const int64_t columns = links * share.channels;
      share.weight =
          matrix.narrow(2, share.channel, share.channels).reshape({outputs, columns});
      if (weight_grad) share.weight_grad = at::zeros({outputs, columns}, options);
      if (flows_grad) share.flows_grad = block_flows_grad[block];
      shares.push_back(share);
    }
  }

  Tensor to_bias = at::empty({0}, weight.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, input.scalar_type(), "flow_conv_backward", [&] {
        Tensor storage;
        const auto args =
            flow_conv_args<scalar_t>(input, coordinates, flow_scale, storage);
        const Tensor grad_rows = pixel_rows<scalar_t>(grad).to(sums);
        for_items(shares.size(), [&](int64_t begin, int64_t end) {
          for (int64_t n = begin; n < end; ++n) {
            backward_share<scalar_t>(args, shares[n], grad_rows, input_rows);
          }
        });
        if (bias_grad) to_bias = sum_pixels(grad_rows).to(weight.scalar_type());
      });

  Tensor to_input = at::empty({0}, input.options());
  Tensor to_flows = at::empty({0}, flows.options());
  Tensor to_weight = at::empty({0}, weight.options());
  if (input_grad) {
    const Tensor image =
        input_rows.view({batch, input.size(2), input.size(3), channels});
    to_input = in_form_of(empty_image(input), image.permute({0, 3, 1, 2}));
  }
  if (flows_grad) {
    Tensor sum = blocks > 0 ? block_flows_grad[0] : empty_image(flows, sums).zero_();
    for (int64_t block = 1; block < blocks; ++block) sum.add_(block_flows_grad[block]);
    to_flows = sum.to(flows.scalar_type());
  }
  if (weight_grad) {
    const Tensor sum = at::zeros({outputs, links, channels}, options);
    for (const Share& share : shares) {
      sum.narrow(2, share.channel, share.channels)
          .add_(share.weight_grad.view({outputs, links, share.channels}));
    }
    to_weight = sum.view({outputs, links * channels}).to(weight.scalar_type());
  }
  return {to_input, to_flows, to_weight, to_bias};
}

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("flow_conv", &flow_conv);
  m.impl("flow_conv_backward", &flow_conv_backward);
}

}  // namespace
}  // namespace trajgru_ext
