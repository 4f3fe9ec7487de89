#include "cpu/flow_conv.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cpu/images.h"
#include "cpu/parallel.h"
#include "cpu/product.h"
#include "operators/flow/flow_conv.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// Pixels of one product: few enough for the buffer of warped values to stay near the
// core, more in the backward pass, where the products sum over them and each reads and
// writes the whole gradient to the weights.
constexpr int64_t kRows = 128, kBackRows = 256;

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

// A matrix packed for products, by all threads.
template <typename T>
Tensor packed(const Matrix<T>& matrix, const at::TensorOptions& options) {
  const auto& products = product_kernels<T>(matrix.columns);
  const int64_t panels = products.panels(matrix.columns);
  const Tensor panel = at::empty({panels, matrix.depth, products.panel}, options);
  T* data = panel.mutable_data_ptr<T>();
  const int64_t values = std::max<int64_t>(matrix.depth * products.panel, 1);
  at::parallel_for(
      0, panels, divide_up(kGrainValues, values),
      [&](int64_t begin, int64_t end) { products.pack(matrix, begin, end, data); });
  return panel;
}

template <typename scalar_t>
void flow_conv_tiles(const FlowConv<scalar_t>& args, const Tensor& kernel,
                     const Tensor& offset, const Tensor& output) {
  using coord_t = at::opmath_type<scalar_t>;
  const int64_t outputs = kernel.size(0), depth = kernel.size(1);
  const int64_t pixels = args.size.pixels(), tiles = divide_up(pixels, kRows);
  const auto& kernels = flow_conv_kernels<scalar_t>(args.size.channels);
  const auto& products = product_kernels<coord_t>(outputs);
  const Tensor right = packed<coord_t>(
      {kernel.const_data_ptr<coord_t>(), depth, outputs, 1, depth}, kernel.options());
  const ImageView<scalar_t> out = image_view<scalar_t>(output);
  const bool in_place = out.channel == 1 && std::is_same_v<scalar_t, coord_t>;
  for_items(args.size.batch * tiles, [&](int64_t begin, int64_t end) {
    const int64_t row = apart<coord_t>(depth);
    const Tensor warped = at::empty({kRows, row}, kernel.options());
    const Tensor result =
        in_place ? Tensor() : at::empty({kRows, outputs}, kernel.options());
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sample = item / tiles, first = item % tiles * kRows;
      const int64_t rows = std::min(kRows, pixels - first);
      const Block block{sample, first, first + rows, 0, args.size.channels};
      kernels.gather(args, block, warped.mutable_data_ptr<coord_t>(), row,
                     block.channels);
      scalar_t* to = out.data + sample * out.batch + first * out.pixel;
      coord_t* sums;
      if constexpr (std::is_same_v<scalar_t, coord_t>) sums = to;
      if (!in_place) sums = result.mutable_data_ptr<coord_t>();
      products.multiply({rows, depth, outputs, warped.const_data_ptr<coord_t>(), row,
                         right.const_data_ptr<coord_t>(), sums, outputs,
                         offset.const_data_ptr<coord_t>()});
      if (out.channel > 1) {
        kernels.transpose(sums, rows, outputs, to, out.channel);
      } else if (!in_place) {
        std::copy_n(sums, rows * outputs, to);
      }
    }
  });
}

Tensor flow_conv(const Tensor& input, const Tensor& flows, const Tensor& weight,
                 const OptionalTensor& bias, double flow_scale) {
  check_flow_conv(input, flows, weight, bias);
  const PlainDispatch plain;
  const Tensor output = empty_conv_output(input, weight.size(0));
  if (output.numel() == 0) return output;
  const at::ScalarType sums = opmath_dtype(input);
  const Tensor coordinates = flows.to(sums);
  const Tensor kernel = weight.to(sums).contiguous();
  const Tensor offset = bias.has_value()
                            ? bias->to(sums).contiguous()
                            : at::zeros({weight.size(0)}, kernel.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, input.scalar_type(), "flow_conv", [&] {
        Tensor storage;
        const auto args =
            flow_conv_args<scalar_t>(input, coordinates, flow_scale, storage);
        flow_conv_tiles(args, kernel, offset, output);
      });
  return output;
}

// One thread's share of the backward pass: some samples, some channels of the input.
struct Share {
  int64_t first_sample, last_sample, channel, channels;
  Tensor weight;       // [O, links * channels], packed, or undefined
  Tensor weight_grad;  // [O, links * channels], or undefined
  Tensor flows_grad;   // [B, 2 * links, H, W]: these channels' part, or undefined
};

// The warped values of a block, packed for a product that sums over its pixels; in
// place where panels hold channels of one link. warped: room for them.
template <typename scalar_t, typename coord_t = at::opmath_type<scalar_t>>
void gather_packed(const FlowConv<scalar_t>& args, const Block& block, coord_t* warped,
                   coord_t* packed) {
  const int64_t rows = block.end - block.begin, columns = args.links * block.channels;
  const auto& kernels = flow_conv_kernels<scalar_t>(block.channels);
  const auto& products = product_kernels<coord_t>(columns);
  const int64_t panel = products.panel;
  if (block.channels % panel != 0) {
    kernels.gather(args, block, warped, columns, block.channels);
    return products.pack({warped, rows, columns, columns, 1}, 0,
                         products.panels(columns), packed);
  }
  for (int64_t first = 0; first < block.channels; first += panel) {
    const Block part{block.sample, block.begin, block.end, block.channel + first,
                     panel};
    kernels.gather(args, part, packed + first * rows, panel, block.channels * rows);
  }
}

// grad: [B, pixels, O]; input_grad: [B, pixels, C], or undefined; all of opmath type.
template <typename scalar_t>
void backward_share(const FlowConv<scalar_t>& args, const Share& share,
                    const Tensor& grad, const Tensor& input_grad) {
  using coord_t = at::opmath_type<scalar_t>;
  const auto& kernels = flow_conv_kernels<scalar_t>(share.channels);
  const int64_t pixels = args.size.pixels(), outputs = grad.size(2);
  const int64_t columns = args.links * share.channels;
  const auto& products = product_kernels<coord_t>(columns);
  const bool to_input = input_grad.defined(), to_flows = share.flows_grad.defined();
  const bool to_weight = share.weight_grad.defined();
  const Tensor buffer = at::empty({kBackRows, columns}, grad.options());
  const Tensor panels =
      at::empty({to_weight ? products.panels(columns) * products.panel : 0, kBackRows},
                grad.options());
  const Tensor zeros = at::zeros({columns}, grad.options());
  coord_t* warped = buffer.mutable_data_ptr<coord_t>();
  FlowView<coord_t> flows_grad{};
  if (to_flows) flows_grad = flow_view<coord_t>(share.flows_grad);
  bool begun = false;
  for (int64_t sample = share.first_sample; sample < share.last_sample; ++sample) {
    Tensor sums;
    if (to_input) {
      sums = input_grad.select(0, sample).narrow(1, share.channel, share.channels);
      sums.zero_();
    }
    for (int64_t first = 0; first < pixels; first += kBackRows) {
      const int64_t rows = std::min(kBackRows, pixels - first);
      const Block block{sample, first, first + rows, share.channel, share.channels};
      const coord_t* tile_grad =
          grad.const_data_ptr<coord_t>() + (sample * pixels + first) * outputs;
      if (to_weight) {
        coord_t* right = panels.mutable_data_ptr<coord_t>();
        gather_packed(args, block, warped, right);
        products.multiply_transposed(
            {outputs, rows, columns, tile_grad, outputs, right,
             share.weight_grad.mutable_data_ptr<coord_t>(), columns,
             begun ? nullptr : zeros.const_data_ptr<coord_t>()});
        begun = true;
      }
      if (to_input || to_flows) {
        products.multiply({rows, outputs, columns, tile_grad, outputs,
                           share.weight.const_data_ptr<coord_t>(), warped, columns,
                           zeros.const_data_ptr<coord_t>()});
        kernels.scatter(args, block, warped,
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
  check_flow_conv_backward("flow_conv_backward", grad, input, flows, weight);
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
  std::vector<Tensor> block_weight(blocks);
  AT_DISPATCH_FLOATING_TYPES(sums, "flow_conv_backward", [&] {
    if (!input_grad && !flows_grad) return;  // the gradient to the weights needs none
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t some = std::min(most, channels - block * most);
      const Tensor part = matrix.narrow(2, block * most, some).contiguous();
      const int64_t columns = links * some;
      block_weight[block] = packed<scalar_t>(
          {part.const_data_ptr<scalar_t>(), outputs, columns, columns, 1}, options);
    }
  });
  std::vector<Share> shares;
  for (int64_t part = 0; part < parts; ++part) {
    for (int64_t block = 0; block < blocks; ++block) {
      Share share;
      share.first_sample = part * batch / parts;
      share.last_sample = (part + 1) * batch / parts;
      share.channel = block * most;
      share.channels = std::min(most, channels - share.channel);
      share.weight = block_weight[block];
      if (weight_grad) {
        share.weight_grad = at::empty({outputs, links * share.channels}, options);
        if (pixels == 0) share.weight_grad.zero_();
      }
      if (flows_grad) share.flows_grad = block_flows_grad[block];
      shares.push_back(share);
    }
  }

  Tensor to_bias = empty_result(weight);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, input.scalar_type(), "flow_conv_backward", [&] {
        Tensor storage;
        const auto args =
            flow_conv_args<scalar_t>(input, coordinates, flow_scale, storage);
        const Tensor grad_rows = pixel_rows<scalar_t>(grad).to(sums).contiguous();
        for_items(shares.size(), [&](int64_t begin, int64_t end) {
          for (int64_t n = begin; n < end; ++n) {
            backward_share<scalar_t>(args, shares[n], grad_rows, input_rows);
          }
        });
        if (bias_grad) to_bias = sum_pixels(grad_rows).to(weight.scalar_type());
      });

  Tensor to_input = empty_result(input);
  Tensor to_flows = empty_result(flows);
  Tensor to_weight = empty_result(weight);
  if (input_grad) {
    const Tensor image =
        input_rows.view({batch, input.size(2), input.size(3), channels});
    to_input = in_form_of(empty_image(input), image.permute({0, 3, 1, 2}), copy_on_cpu);
  }
  if (flows_grad) {
    Tensor sum = blocks > 0 ? block_flows_grad[0] : empty_image(flows, sums).zero_();
    for (int64_t block = 1; block < blocks; ++block) sum.add_(block_flows_grad[block]);
    to_flows = sum.to(flows.scalar_type());
  }
  if (weight_grad) {
    const Tensor sum = at::empty({outputs, links, channels}, options);
    if (parts == 0) sum.zero_();
    for (const Share& share : shares) {
      const Tensor part = share.weight_grad.view({outputs, links, share.channels});
      const Tensor whole = sum.narrow(2, share.channel, share.channels);
      share.first_sample == 0 ? whole.copy_(part) : whole.add_(part);
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
